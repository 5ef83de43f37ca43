import math
from types import SimpleNamespace

import pytest
import torch

from mashbill.weights.compose import conform, product
from mashbill.weights.hybrid import Hybrid
from mashbill.weights.order import SafetyOrder
from mashbill.weights.token import EntropySoftmax

DOUBLE = torch.float64
SAFER_SECOND = {"t0": 0.2, "t1": 0.5}


def test_family_c_golden_breaks_the_order_of_the_scores(golden, appendix) -> None:
    rule = Hybrid(beta=1.0, skill=1.0, scores=SAFER_SECOND, normalise=False)
    weights = rule(appendix()).exp().flatten()
    assert weights.tolist() == pytest.approx(golden("F10")["expected"], abs=golden("F10")["tol"])
    assert weights[0] > weights[1]  # though the second teacher is the safer one


def test_the_order_is_kept_once_it_is_enforced(appendix) -> None:
    rule = Hybrid(beta=1.0, skill=1.0, scores=SAFER_SECOND, normalise=False)
    order = SafetyOrder.from_scores([0.2, 0.5])
    for finished in (product(token=rule, order=order, bounds=(0.1, 0.9)), conform(rule, bounds=None, order=order)):
        weights = finished(appendix()).exp().flatten()
        assert weights[1] >= weights[0]


def test_the_remark_is_false_also_far_from_a_tie(make_evidence) -> None:
    def teacher(entropy):  # of two entries, by bisection in the larger probability
        low, high = 0.5, 1.0
        for _ in range(80):
            a = (low + high) / 2
            is_more = -(a * math.log(a) + (1 - a) * math.log(1 - a)) > entropy
            low, high = (a, high) if is_more else (low, a)
        return [low, 1 - low]

    # exp(-H + s) at entropies ten to one: safety 1 gets less than safety .9.
    evidence = make_evidence(torch.tensor([teacher(0.6), teacher(0.06)], dtype=DOUBLE))
    weights = Hybrid(scores={"t0": 1.0, "t1": 0.9}, normalise=False)(evidence).exp().flatten()
    expected = torch.tensor([1 - 0.6, 0.9 - 0.06], dtype=DOUBLE).softmax(0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-9)
    assert weights[0] < weights[1]


@pytest.mark.parametrize("by", ["context", "task"])
def test_measured_scores_are_those_of_the_row(by, random_evidence) -> None:
    table = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.8, 0.3]], dtype=DOUBLE)
    where = torch.tensor([0, 1, 1, 0])
    names = {"contexts": ("a", "b"), "context": where} if by == "context" else {"tasks": ("a", "b"), "task": where}
    evidence = random_evidence(3, 4, 5, 6, scores={by: {"accuracy": table}}, **names)
    rule = Hybrid(beta=2.0, skill=3.0, measure="accuracy", by=by)
    assert rule.needs == {"entropy", f"score:{by}:accuracy"}
    scores = 3 * table[:, where].unsqueeze(-1) - 2 * evidence.statistics.entropy / math.log(6)
    torch.testing.assert_close(rule(evidence), scores.log_softmax(0), rtol=0, atol=1e-14)


def test_without_skill_it_is_the_entropy_softmax(random_evidence) -> None:
    evidence = random_evidence()
    rule = Hybrid(beta=2.0, skill=0, scores={"t0": 1, "t1": 5, "t2": 3})
    torch.testing.assert_close(rule(evidence), EntropySoftmax(beta=2.0)(evidence))
    assert rule.declared(3).lipschitz == EntropySoftmax(beta=2.0).declared(3).lipschitz


@pytest.mark.parametrize("scores", [None, {"t0": 0.2, "t1": 0.5, "t2": -1.0}])
def test_the_range_is_reached_by_certain_and_even_teachers(scores, make_evidence) -> None:
    rule = Hybrid(beta=2.0, skill=1.5, scores=scores)
    certain, even = torch.eye(4, dtype=DOUBLE)[0], torch.full((4,), 0.25, dtype=DOUBLE)
    seen = []
    for mask in range(8):
        each = torch.stack([even if mask >> k & 1 else certain for k in range(3)])
        for worst in range(6):
            table = torch.tensor([[float(worst % 3 == k) != (worst >= 3)] for k in range(3)], dtype=DOUBLE)
            seen.append(rule(make_evidence(each, scores={"context": {"safety": table}})).exp().flatten())
    seen, promise = torch.stack(seen), rule.declared(3)
    assert [float(seen.min()), float(seen.max())] == pytest.approx([promise.lowest, promise.highest])


def test_declared_says_what_is_not_certified() -> None:
    raw = Hybrid(normalise=False).declared(3)
    assert (raw.lowest, raw.highest, raw.lipschitz) == (0.0, 1.0, None)
    assert Hybrid().declared(3).metric == "teacher logits and measured safety, sup"
    with pytest.raises(ValueError, match=r"^scores are of 2 teachers, but n_teachers=3"):
        Hybrid(scores=SAFER_SECOND).declared(3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Hybrid(beta=-1), r"beta=-1 must be finite and not negative"),
        (lambda: Hybrid(skill=math.nan), r"skill=nan must be finite and not negative"),
        (lambda: Hybrid(measure="loss"), r"measure='loss' must be one of"),
        # Without the run-time type check of the test suite, which production does not have.
        (lambda: Hybrid.__post_init__(SimpleNamespace(**{**vars(Hybrid()), "by": "row"})), r"by='row' must be"),
        (lambda: Hybrid(scores={}), r"scores=\{\} must map each teacher"),
        (lambda: Hybrid(scores={"a": math.inf}), r"scores\['a'\]=inf must be a finite number"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_a_teacher_without_a_score_is_named(appendix) -> None:
    with pytest.raises(ValueError, match="scores says nothing about teacher 't1'"):
        Hybrid(scores={"t0": 1.0})(appendix())
    with pytest.raises(ValueError, match="measure='safety' by context is not in the evidence"):
        Hybrid()(appendix())
