import math
from dataclasses import dataclass, replace

import pytest
import torch

import mashbill as mb
from mashbill import numerics
from mashbill.weights.compose import Product, conform, product
from mashbill.weights.evidence import Declared, WeightOperator
from mashbill.weights.order import SafetyOrder
from mashbill.weights.published import Route
from mashbill.weights.static import Static, Uniform
from mashbill.weights.task import InverseLoss
from mashbill.weights.token import EntropySoftmax, InverseVariance

DOUBLE = torch.float64
TOKEN, TASK, CONTEXT = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]


def static(weights) -> Static:
    return Static({f"t{k}": w for k, w in enumerate(weights)})


@dataclass(frozen=True)
class Written:
    """Weights ``[K B T]`` as they are, with the range that was promised for them."""

    weights: torch.Tensor
    low: float = 0.0
    high: float = 1.0

    def __call__(self, evidence, /):
        return numerics.log_of(self.weights)

    def declared(self, n_teachers: int) -> Declared:
        return Declared(self.low, self.high, None, "none", "the test")


def random_weights(shape, low, high, *, seed) -> torch.Tensor:
    """Weights in a box: projections of numbers so wild that many are at a vertex."""
    v = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return mb.simplex.project_l2(v.movedim(0, -1), w_min=low, w_max=high).movedim(-1, 0)


def test_product_goldens(golden, random_evidence) -> None:
    evidence = random_evidence(3)
    scales = {"token": static(TOKEN), "task": static(TASK), "context": static(CONTEXT)}
    plain = product(**scales)(evidence).exp()[:, 0, 0]
    assert plain.tolist() == pytest.approx(golden("F23")["expected"], abs=golden("F23")["tol"])
    tempered = product(**scales, temperatures={"token": 3, "task": 3, "context": 3})(evidence).exp()[:, 0, 0]
    assert tempered.tolist() == pytest.approx(golden("F24")["expected"], abs=golden("F24")["tol"])


@pytest.mark.parametrize("guard", ["kl", "l2", "squash"])
def test_the_product_breaks_an_order_that_the_finish_repairs(guard, golden, random_evidence) -> None:
    evidence = random_evidence(2)
    scales = {"token": static([0.6, 0.4]), "task": static([0.3, 0.7]), "context": static([0.55, 0.45])}
    broken = product(**scales)(evidence).exp()[:, 0, 0]
    assert broken.tolist() == pytest.approx(golden("F28")["expected"], abs=golden("F28")["tol"])
    safety = SafetyOrder(2, ((0, 1),))
    repaired = product(**scales, order=safety, bounds=(0.2, 0.8), guard=guard)(evidence).exp()[:, 0, 0]
    assert repaired.tolist() == pytest.approx(golden("F21")["expected"], abs=golden("F21")["tol"])


