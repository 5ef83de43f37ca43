"""That what is timed as adaptive weights is the same loss, and that its record can be shown."""

from argparse import Namespace
from functools import partial

import pytest
import torch
from harness import adaptive, forms, render, tables
from harness.claims import CLAIMS
from harness.forms import Shape
from harness.variants import ALL, ours

ARGUMENTS = Namespace(divergence="forward_kl", device="cpu", repeats=2, impl="auto")
ABOUT = {"threads": 1}


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_the_rule_stands_for_the_weights_in_every_form(form, divergence: str) -> None:
    shape = Shape(form, rows=8, entries=40, teachers=3, k=5)
    for impl in ("auto", "chunked"):
        adaptive.require_same(shape, partial(ours, impl=impl), divergence=divergence, device="cpu")


def test_another_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def even(inputs: forms.Inputs, *, n_entries: int):
        return lambda statistics, _: torch.zeros_like(statistics.entropy).log_softmax(dim=0)

    monkeypatch.setattr(adaptive, "entropy_rule", even)
    with pytest.raises(RuntimeError, match=r"logits: the gradient by a rule is .* off"):
        adaptive.adaptive_cost(Shape("logits", rows=8, entries=40, teachers=3), ARGUMENTS)


def test_the_record_can_be_shown() -> None:
    shapes = [Shape(form, rows=8, entries=40, teachers=3, k=5, width=6, teacher_width=7) for form in ALL]
    once = Namespace(**{**vars(ARGUMENTS), "repeats": 1})
    records = [adaptive.adaptive_cost(shape, once) | {"about": ABOUT} for shape in shapes]
    assert all(f"adaptive weights: {one['shape']['form']}" in tables.as_text(one) for one in records)
    shown = render.adaptive(records)
    assert [line.split("|")[1].split(",")[0].strip() for line in shown.splitlines()[2:]] == list(ALL)
    claim = next(one for one in CLAIMS if one.jobs == ("adaptive-chunked",))
    above = [100 * (one["adaptive_s"][1] / one["fixed_s"][1] - 1) for one in records]
    assert claim.worst({"adaptive-chunked": records}) == max(above)


def test_the_plain_way_is_timed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spied(*arguments, impl: str, **options):
        asked.append(impl)
        return ours(*arguments, impl=impl, **options)

    monkeypatch.setattr(adaptive, "ours", spied)
    plain = Namespace(**{**vars(ARGUMENTS), "impl": "chunked"})
    record = adaptive.adaptive_cost(Shape("logits", rows=8, entries=40, teachers=3), plain)
    assert set(asked) == {"chunked"}
    assert "impl=chunked" in tables.title(record | {"about": ABOUT})
