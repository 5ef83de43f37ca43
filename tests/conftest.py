"""What every test starts from: one thread, no network, and the golden values.

Shapes and types of every call into the package are enforced by ``enforce.py``, which the options in
``pyproject.toml`` put in place; ``test_house.py`` proves that it is on.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import pytest
import torch
from hypothesis import settings

# Read when the libraries are imported: nothing here may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

# Two OpenMP threads on a busy two-core machine spin against each other and are several times slower than one.
torch.set_num_threads(1)

# The same examples every time, however slow the machine: a failure must be there again when somebody looks at it.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")

GOLDENS = Path(__file__).parent / "goldens" / "values.json"


class Golden(TypedDict):
    """One figure computed in exact or high-precision arithmetic, independently of the package."""

    id: str
    name: str
    inputs: str
    expected: list[float] | list[list[float]]
    tol: float


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Return a look-up by id: ``golden("F14")["expected"]``, to be met within ``golden("F14")["tol"]``."""
    values: dict[str, Golden] = {value["id"]: value for value in json.loads(GOLDENS.read_text(encoding="utf-8"))}
    return values.__getitem__
