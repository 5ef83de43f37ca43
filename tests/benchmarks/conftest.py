import importlib.util
import sys
from pathlib import Path

# The benchmarks are scripts, not a package that is installed, and their folder may not be on the path: one of them is
# named like a package of the tests.
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "harness"
spec = importlib.util.spec_from_file_location(
    "harness", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
)
assert spec is not None
assert spec.loader is not None
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
