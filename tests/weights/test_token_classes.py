import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from mashbill import pools
from mashbill.distributions import Dense, Statistics, measure
from mashbill.weights import order, product
from mashbill.weights.context import RankedSafety
from mashbill.weights.evidence import Evidence, WeightOperator
from mashbill.weights.static import Static, Uniform
from mashbill.weights.token import EntropySoftmax
from mashbill.weights.token_classes import TokenClasses, marginalise, mean_class_mass, normaliser_bounds

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE)


@dataclass(frozen=True)
class Fixed:
    """A rule that answers what it was given."""

    log_weights: torch.Tensor

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return self.log_weights


def shares(*weights: float) -> Static:
    return Static({f"t{k}": weight for k, weight in enumerate(weights)})


def evidence_of(probabilities: torch.Tensor, classes: list[int]) -> Evidence:
    """Evidence of teachers ``[K B T V]`` with a class id for each entry."""
    n_classes = max(classes) + 1
    each = [measure(Dense.from_probs(p), classes=torch.tensor(classes), n_classes=n_classes) for p in probabilities]
    names = tuple(f"t{k}" for k in range(len(probabilities)))
    return Evidence.plain(names, Statistics.stack(each), n_entries=probabilities.shape[-1])


def random_teachers(*shape: int, seed: int = 0, sharpness: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(shape, generator=generator, dtype=DOUBLE)).softmax(dim=-1)


def random_log_weights(*shape: int, seed: int = 0, w_min: float = 0.0) -> torch.Tensor:
    """Log-weights over the second axis, each at least ``w_min``."""
    generator = torch.Generator().manual_seed(seed)
    weights = (2 * torch.randn(shape, generator=generator, dtype=DOUBLE)).softmax(dim=1)
    return (w_min + (1 - shape[1] * w_min) * weights).log()


def test_marginalised_weights_golden(golden) -> None:
    rule = TokenClasses({"a": shares(0.7, 0.3), "b": shares(0.3, 0.7), "c": shares(0.3, 0.7)}, classes=("a", "b", "c"))
    teachers = APPENDIX_A.reshape(2, 1, 1, 3)
    log_weights = rule(evidence_of(teachers, [0, 1, 2]))
    target = pools.linear(teachers.log(), log_weights).exp()
    weights, pooled = golden("F34")["expected"]
    assert log_weights.exp().flatten().tolist() == pytest.approx(weights, abs=golden("F34")["tol"])
    assert target.flatten().tolist() == pytest.approx(pooled, abs=golden("F34")["tol"])


def test_one_class_and_the_rest_golden(golden) -> None:
    # The last two entries follow the rule of "other", by declaration or because they have no class.
    expected = golden("F34")["expected"][0]
    rules = {0: shares(0.7, 0.3), "other": shares(0.3, 0.7)}
    for classes in ([0, -1, -1], [0, 1, -1], [0, 1, 1]):
        weights = TokenClasses(rules)(evidence_of(APPENDIX_A.reshape(2, 1, 1, 3), classes)).exp().flatten()
        assert weights.tolist() == pytest.approx(expected, abs=golden("F34")["tol"])


def test_marginalised_weights_are_the_sum_over_entries() -> None:
    teachers, classes = random_teachers(3, 4, 5, 7), [0, 2, -1, 1, 2, -1, 0]
    by_class = random_log_weights(4, 3, 4, 5)
    rule = TokenClasses(
        {0: Fixed(by_class[0]), 1: Fixed(by_class[1]), 2: Fixed(by_class[2]), "other": Fixed(by_class[3])}
    )
    evidence = evidence_of(teachers, classes)
    torch.testing.assert_close(rule.class_log_weights(evidence), by_class)
    by_entry = by_class[classes].exp()  # -1 is the last row: [V K B T]
    expected = torch.einsum("btv,vkbt->kbt", teachers.mean(dim=0), by_entry)
    torch.testing.assert_close(rule(evidence).exp(), expected, rtol=1e-12, atol=1e-12)


