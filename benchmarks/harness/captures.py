"""The writer of DistillKit's documented layout; it lives with the tests, which hold reading against it."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
_writer = importlib.import_module("teachers.store.distillkit_writer")

BINNED, BUDGET, RECOMMENDED = _writer.BINNED, _writer.BUDGET, _writer.RECOMMENDED
write_capture = _writer.write_capture