def test_a_users_own_function_is_a_rule(golden, appendix) -> None:
    safety = torch.tensor([0.2, 0.5], dtype=DOUBLE).reshape(2, 1, 1)

    def hybrid(evidence):
        return torch.log_softmax(safety - evidence.statistics.entropy, dim=0)

    assert isinstance(hybrid, WeightOperator)
    violating = conform(hybrid, bounds=None)(appendix()).exp().flatten()
    assert violating.tolist() == pytest.approx(golden("F10")["expected"], abs=golden("F10")["tol"])
    assert violating[0] > violating[1]  # although the second is the safer
    repaired = conform(hybrid, bounds=(0.2, 0.8), order=SafetyOrder.from_scores([0.2, 0.5]))(appendix()).exp()
    assert repaired.flatten().tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("n_teachers", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("guard", ["kl", "l2", "squash"])
@pytest.mark.parametrize("order", [None, "ranking", "scorecard"])
def test_uniform_is_uniform_to_the_last_bit(order, guard, dtype, n_teachers, random_evidence) -> None:
    pairs = tuple((k, k + 1) for k in range(n_teachers - 1))
    evidence = random_evidence(n_teachers, dtype=dtype, orders={"all": pairs})
    expected = torch.full((n_teachers, 4, 1), -math.log(n_teachers), dtype=dtype)
    finish = {
        "order": SafetyOrder(n_teachers, pairs) if order == "ranking" else order,
        "bounds": (0.5 / n_teachers, 1.0),
        "guard": guard,
    }
    every = {"token": Uniform(), "task": Uniform(), "context": Uniform()}
    for operator in (
        product(),
        product(**finish),
        product(**every, **finish, temperatures={"token": 0.7}),
        product(task=static([1 / n_teachers] * n_teachers), **finish),
        conform(Uniform(), **finish),
        conform(lambda evidence: torch.zeros(n_teachers, 4, 1, dtype=dtype), **finish),
    ):
        assert torch.equal(operator(evidence), expected)


def test_a_learned_rule_that_starts_uniform_still_learns(random_evidence) -> None:
    scores = torch.nn.Parameter(torch.zeros(3, 1, 1, dtype=DOUBLE))
    operator = product(token=lambda evidence: scores.expand(3, 4, 1), bounds=(0.1, 0.6))
    log_weights = operator(random_evidence(3))
    assert torch.equal(log_weights, torch.full((3, 4, 1), -math.log(3), dtype=DOUBLE))
    log_weights[0].exp().sum().backward()
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == pytest.approx([8 / 9, -4 / 9, -4 / 9])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("guard", ["kl", "l2", "squash"])
@pytest.mark.parametrize(
    "safety", [None, SafetyOrder.from_scores([1, 3, 2, 2]), SafetyOrder(4, ((0, 1), (0, 2), (3, 2)))]
)
def test_results_are_normalised_bounded_and_ordered(safety, guard, dtype, random_evidence) -> None:
    evidence = random_evidence(4, 100, 100, 4, dtype=dtype)
    operator = product(
        token=InverseVariance(exponent=3.0),
        task=static([0.7, 0.0, 0.1, 0.2]),
        context=static([0.1, 0.2, 0.3, 0.4]),
        order=safety,
        bounds=(0.05, 0.5),
        guard=guard,
    )
    log_weights = operator(evidence)
    assert log_weights.dtype == dtype
    weights, eps = log_weights.exp(), (1e-12 if dtype == DOUBLE else 1e-6)
    assert float((weights.sum(0) - 1).abs().max()) < eps
    assert 0.05 - eps <= float(weights.min()) <= float(weights.max()) <= 0.5 + eps
    for safer, less in safety.closure if safety else ():
        assert float((weights[less] - weights[safer]).max()) <= eps


def test_log_space_survives_scales_that_disagree_completely(random_evidence) -> None:
    evidence = random_evidence(2, route=torch.tensor([0, 0, 1, -1]))
    operator = product(task=Route(), context=static([0.0, 1.0]))
    log_weights = operator(evidence)
    assert bool(log_weights.isfinite().all())
    assert float(log_weights.min()) >= numerics.LOG_ZERO
    assert log_weights[:, 0, 0].exp().tolist() == pytest.approx([0.5, 0.5])  # each vetoes the other
    assert log_weights[:, 2, 0].exp().tolist() == pytest.approx([0.0, 1.0])
    guarded = product(task=Route(), context=static([0.0, 1.0]), bounds=(0.1, 0.9))(evidence)
    assert guarded[:, 2, 0].exp().tolist() == pytest.approx([0.1, 0.9])


def test_certified_orders_touch_only_the_rows_of_their_context(random_evidence) -> None:
    changes = {"contexts": ("home", "away"), "context": torch.tensor([0, 1, 0, 1])}
    evidence = random_evidence(3, **changes, orders={"away": ((2, 1), (1, 0)), "unseen": ((0, 1),)})
    free, ordered = (product(token=EntropySoftmax(beta=3.0), order=order) for order in (None, "scorecard"))
    assert ordered.needs == {"entropy", "orders"}
    before, after = free(evidence), ordered(evidence)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]], atol=1e-15, rtol=0)
    weights = after.exp()[:, [1, 3]]
    assert bool((weights[2] >= weights[1] - 1e-12).all())
    assert bool((weights[1] >= weights[0] - 1e-12).all())
    assert not torch.allclose(after[:, [1, 3]], before[:, [1, 3]])
    assert torch.equal(ordered(replace(evidence, orders={})), ordered(replace(evidence, orders={"unseen": ((0, 1),)})))


