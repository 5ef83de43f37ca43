"""The page of measurements: its claims, its blocks, its plots."""

from pathlib import Path

import pytest
from harness import plan, render, tables
from harness.claims import CLAIMS, Claim
from harness.numbers import IN_PLACE, OfStep, Over, Peak, head_bytes, head_sum_bytes, worst_exponent

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def record(**seconds: float) -> dict:
    """Return a record in which everybody has the time given and 8 MiB."""
    names = {"ours": "mashbill", "in_place": IN_PLACE, "naive": "naive PyTorch"}
    names |= {"floor": "matrix products alone", "narrow": "matrix products alone, float32"}
    kinds = {"naive": "plain", "in_place": "ours", "narrow": "floor"}
    variants = [
        {
            "name": names[key],
            "kind": kinds.get(key, key),
            "status": "same",
            "note": "value and gradient",
            "gradient_error": 1e-7,
            "turns": 7,
            "wall_s": [0.9 * second, second, 1.1 * second],
            "cpu_s": second,
            "peak_mib": 8.0,
        }
        for key, second in seconds.items()
    ]
    variants.append({"name": "TRL GKD", "kind": "peer", "status": "absent", "note": "trl is not installed"})
    return {
        "mode": "table",
        "shape": {"form": "logits", "rows": 4, "entries": 8, "teachers": 2, "k": 3, "width": 2, "dtype": "float32"},
        "divergence": "forward_kl",
        "competitor": False,
        "limits": {"copy": 1e9, "exp": 1e9, "product": 1e9},
        "least_seconds": {"bytes": 0.5, "exp": 0.0, "products": 0.0},
        "variants": variants,
        "about": {
            "device": "a processor",
            "cores": 2,
            "memory_gib": 8,
            "threads": 2,
            "loops": "compiled",
            "date": "2026-01-01",
            "versions": {"torch": "2"},
        },
    }


def test_the_worst_run_counts() -> None:
    claim = Claim("faster than naive", ("a", "b"), Over("naive PyTorch"), 6)
    records = {"a": record(ours=1.0, naive=9.0), "b": record(ours=1.0, naive=5.0)}
    assert claim.worst(records) == pytest.approx(5)
    assert claim.holds(records) is False
    assert claim.holds({**records, "b": record(ours=1.0, naive=6.5)}) is True


def test_what_was_not_measured_is_not_claimed() -> None:
    claim = Claim("faster than naive", ("a", "b"), Over("naive PyTorch"), 6)
    assert claim.holds({"a": record(ours=1.0, naive=9.0)}) is None
    assert claim.holds({"a": record(ours=1.0, naive=9.0), "b": record(ours=1.0)}) is None


def test_upper_bounds() -> None:
    near = Claim("near the floor", ("a",), Over("matrix products alone", ours_over=True), 1.1, below=True)
    small = Claim("small", ("a",), Peak("mashbill", lambda _: 2**20), 7.5, below=True)
    records = {"a": record(ours=1.05, floor=1.0)}
    assert near.worst(records) == pytest.approx(1.05)
    assert (near.holds(records), small.holds(records), small.worst(records)) == (True, True, 7.0)
    assert near.holds({"a": record(ours=1.2, floor=1.0)}) is False


def test_who_is_in_place_is_said_and_never_stands_in_for_another() -> None:
    fast = record(in_place=1.0, ours=2.0, naive=9.0)
    assert Over("naive PyTorch")(fast) == pytest.approx(4.5)
    assert Over("naive PyTorch", own=IN_PLACE)(fast) == pytest.approx(9)
    assert Over("naive PyTorch", own=IN_PLACE)(record(ours=2.0, naive=9.0)) is None
    assert "x in place" in tables.cells(fast)[0]
    assert "x ours" in tables.cells(record(ours=2.0, naive=9.0))[0]
    of_place = [one for one in CLAIMS if getattr(one.of, "own", getattr(one.of, "name", "")) == IN_PLACE]
    assert of_place
    texts = {one.text for one in CLAIMS}
    for claim in of_place:
        assert "in place" in claim.text
        if isinstance(claim.of, Over) and not claim.of.ours_over:
            assert claim.text.replace("in place", "new gradient") in texts


def test_the_faster_floor_counts() -> None:
    floors = Over("matrix products alone", "matrix products alone, float32", ours_over=True)
    assert floors(record(ours=3.0, floor=5.0, narrow=2.0)) == pytest.approx(1.5)
    assert floors(record(ours=3.0, floor=2.5)) == pytest.approx(1.2)


