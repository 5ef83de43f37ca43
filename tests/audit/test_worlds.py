"""Situations: evidence without NaN in every mood, and rows and teachers that can be cut and permuted."""

import pytest
import torch

from mashbill.audit.moods import MOODS, Stage, make_world
from mashbill.weights.evidence import Evidence


def surer(evidence: Evidence, /) -> torch.Tensor:
    return torch.log_softmax(-evidence.statistics.gini, dim=0)


@pytest.mark.parametrize("mood", MOODS)
def test_every_mood_gives_evidence_without_nan(mood: str) -> None:
    generator = torch.Generator().manual_seed(1)
    world = make_world(Stage(), generator, mood=mood, n_teachers=4, n_rows=3, n_positions=2, n_entries=5)
    evidence = world.evidence()
    for name in ("divergence:mean", "divergence:student", "gram", "variance", "logprobs", "student_logprobs"):
        assert bool(evidence.given(name).isfinite().all()), name
    for name in ("entropy", "gini", "margin", "max_logprob"):
        assert bool(getattr(evidence.statistics, name).isfinite().all()), name
    unlabelled = (evidence.statistics.label_logprob.isnan()).all(dim=0)
    assert torch.equal(unlabelled, ~(world.mask & (world.labels >= 0)))


def test_cutting_and_permuting_agree_with_the_evidence() -> None:
    world = make_world(Stage(), torch.Generator().manual_seed(2), n_teachers=3, n_rows=4)
    rule = surer
    whole = rule(world.evidence())
    assert torch.equal(rule(world.rows([2, 0]).evidence()), whole[:, [2, 0]])
    assert torch.allclose(rule(world.permuted([2, 0, 1]).evidence()), whole[[2, 0, 1]])
    moved = world.permuted([2, 0, 1])
    for name, pairs in world.orders.items():
        named = {(world.teachers[a], world.teachers[b]) for a, b in pairs}
        assert named == {(moved.teachers[a], moved.teachers[b]) for a, b in moved.orders[name]}