@pytest.mark.parametrize("guard", ["kl", "l2", "squash"])
def test_gradients_pass_through_the_whole_product(guard, random_evidence) -> None:
    evidence = random_evidence(3)
    start = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).requires_grad_()

    def weights(scores):
        operator = product(
            token=lambda _: scores,
            task=static([0.5, 0.3, 0.2]),
            temperatures={"token": 2.0},
            order=SafetyOrder(3, ((1, 0),)),
            bounds=(0.1, 0.6),
            guard=guard,
        )
        return operator(evidence).exp()

    assert torch.autograd.gradcheck(weights, (start,))


def test_permuting_teachers_permutes_the_weights(random_evidence) -> None:
    evidence, permutation = random_evidence(4), [2, 0, 3, 1]
    permuted = replace(
        evidence,
        teachers=tuple(evidence.teachers[k] for k in permutation),
        statistics=evidence.statistics.rows(torch.tensor(permutation)),
    )
    operator = product(token=EntropySoftmax(beta=4.0), task=static([0.4, 0.3, 0.2, 0.1]), bounds=(0.1, 0.4))
    torch.testing.assert_close(operator(permuted), operator(evidence)[permutation], atol=1e-12, rtol=0)


def test_declared_bounds_of_a_product_golden(golden) -> None:
    for (low, high), n_teachers, expected in zip(
        [(0.2, 0.8), (0.1, 0.6), (0.1, 0.8)], [2, 3, 3], golden("F26")["expected"], strict=True
    ):
        rule = Written(torch.empty(0), low, high)
        promise = product(token=rule, task=rule, context=rule).declared(n_teachers)
        assert (promise.lowest, promise.highest) == pytest.approx(expected, abs=golden("F26")["tol"])


@pytest.mark.parametrize("guard", ["kl", "l2", "squash"])
@pytest.mark.parametrize("bounds", [None, (0.02, 0.55), (0.15, 0.4)])
@pytest.mark.parametrize("order", [None, SafetyOrder.from_scores([1, 2, 2])], ids=["free", "ordered"])
@pytest.mark.parametrize("temperatures", [{}, {"token": 2, "task": 2}, {"token": 4, "task": 2}, {"token": 0.5}])
def test_declared_ranges_hold_for_scales_at_their_vertices(temperatures, order, bounds, guard, random_evidence) -> None:
    token = Written(random_weights((3, 40, 250), 0.1, 0.5, seed=1), 0.1, 0.5)
    task = Written(random_weights((3, 40, 250), 0.05, 0.7, seed=2), 0.05, 0.7)
    operator = product(token=token, task=task, temperatures=temperatures, order=order, bounds=bounds, guard=guard)
    weights, promise = operator(random_evidence(3, 40, 250, 2)).exp(), operator.declared(3)
    assert promise.lowest - 1e-9 <= float(weights.min())
    assert float(weights.max()) <= promise.highest + 1e-9