def test_class_masses_of_the_mean_teacher_sum_to_one() -> None:
    teachers, classes = random_teachers(3, 2, 4, 6), [1, -1, 0, 0, 1, -1]
    mass = mean_class_mass(evidence_of(teachers, classes).statistics.class_mass)
    mean = teachers.mean(dim=0)
    expected = torch.stack([mean[..., 2] + mean[..., 3], mean[..., 0] + mean[..., 4], mean[..., 1] + mean[..., 5]], -1)
    torch.testing.assert_close(mass, expected)


def test_rules_may_have_one_position_or_all_and_are_asked_once() -> None:
    calls = []

    @dataclass(frozen=True)
    class Counting:
        def __call__(self, evidence: Evidence, /) -> torch.Tensor:
            calls.append(1)
            return EntropySoftmax(beta=2.0)(evidence)

    evidence = evidence_of(random_teachers(2, 3, 4, 6), [0, 1, 2, 0, 1, 2])
    rule = Counting()
    log_weights = TokenClasses({0: rule, 1: rule, "other": shares(0.5, 0.5)}).class_log_weights(evidence)
    assert log_weights.shape == (4, 2, 3, 4)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_bounds_order_and_normalisation_of_the_rules_are_kept(dtype) -> None:
    n_teachers, seed = 4, 0
    safety = order.SafetyOrder(n_teachers, ((0, 1), (0, 2), (2, 3)))
    weights = random_log_weights(3, n_teachers, 50, 20, seed=seed).exp().movedim(1, -1)
    boxed = order.project(weights, safety=safety, w_min=0.05, w_max=0.6).movedim(-1, 1).to(dtype)
    rule = TokenClasses({c: Fixed(boxed[c].log()) for c in (0, 1)} | {"other": Fixed(boxed[2].log())})
    result = rule(evidence_of(random_teachers(n_teachers, 50, 20, 5).to(dtype), [0, 1, -1, 0, 1])).exp()
    torch.testing.assert_close(result.sum(dim=0), torch.ones(50, 20, dtype=dtype))
    slack = 1e-12 if dtype == DOUBLE else 1e-6
    assert 0.05 - slack <= float(result.min()) <= float(result.max()) <= 0.6 + slack
    for safer, less in safety.pairs:
        assert bool((result[safer] >= result[less] - slack).all())


def test_the_lipschitz_constant_holds_and_is_attained() -> None:
    rule = TokenClasses({0: shares(0.9, 0.1), "other": shares(0.2, 0.8)})
    promise = rule.declared(2)
    assert (promise.lowest, promise.highest) == pytest.approx((0.1, 0.9))
    assert promise.lipschitz == pytest.approx(0.4)
    assert promise.metric == "class mass of the mean teacher, l1"
    extremes = TokenClasses({0: shares(0.9, 0.1), "other": shares(0.1, 0.9)})
    teachers = torch.tensor([[[[0.3, 0.7]]], [[[0.3, 0.7]]]], dtype=DOUBLE)
    moved = teachers + torch.tensor([1e-3, -1e-3], dtype=DOUBLE)
    change = extremes(evidence_of(moved, [0, -1])).exp() - extremes(evidence_of(teachers, [0, -1])).exp()
    assert float(change.abs().max()) / 2e-3 == pytest.approx(extremes.declared(2).lipschitz, rel=1e-9)


