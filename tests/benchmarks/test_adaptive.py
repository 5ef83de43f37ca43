"""That what is timed as adaptive weights is the same loss, and that its record can be shown."""

from argparse import Namespace

import pytest
import torch
from harness import adaptive, forms, render, tables
from harness.claims import CLAIMS
from harness.forms import Shape
from harness.variants import ALL

ARGUMENTS = Namespace(divergence="forward_kl", device="cpu", repeats=2)
ABOUT = {"threads": 1}


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("divergence", ["forward_kl", "js"])
def test_the_rule_stands_for_the_weights_in_every_form(form, divergence: str) -> None:
    adaptive.require_same(Shape(form, rows=8, entries=40, teachers=3, k=5), divergence=divergence, device="cpu")


def test_another_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def even(inputs: forms.Inputs, *, n_entries: int):
        return lambda statistics, _: torch.zeros_like(statistics.entropy).log_softmax(dim=0)

    monkeypatch.setattr(adaptive, "entropy_rule", even)
    with pytest.raises(RuntimeError, match=r"logits: the gradient by a rule is .* off"):
        adaptive.adaptive_cost(Shape("logits", rows=8, entries=40, teachers=3), ARGUMENTS)


def test_the_record_can_be_shown() -> None:
    shapes = [Shape(form, rows=8, entries=40, teachers=3, k=5, width=6, teacher_width=7) for form in ALL]
    records = [adaptive.adaptive_cost(shape, ARGUMENTS) | {"about": ABOUT} for shape in shapes]
    assert all(f"adaptive weights: {one['shape']['form']}" in tables.as_text(one) for one in records)
    shown = render.adaptive(records)
    assert [line.split("|")[1].strip() for line in shown.splitlines()[2:]] == list(ALL)
    claim = next(one for one in CLAIMS if one.jobs == ("adaptive",))
    above = [100 * (one["adaptive_s"][1] / one["fixed_s"][1] - 1) for one in records]
    assert claim.worst({"adaptive": records}) == max(above)
