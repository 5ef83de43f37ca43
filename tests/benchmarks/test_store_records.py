"""What the documentation shows of stores is what the benchmarks wrote down, and they can fail."""

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness.render import replaced

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(benchmark: ModuleType) -> dict[str, Any]:
    return json.loads(benchmark.RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "mark"), [("capture", "capturing"), ("store", "reading")])
def test_the_page_shows_the_record(name: str, mark: str) -> None:
    benchmark = script(name)
    text = benchmark.PAGE.read_text(encoding="utf-8")
    assert replaced(text, mark, benchmark.block(recorded(benchmark))) == text


@pytest.mark.parametrize("name", ["capture", "store"])
def test_nothing_is_wrong_with_the_record(name: str) -> None:
    benchmark = script(name)
    assert benchmark.problems(recorded(benchmark)) == []


@pytest.mark.parametrize("name", ["capture", "store"])
def test_memory_that_grows_is_told(name: str) -> None:
    benchmark = script(name)
    record = recorded(benchmark)
    most = list(record["memory_mib"])[-1]
    record["memory_mib"][most] += benchmark.MOST_GROWTH + 50
    assert "memory grew" in benchmark.problems(record)[0]


def test_what_is_too_slow_is_told() -> None:
    capture, store = script("capture"), script("store")
    slow = copy.deepcopy(recorded(capture))
    slow["lines"][0]["share"][1] = 0.5
    assert "0.500 of the forward pass's pace" in capture.problems(slow)[0]
    slow = recorded(store)
    slow["lines"][0]["times"] = 3
    assert "slower than 20 times" in store.problems(slow)[0]