def test_declared_lipschitz_constant_survives_an_attack(random_evidence, make_evidence) -> None:
    table = {"all": torch.tensor([[0.05], [0.06], [0.4]], dtype=DOUBLE)}

    def build(gini_shift, loss_shift, finish):
        scores = {"task": {"loss": table["all"] + loss_shift}}
        evidence = random_evidence(3, 50, 20, 3, scores=scores)
        shifted = replace(evidence.statistics, gini=(evidence.statistics.gini + gini_shift).clamp_min(0))
        return product(token=InverseVariance(epsilon=0.3), task=InverseLoss(epsilon=0.3), **finish), replace(
            evidence, statistics=shifted
        )

    size = 1e-4
    for finish in (
        {},
        {"bounds": (0.1, 0.6)},
        {"bounds": (0.1, 0.6), "guard": "l2"},
        {"order": SafetyOrder(3, ((1, 0),))},
    ):
        operator, base = build(0.0, 0.0, finish)
        constant = operator.declared(3).lipschitz
        assert constant is not None
        largest = 0.0
        for signs in ([1, -1, 1], [-1, 1, 1], [1, 1, -1]):
            shift = size * torch.tensor(signs, dtype=DOUBLE)
            _, moved = build(shift.reshape(3, 1, 1), shift.reshape(3, 1), finish)
            largest = max(largest, float((operator(moved).exp() - operator(base).exp()).abs().max()) / size)
        assert 0.1 * constant < largest <= constant + 1e-6


def test_declared_lipschitz_constants_compose() -> None:
    token, task = EntropySoftmax(beta=2.0), InverseLoss(epsilon=0.5)
    alone = product(token=token)
    assert alone.declared(3).lipschitz == token.declared(3).lipschitz
    both = product(token=token, task=task, temperatures={"token": 2, "task": 4}).declared(3)
    token_score, task_score = token.declared(3).score_lipschitz, task.declared(3).score_lipschitz
    assert token_score is not None
    assert task_score is not None
    assert both.lipschitz == pytest.approx((token_score / 2 + task_score / 4) / 2)
    assert both.metric == "teacher logits, sup; measured loss, sup"
    squashed = product(token=token, bounds=(0.1, 0.6), guard="squash").declared(3)
    assert squashed.lipschitz == pytest.approx(0.4 * alone.declared(3).lipschitz)
    # A guard in log space keeps the scores' constant; one on weights need not.
    assert product(token=token, bounds=(0.1, 0.6)).declared(3).score_lipschitz == token_score
    assert squashed.score_lipschitz is None
    unknown = product(token=lambda evidence: torch.zeros(3, 1, 1), task=task).declared(3)
    assert (unknown.lipschitz, unknown.lowest, unknown.highest) == (None, 0.0, 1.0)
    weights_only = replace(Uniform().declared(2), lowest=0.2, highest=0.8, lipschitz=0.3, score_lipschitz=None)

    @dataclass(frozen=True)
    class Promising:
        def __call__(self, evidence, /):
            raise NotImplementedError

        def declared(self, n_teachers):
            return weights_only

    assert product(token=Promising(), context=Promising()).declared(2).lipschitz == pytest.approx(0.3 / 0.2)


def test_the_certificate_says_what_the_temperatures_keep() -> None:
    scales = {"token": EntropySoftmax(), "task": InverseLoss()}
    assert product(**scales).certificate.startswith("sum 1/T_s = 1/1 (token) + 1/1 (task) = 2 > 1: ")
    assert "the composed one" in product(**scales).certificate
    assert "the guard's bounds hold" in product(**scales, bounds=(0.1, 0.9)).certificate
    kept = product(**scales, temperatures={"token": 2, "task": 2})
    assert kept.certificate.startswith("sum 1/T_s = 1/2 (token) + 1/2 (task) = 1 <= 1: ")
    assert kept.declared(2).source == kept.certificate
    assert product().certificate == "no scale has a rule: weights are 1/K"


