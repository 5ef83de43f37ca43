"""The quick look finds what is broken, blames the right property, and leaves conforming rules alone."""

from collections.abc import Callable

import pytest
import torch

from mashbill.audit.moods import MOODS, Stage, make_world
from mashbill.audit.scan import PROPERTIES, find_jump, scan
from mashbill.weights.evidence import Declared, Evidence


def softmax(score: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(score, dim=0)


def surer(evidence: Evidence, /) -> torch.Tensor:
    """A rule without a fault but that it knows no order; bounded, and says so."""
    return softmax(-evidence.statistics.gini)


surer.declared = lambda k: Declared(1 / (1 + (k - 1) * 2.7183), 1.0, None, "none", "Gini is within [0, 1]")  # pyright: ignore[reportFunctionMemberAccess]


def unnormalised(evidence: Evidence, /) -> torch.Tensor:
    return surer(evidence) + 1e-4


def silenced(evidence: Evidence, /) -> torch.Tensor:
    gini = evidence.statistics.gini
    least = gini == gini.amin(dim=0)
    return (least / least.sum(dim=0)).log()


def unbounded(evidence: Evidence, /) -> torch.Tensor:
    return softmax(-20 * evidence.statistics.entropy)


def jumping(evidence: Evidence, /) -> torch.Tensor:
    gini = evidence.statistics.gini
    return softmax(-gini + 0.05 * (gini < 0.3))


def broken_by(rule: Callable[[Evidence], torch.Tensor]) -> set[str]:
    return {finding.property for finding in scan(rule, n_worlds=50) if finding.is_broken}


def test_a_rule_that_knows_no_order_breaks_nothing_else() -> None:
    assert broken_by(surer) == {"ordered"}


@pytest.mark.parametrize(
    ("rule", "property"),
    [(unnormalised, "normalised"), (silenced, "positive"), (unbounded, "bounded"), (jumping, "continuous")],
)
def test_each_fault_is_found_and_named(rule: Callable[[Evidence], torch.Tensor], property: str) -> None:
    assert property in PROPERTIES
    found = broken_by(rule)
    assert property in found
    # A weight of 0 is below every bound, and where it appears it appears at once; nothing else may be blamed.
    allowed = {"silenced": {"bounded", "continuous"}, "unbounded": set()}.get(rule.__name__, {"bounded"})
    assert found - {property, "ordered"} <= allowed


def test_a_lie_about_a_bound_is_found() -> None:
    def boastful(evidence: Evidence, /) -> torch.Tensor:
        return surer(evidence)

    boastful.declared = lambda k: Declared(0.9 / k, 1.0, None, "none", "hope")  # pyright: ignore[reportFunctionMemberAccess]
    witness = {finding.property: finding.witness for finding in scan(boastful, n_worlds=50)}
    assert "below the declared" in witness["bounded"]


def test_a_steep_slope_is_no_jump() -> None:
    def steep(evidence: Evidence, /) -> torch.Tensor:
        return softmax(1e4 * evidence.statistics.gini)

    generator = torch.Generator().manual_seed(0)
    here, there = (make_world(Stage(), generator, n_teachers=2, n_rows=1, n_positions=1) for _ in range(2))
    assert find_jump(steep, here, there) is None


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