def test_a_narrow_head_is_summed_in_float32() -> None:
    shape = {"entries": 2**20, "width": 4, "dtype": "bfloat16"}
    assert (head_bytes(shape) / 2**20, head_sum_bytes(shape) / 2**20) == (8, 16)


def test_the_step_claimed_is_the_one_named() -> None:
    steps = [
        {"name": "mashbill, hidden states", "share": 0.01},
        {"name": "mashbill, logits in place", "share": 0.2},
    ]
    found = {"sizes": [{"sizes": {"teachers": 4, "entries": 32_000}, "steps": steps}]}
    assert OfStep("mashbill, logits in place", "share", 100)(found) == pytest.approx(20)
    assert OfStep("mashbill, logits", "share", 100)(found) is None


def test_every_claim_is_about_runs_that_there_are() -> None:
    names = [job.name for job in plan.JOBS]
    assert len(names) == len(set(names))
    assert {job for claim in CLAIMS for job in claim.jobs} <= set(names)


def test_the_page_has_a_place_for_every_block() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in render.blocks({}):
        assert render.replaced(text, name, "new block") != text


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="measured: logits"):
        render.replaced("nothing here", "logits", "block")


def test_blocks_show_times_shares_and_who_is_missing(tmp_path: Path) -> None:
    records = {"logits-32k-float32": record(ours=1.0, naive=9.0)}
    block = render.blocks(records)["logits"]
    assert "| naive PyTorch | 9.000 | 8.100-9.900 | 7 | 9.000 | 9.00 | 6 | 8 | 1e-07 |" in block
    assert "| mashbill | 1.000 | 0.900-1.100 | 7 | 1.000 | 1.00 | 50 | 8 | 1e-07 |" in block
    assert "TRL GKD: trl is not installed" in block
    render.plots(records, tmp_path)
    drawn = (tmp_path / "performance-compared.svg").read_bytes()
    render.plots(records, tmp_path)
    assert (tmp_path / "performance-compared.svg").read_bytes() == drawn


def test_a_run_is_shown_by_what_it_measured() -> None:
    line = {"name": "mashbill, logits", "turns": 3, "step_s": 2.0, "parts_s": 1.6, "over_parts": 1.25, "share": 0.2}
    one = {
        "sizes": {"teachers": 4, "entries": 32_000},
        "seconds": {"loss, logits": (0.2, 0.3, 0.4)},
        "steps": [line],
    }
    steps = {"mode": "step", "about": record()["about"], "left_out": {}, "sizes": [one]}
    wanted = "| 4 | 32000 | mashbill, logits | 3 | 2.000 | 1.600 | 1.25 | 20 | 0.300 |"
    shown = render.blocks({"gpu-step": steps, "gpu-logits-32k": record(ours=1.0), "step": steps})
    assert wanted in shown["gpu"]
    assert wanted in shown["step"]
    assert "| mashbill | 1.000 |" in shown["gpu"]


def test_growth_is_shown_and_drawn(tmp_path: Path) -> None:
    fit = {"sizes": [1, 2, 4], "seconds": [1.0, 2.0, 4.0], "exponent": 1.0, "exponent_in_work": 1.0}
    records = {"growth": [{"mode": "growth", "shape": {"form": "logits"}, "axes": {"rows": fit}}]}
    assert "| logits | rows | 1 to 4 | 1.000 | 1.000 |" in render.growth(records["growth"])
    render.plots(records, tmp_path)
    assert (tmp_path / "performance-growth.svg").exists()


def test_growth_is_held_to_one_from_both_sides() -> None:
    def of(axis: str, exponent: float, in_work: float | None, form: str = "logits") -> float | None:
        fit = {"exponent": exponent, "exponent_in_work": in_work}
        return worst_exponent([{"shape": {"form": form}, "axes": {axis: fit}}])

    assert of("rows", 0.8, 0.8) == pytest.approx(0.2)
    assert of("rows", 1.2, 1.2) == pytest.approx(0.2)
    assert of("teachers", 0.7, 0.95) == pytest.approx(0.05)
    assert of("rows", 0.8, 0.8, "topk") == pytest.approx(0.2)
    assert of("teachers", 0.2, None, "topk") == 0
    assert of("entries", 0.8, 0.8, "topk") == 0
    assert of("entries", 1.2, 1.2, "topk") == pytest.approx(0.2)


def test_only_our_own_fault_fails_a_run() -> None:
    assert tables.status([record(ours=1.0)]) == 0
    wrong = record(ours=1.0)
    wrong["variants"][-1] |= {"status": "other", "note": "computes something else"}
    assert tables.status([wrong]) == 0
    wrong["variants"][0] |= {"status": "other"}
    assert tables.status([wrong]) == 1