def test_tempered_scales_keep_a_common_lower_bound() -> None:
    rule = Written(torch.empty(0), 0.1, 0.8)
    thirds = {"token": 3, "task": 3, "context": 3}
    promise = product(token=rule, task=rule, context=rule, temperatures=thirds).declared(3)
    assert (promise.lowest, promise.highest) == pytest.approx((0.1, 0.8))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bounds": (0.6, 0.4)}, r"w_min=0\.6 must not exceed w_max=0\.4"),
        ({"bounds": (-0.1, 0.4)}, r"w_min=-0\.1 must be a probability"),
        ({"bounds": (0.1, 1.4)}, r"w_max=1\.4 must be a probability"),
        ({"temperatures": {"token": 0.0}}, r"temperatures\['token'\]=0\.0 must be finite and positive"),
        ({"temperatures": {"word": 1.0}}, r"temperatures names scale 'word'"),
    ],
)
def test_bad_options_are_refused(options, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        product(**options)


def test_bad_names_are_refused_without_the_type_check() -> None:
    # Production has no run-time type check; the constructor itself must refuse.
    from mashbill.weights.compose import _require_finish

    unchecked = getattr(_require_finish, "__wrapped__", _require_finish)
    with pytest.raises(ValueError, match=r"^guard='hard' must be 'kl', 'l2' or 'squash'"):
        unchecked(None, None, "hard")
    with pytest.raises((ValueError, TypeError), match="order"):
        unchecked("alphabetic", None, "kl")


def test_bounds_that_k_teachers_cannot_keep_are_refused(random_evidence) -> None:
    operator = product(token=EntropySoftmax(), bounds=(0.3, 0.9))
    with pytest.raises(ValueError, match=r"w_min=0\.3 is too large for 4 teachers"):
        operator(random_evidence(4))
    with pytest.raises(ValueError, match=r"w_min=0\.3 is too large for 4 teachers"):
        operator.declared(4)


def test_a_rule_of_the_wrong_shape_is_named(random_evidence) -> None:
    with pytest.raises(ValueError, match=r"token=function returned shape \(2, 4, 1\).*K = 3"):
        product(token=lambda evidence: torch.zeros(2, 4, 1))(random_evidence(3))
    with pytest.raises(ValueError, match="safety orders 2 teachers, but there are 3 weights"):
        product(token=EntropySoftmax(), order=SafetyOrder(2, ((0, 1),)))(random_evidence(3))


def test_public_names() -> None:
    assert mb.product is product
    assert mb.conform is conform
    assert mb.simplex.project_l2.__name__ == "project_l2"
    assert mb.order.project.__name__ == "project"
    assert mb.weights.EntropySoftmax is EntropySoftmax
    assert mb.weights.published.Route is Route
    assert isinstance(mb.product(), Product)
    assert callable(mb.pools.linear)


def test_importing_a_pool_by_its_file_does_not_hide_the_pool() -> None:
    import mashbill.pools.arithmetic

    assert callable(mb.pools.linear)
    assert mashbill.pools.arithmetic.linear is mb.pools.linear


def test_a_guard_in_log_space_moves_log_weights_no_further_than_scores() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = 2 * torch.randn(5000, 4, generator=generator, dtype=DOUBLE)
    step = 1e-3 * (2 * torch.rand(5000, 4, generator=generator, dtype=DOUBLE) - 1)
    ranking = [3.0, 1.0, 2.0, 2.0]

    def finished(x):
        return mb.simplex.project_kl_log(mb.order.fit(x, ranking), w_min=0.05, w_max=0.4)

    change = finished(scores + step) - finished(scores)
    up_to_a_constant = (change.amax(-1) - change.amin(-1)) / 2
    assert bool((up_to_a_constant <= step.abs().amax(-1) + 1e-12).all())


def test_a_class_is_no_rule():
    with pytest.raises(
        TypeError, match=r"token=EntropySoftmax is a class; give it its options, as in EntropySoftmax\(\)"
    ):
        product(token=EntropySoftmax)
    with pytest.raises(TypeError, match=r"op=EntropySoftmax is a class"):
        conform(EntropySoftmax)


def test_a_name_is_no_rule():
    with pytest.raises(TypeError, match="entropy_softmax"):
        product(token="entropy_softmax")


def test_an_order_needs_no_bounds():
    assert conform(EntropySoftmax(), order=SafetyOrder(2, ((0, 1),))).bounds is None