def test_a_promise_carries_what_the_rules_promise() -> None:
    rule = TokenClasses({0: EntropySoftmax(beta=1.0), "other": RankedSafety(spread=0.5, safety={"t0": 1, "t1": 0})})
    entropy, ranked = EntropySoftmax(beta=1.0).declared(2), RankedSafety(spread=0.5).declared(2)
    promise = rule.declared(2)
    assert promise.lowest == min(entropy.lowest, ranked.lowest)
    assert promise.highest == max(entropy.highest, ranked.highest)
    assert promise.lipschitz == pytest.approx(entropy.lipschitz + (promise.highest - promise.lowest) / 2)
    assert "teacher logits" in promise.metric
    assert rule.needs == {"class_mass", "entropy"}
    # Entries without a class are uniform unless somebody says otherwise.
    assert TokenClasses({0: shares(0.9, 0.1)}).declared(2).lowest == pytest.approx(0.1)
    assert TokenClasses({0: shares(0.6, 0.4)}).declared(2).highest == pytest.approx(0.6)
    # A rule that declares nothing certifies no constant.
    assert TokenClasses({0: Fixed(torch.zeros(2, 1, 1))}).declared(2).lipschitz is None


def test_classes_that_are_left_out_are_uniform_and_all_uniform_is_uniform() -> None:
    evidence = evidence_of(random_teachers(3, 2, 2, 4), [0, 1, -1, 1])
    by_class = TokenClasses({1: shares(0.5, 0.3, 0.2)}).class_log_weights(evidence)
    torch.testing.assert_close(by_class[[0, 2]].exp(), torch.full((2, 3, 2, 2), 1 / 3, dtype=DOUBLE))
    result = product(token=TokenClasses({1: Uniform()}))(evidence)
    assert torch.equal(result, torch.full((3, 2, 2), -math.log(3), dtype=DOUBLE))


def test_positions_that_do_not_count_poison_nothing() -> None:
    evidence = evidence_of(random_teachers(2, 2, 3, 4), [0, 1, -1, 1])
    rule = TokenClasses({0: shares(0.9, 0.1), 1: shares(0.3, 0.7)})
    clean = rule(evidence)
    mass = evidence.statistics.class_mass.clone()
    mass[:, 0, 1] = torch.nan
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[0, 1] = False
    result = rule(replace(evidence, mask=mask, statistics=replace(evidence.statistics, class_mass=mass)))
    assert bool(result.isfinite().all())
    assert torch.equal(result[:, mask], clean[:, mask])


def test_marginalising_is_exact_for_tiny_weights_and_masses_of_zero() -> None:
    logs = torch.tensor([[0.0, -2000.0], [-1000.0, 0.0]], dtype=torch.float32).reshape(2, 2, 1, 1)
    only_first = marginalise(logs, torch.tensor([[[1.0, 0.0]]]))
    torch.testing.assert_close(only_first.flatten(), torch.tensor([0.0, -2000.0]))
    both = marginalise(logs, torch.tensor([[[0.25, 0.75]]])).flatten()
    torch.testing.assert_close(both.exp(), torch.tensor([0.25, 0.75]))
    assert bool(marginalise(logs, torch.zeros(1, 1, 2)).isfinite().all())


