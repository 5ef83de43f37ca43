"""Clocks, memory, limits and exponents of the benchmarks."""

import os
import sys
import time
from pathlib import Path

import pytest
from harness import clock, growth, limits, memory
from harness.forms import Shape

SHAPE = Shape("logits", rows=64, entries=512, teachers=4)


def test_everybody_takes_a_turn_and_the_order_shifts() -> None:
    calls: list[str] = []
    work = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = clock.interleaved(work, repeats=3, before=lambda: calls.append("-"))
    assert "".join(calls) == "-a-b-c" + "-a-b-c" + "-b-c-a" + "-c-a-b"
    assert {name: len(found) for name, found in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_who_is_slow_takes_fewer_turns_and_the_others_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "PATIENCE", 0.02)
    work = {"slow": lambda: time.sleep(0.01), "fast": lambda: None, "ours": lambda: time.sleep(0.01)}
    samples = clock.interleaved(work, repeats=6, always=["ours"])
    assert {name: len(found) for name, found in samples.items()} == {"slow": clock.LEAST, "fast": 6, "ours": 6}


def test_wall_time_counts_sleep_and_processor_time_does_not() -> None:
    wall, processor = clock.once(lambda: time.sleep(0.05))
    assert wall >= 0.05
    assert processor < 0.04


def test_quartiles() -> None:
    assert clock.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert clock.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_the_busy_process_ends() -> None:
    with clock.competitor(True) as other:
        assert other is not None
        assert other.poll() is None
    assert other.returncode is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the system does not tell")
def test_the_peak_is_that_of_what_was_taken_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import torch; from harness import memory; print(memory.peak_above(lambda: torch.ones(2**24)))")
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PYTHONPATH", str(Path(memory.__file__).parent.parent))
    # Not in this process: it would take what other tests have freed.
    peak = memory.in_new_process([])
    assert peak is not None
    assert 60 < peak < 80


def test_limits_are_rates_and_the_better_one_is_kept() -> None:
    found = limits.measure(SHAPE, seconds=0.01)
    assert min(found.copy, found.exp, found.product) > 1e6
    assert limits.Limits(1, 5, 3).best(limits.Limits(2, 4, 3)) == limits.Limits(2, 5, 3)


def test_the_least_work_of_each_form() -> None:
    rates = limits.Limits(copy=1.0, exp=1.0, product=1.0)
    sizes = {"rows": 2, "entries": 3, "teachers": 4, "width": 5, "teacher_width": 7}
    found = {form: limits.least_seconds(Shape(form, **sizes), rates) for form in ("logits", "hidden", "topk", "stored")}
    assert found["logits"] == {"bytes": 6 * 6 * 4, "exp": 5 * 6, "products": 0}
    assert found["hidden"] == {"bytes": 0, "exp": 5 * 6, "products": 2 * 6 * (3 * 5 + 4 * 7)}
    assert found["topk"] == {"bytes": 2 * 6 * 4, "exp": 6, "products": 0}
    assert limits.least_seconds(Shape("logits", **sizes), rates, device="cuda")["two passes"] == 11 * 6 * 4
    assert limits.least_seconds(Shape("topk", **sizes), rates, device="cuda")["two passes"] == 3 * 6 * 4
    assert "two passes" not in limits.least_seconds(Shape("hidden", **sizes), rates, device="cuda")
    assert found["stored"] == {"bytes": 0, "exp": 6, "products": 2 * 6 * 3 * 5}


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert growth.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_work_is_linear_in_positions_and_entries() -> None:
    for axis in ("rows", "entries"):
        for form in ("logits", "hidden"):
            once = Shape(form, rows=8, entries=16, teachers=2)
            twice = Shape(form, **{"rows": 8, "entries": 16, "teachers": 2, axis: 2 * getattr(once, axis)})
            assert growth.work(twice) == 2 * growth.work(once)
