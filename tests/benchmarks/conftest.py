import sys
from pathlib import Path

# The benchmarks are scripts, not a package that is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