def test_gradients_of_marginalising_also_at_a_mass_of_zero() -> None:
    logs = random_log_weights(3, 2, 1, 2).requires_grad_()
    mass = torch.tensor([[[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, r: marginalise(w.log_softmax(dim=1), r).exp(), (logs, mass))
    at_zero = torch.tensor([[[0.4, 0.6, 0.0]]], dtype=DOUBLE, requires_grad=True)
    fixed = logs.detach()[..., :1]
    (gradient,) = torch.autograd.grad(marginalise(fixed, at_zero)[0].exp().sum(), at_zero)
    # d/dr_c of sum_c r_c w_c / sum_c r_c
    weights = fixed[:, 0].exp().flatten()
    expected = weights - (at_zero.detach().flatten() * weights).sum()
    torch.testing.assert_close(gradient.flatten(), expected)


def test_the_range_of_the_normaliser_golden(golden) -> None:
    low, high = normaliser_bounds(APPENDIX_A.log(), w_min=0.3, w_max=0.7)
    assert [float(low), float(high)] == pytest.approx(golden("F33")["expected"], abs=golden("F33")["tol"])


def test_two_teachers_leave_one_by_their_total_variation() -> None:
    teachers = random_teachers(2, 6, 7, 9)
    distance = (teachers[0] - teachers[1]).abs().sum(dim=-1) / 2
    low, high = normaliser_bounds(teachers.log(), w_min=0.1)
    torch.testing.assert_close(low, 1 - 0.8 * distance)
    torch.testing.assert_close(high, 1 + 0.8 * distance)


@pytest.mark.parametrize(
    ("n_teachers", "w_min", "w_max"), [(3, 0.1, 0.5), (4, 0.05, 0.3), (5, 0.0, 1.0), (3, 1 / 3, 1.0)]
)
def test_the_range_is_that_of_a_linear_programme_for_each_entry(n_teachers, w_min, w_max) -> None:
    teachers = random_teachers(n_teachers, 6)
    low, high = normaliser_bounds(teachers.log(), w_min=w_min, w_max=w_max)
    expected = [0.0, 0.0]
    for entry in teachers.T.numpy():
        for place, sign in enumerate((1, -1)):
            solved = linprog(
                sign * entry, A_eq=np.ones((1, n_teachers)), b_eq=[1], bounds=[(w_min, w_max)] * n_teachers
            )
            expected[place] += sign * solved.fun
    assert [float(low), float(high)] == pytest.approx(expected, abs=1e-10)


def test_no_weights_by_entry_leave_the_range() -> None:
    teachers = random_teachers(3, 20_000, 4).movedim(1, 0)  # [N 3 4]
    weights = random_log_weights(20_000, 3, 4, w_min=0.1).exp()
    z = (teachers * weights).sum(dim=(1, 2))
    low, high = normaliser_bounds(teachers.movedim(1, 0).log(), w_min=0.1)
    assert bool(((low - 1e-12 <= z) & (z <= high + 1e-12)).all())
    assert bool(((low >= 0.3 - 1e-12) & (high <= 2.4 + 1e-12)).all())


def test_weights_by_class_have_the_narrower_range_of_class_masses() -> None:
    teachers = random_teachers(3, 8)
    classes = teachers.reshape(3, 2, 4).sum(dim=-1)
    low, high = normaliser_bounds(teachers.log(), w_min=0.1)
    class_low, class_high = normaliser_bounds(classes.log(), w_min=0.1)
    assert low < class_low < 1 < class_high < high


def test_they_are_a_token_rule() -> None:
    rule = TokenClasses({0: EntropySoftmax(beta=3.0)})
    assert isinstance(rule, WeightOperator)
    assert rule.scale == "token"
    weights = product(token=rule, bounds=(0.2, 0.6))(evidence_of(random_teachers(3, 2, 3, 4), [0, 0, -1, -1])).exp()
    assert weights.shape == (3, 2, 3)
    assert float(weights.min()) >= 0.2 - 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenClasses({}), "rules={} must give at least one class a rule"),
        (lambda: TokenClasses({"x": Uniform()}, classes=("a",)), "rules names class 'x', .* there are a, other"),
        (lambda: TokenClasses({-1: Uniform()}), "rules names class -1"),
        (lambda: TokenClasses({0: Uniform(), "a": Uniform()}, classes=("a",)), "names a class twice"),
        (lambda: TokenClasses({0: Uniform()}, classes=("a", "a")), "classes=.* must differ"),
        (lambda: TokenClasses({0: Uniform()}, classes=("other",)), "classes=.* must differ"),
        (lambda: normaliser_bounds(APPENDIX_A.log(), w_min=0.6), "w_min=0.6 is too large for 2 teachers"),
    ],
)
def test_impossible_arguments_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_evidence_with_other_classes_is_refused() -> None:
    evidence = evidence_of(random_teachers(2, 1, 1, 3), [0, 1, -1])
    with pytest.raises(ValueError, match="rules names class 2, but the evidence has the mass of 2 classes"):
        TokenClasses({2: Uniform()})(evidence)
    with pytest.raises(ValueError, match=r"classes=\('a',\) names 1, but the evidence has the mass of 2"):
        TokenClasses({"a": Uniform()}, classes=("a",))(evidence)
