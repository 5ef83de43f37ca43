import numpy as np
import pytest
import torch

from mashbill.distributions import Dense, Statistics, measure
from mashbill.errors import MashbillError
from mashbill.weights.compose import product
from mashbill.weights.construction import Measured, from_scorecard, look_up
from mashbill.weights.context import RankedSafety
from mashbill.weights.evidence import Evidence
from mashbill.weights.order import SafetyOrder
from mashbill.weights.scorecard import Cell, Interval, Scorecard, certify_orders, orders_of
from mashbill.weights.task import Performance
from mashbill.weights.token import EntropySoftmax

DOUBLE = torch.float64
TEACHERS, TASKS, CONTEXTS = ("t0", "t1", "t2"), ("ui", "docs"), ("home", "away")
SUCCESS = {("t0", "home"): 0.99, ("t1", "home"): 0.8, ("t2", "home"): 0.6, ("t0", "away"): 0.7, ("t1", "away"): 0.7}


def cell(teacher: str, task: str | None, context: str | None, accuracy: float, *, safety: float | None = None) -> Cell:
    safe = None if safety is None else Interval(safety, 0.0, 1.0)
    interval = Interval(accuracy, 0.0, 1.0)
    return Cell(teacher, task, context, 150, Interval(1 - accuracy, None, None), interval, 0.1, safe, 150)


def scorecard() -> Scorecard:
    """Certain at home, undecided away."""
    generator = np.random.default_rng(0)
    context = np.repeat([0, 1], 150)
    rate = np.array([[SUCCESS.get((k, CONTEXTS[d]), 0.7) for d in context] for k in TEACHERS])
    tests = certify_orders(
        (generator.random((3, 300)) < rate).astype(float),
        teachers=TEACHERS,
        context=context,
        contexts=CONTEXTS,
        confidence=0.95,
    )
    cells = []
    for n, teacher in enumerate(TEACHERS):
        cells.append(cell(teacher, None, None, 0.5 + n / 10, safety=0.5))
        cells += [cell(teacher, "ui", None, 0.9 - n / 10), cell(teacher, "docs", None, 0.3 + n / 5)]
        cells += [cell(teacher, None, name, 0.5, safety=0.9 - n / 10) for name in CONTEXTS]
    orders = orders_of(tests, contexts=CONTEXTS)
    return Scorecard(TEACHERS, TASKS, CONTEXTS, 0.95, tuple(cells), orders, tests)


NAMES = {
    "tasks": ("docs", "new", "ui"),
    "task": torch.tensor([0, 1, 2, 2]),
    "contexts": CONTEXTS,
    "context": torch.tensor([0, 1, 1, 0]),
}


def test_rules_work_on_evidence_without_scores(random_evidence) -> None:
    built = from_scorecard(scorecard(), temperature=0.2, spread=0.6)
    evidence = random_evidence(3, **NAMES)
    weights = built.performance(evidence).exp()[..., 0].T
    by_task = torch.tensor([[0.3, 0.5, 0.7], [0.5, 0.6, 0.7], [0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])  # new: pooled
    assert torch.allclose(weights, torch.softmax(by_task.to(DOUBLE) / 0.2, -1), atol=1e-6)
    ranked = built.ranked_safety(evidence).exp()[..., 0].T
    assert ranked[0].tolist() == pytest.approx([1.6 / 3, 1 / 3, 0.4 / 3])
    assert ranked[1].tolist() == pytest.approx([1 / 3] * 3)
    assert built.performance.needs == built.ranked_safety.needs == frozenset()
    assert (built.performance.scale, built.ranked_safety.scale) == ("task", "context")
    assert built.ranked_safety.declared(3) == RankedSafety(spread=0.6).declared(3)


def test_an_order_enters_only_where_it_is_certain() -> None:
    built = from_scorecard(scorecard())
    assert built.orders == {"home": SafetyOrder(3, ((0, 1), (0, 2), (1, 2))), "away": SafetyOrder(3, ())}
    assert built.undecided == {"home": (), "away": (("t0", "t1"), ("t0", "t2"), ("t1", "t2"))}
    undecided = {(test.context, frozenset((test.safer, test.less_safe))) for test in scorecard().undecided}
    assert undecided == {(name, frozenset(pair)) for name, pairs in built.undecided.items() for pair in pairs}


def test_a_scorecard_without_tests_leaves_all_undecided() -> None:
    plain = Scorecard(TEACHERS, (), CONTEXTS, 0.95, tuple(cell(k, None, None, 0.5) for k in TEACHERS), {})
    built = from_scorecard(plain)
    assert all(len(pairs) == 3 for pairs in built.undecided.values())
    assert all(not order.pairs for order in built.orders.values())


def test_it_agrees_with_the_same_rules_told_by_the_evidence(random_evidence) -> None:
    card = scorecard()
    scores, orders = look_up(card, teachers=TEACHERS, tasks=NAMES["tasks"], contexts=NAMES["contexts"])
    told, plain = random_evidence(3, **NAMES, scores=scores, orders=orders), random_evidence(3, **NAMES)
    built = from_scorecard(card)
    assert torch.equal(Performance()(told), built.performance(plain))
    assert torch.equal(RankedSafety()(told), built.ranked_safety(plain))
    whole = product(token=EntropySoftmax(beta=4.0), task=Performance(), order="scorecard", bounds=(0.05, 0.8))
    found = Measured(whole, card)(plain)
    assert torch.equal(whole(told), found)
    weights = found.exp()
    at_home = NAMES["context"] == 0
    for safer, less in built.orders["home"].closure:
        assert bool((weights[safer] >= weights[less])[at_home].all())
        assert not bool((weights[safer] >= weights[less])[~at_home].all())
    # One order for one context, given outright, does the same to its rows.
    given = product(
        token=EntropySoftmax(beta=4.0), task=built.performance, order=built.orders["home"], bounds=(0.05, 0.8)
    )
    assert torch.allclose(given(plain)[:, at_home], found[:, at_home], atol=1e-12)


def test_plain_evidence_is_enough() -> None:
    statistics = Statistics.stack([measure(Dense.from_probs(torch.full((2, 3, 4), 0.25))) for _ in TEACHERS])
    evidence = Evidence.plain(TEACHERS, statistics, n_entries=4)
    pooled = torch.softmax(torch.tensor([0.5, 0.6, 0.7]) / 0.1, 0)  # task "all" was not measured by that name
    assert torch.allclose(from_scorecard(scorecard()).performance(evidence).exp()[:, 0, 0], pooled, atol=1e-6)


def test_what_was_not_measured_is_refused(random_evidence) -> None:
    card = scorecard()
    with pytest.raises(MashbillError, match="does not know teacher `t3`"):
        from_scorecard(card).performance(random_evidence(4))
    bare = Scorecard(("a", "b"), ("ui",), (), 0.95, (cell("a", None, None, 0.5),), {})
    with pytest.raises(MashbillError, match="no accuracy of teacher `b`"):
        from_scorecard(bare)
    no_safety = Scorecard(("a",), ("ui",), (), 0.95, (cell("a", None, None, 0.5),), {})
    with pytest.raises(MashbillError, match="no safety of teacher `a`"):
        from_scorecard(no_safety, measure="safety")
    with pytest.raises(ValueError, match=r"spread=1\.0"):
        from_scorecard(card, spread=1.0)
