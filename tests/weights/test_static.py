import math

import pytest
import torch

import mashbill as mb
from mashbill import numerics
from mashbill.weights.published import Route
from mashbill.weights.static import Static, Uniform

NAMES = {
    "tasks": ("read", "write"),
    "task": torch.tensor([0, 1, 1, 0]),
    "contexts": ("home", "away"),
    "context": torch.tensor([1, 1, 0, 0]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_minus_log_k(dtype, random_evidence) -> None:
    log_weights = Uniform()(random_evidence(3, dtype=dtype))
    assert torch.equal(log_weights, torch.full((3, 4, 1), -math.log(3), dtype=dtype))
    assert Uniform().declared(4).lowest == Uniform().declared(4).highest == 0.25


def test_static_weights_by_teacher_name(random_evidence) -> None:
    rule = Static({"t1": 0.7, "t0": 0.1, "t2": 0.2})
    weights = rule(random_evidence(3)).exp()
    assert weights.shape == (3, 4, 1)
    assert weights[:, 2, 0].tolist() == pytest.approx([0.1, 0.7, 0.2])
    assert (rule.declared(3).lowest, rule.declared(3).highest, rule.declared(3).lipschitz) == (0.1, 0.7, 0.0)


def test_static_weights_by_task_and_by_context(random_evidence) -> None:
    table = {"read": {"t0": 1, "t1": 0}, "write": {"t0": 0.25, "t1": 0.75}}
    log_weights = Static(table, by="task")(random_evidence(2, **NAMES))
    assert log_weights[0, :, 0].exp().tolist() == pytest.approx([1.0, 0.25, 0.25, 1.0])
    assert float(log_weights[1, 0, 0]) == numerics.LOG_ZERO
    by_context = Static({"away": {"t0": 0.25, "t1": 0.75}}, by="context")
    assert by_context.scale == "context"
    weights = by_context(random_evidence(2, **NAMES)).exp()
    assert weights[0, :, 0].tolist() == pytest.approx([0.25, 0.25, 0.5, 0.5])  # what is left out counts all alike


def test_names_that_do_not_exist_are_refused(random_evidence) -> None:
    evidence = random_evidence(2, **NAMES)
    with pytest.raises(ValueError, match="weights names teacher 'tX', which does not exist; there are t0, t1"):
        Static({"t0": 0.5, "tX": 0.5})(evidence)
    with pytest.raises(ValueError, match="weights says nothing about teacher 't1'; add it"):
        Static({"t0": 1.0})(evidence)
    with pytest.raises(ValueError, match="weights names task 'sing', which does not exist; there are read, write"):
        Static({"sing": {"t0": 0.5, "t1": 0.5}}, by="task")(evidence)
    with pytest.raises(ValueError, match="weights weighs 2 teachers, but n_teachers=3"):
        Static({"t0": 0.5, "t1": 0.5}).declared(3)


@pytest.mark.parametrize("weight", [0.1428571, 0.1428572])
def test_a_sum_that_is_1_within_the_tolerance_can_be_composed(weight, random_evidence) -> None:
    operator = mb.product(task=Static({f"t{k}": weight for k in range(7)}))
    assert operator.declared(7).lowest == pytest.approx(1 / 7, abs=1e-12)
    rule = Static({"t0": 0.3, "t1": 0.7000009})
    found, promise = rule(random_evidence(2)).exp(), rule.declared(2)
    assert promise.lowest - 1e-12 <= found.min() <= found.max() <= promise.highest + 1e-12


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Static({"a": 0.5, "b": 0.4}), r"weights=.* sum to 0\.9, but must sum to 1"),
        (lambda: Static({"a": 1.5, "b": -0.5}), r"weights\['a'\]=1\.5 must be a weight between 0 and 1"),
        (lambda: Static({"a": math.nan, "b": 1.0}), r"weights\['a'\]=nan must be a weight"),
        (lambda: Static({}), r"weights=\{\} must map each teacher id to its weight"),
        (lambda: Static({"read": 0.5}, by="task"), r"weights\['read'\]=0\.5 must map each teacher id"),
        (lambda: Static({}, by="task"), r"weights=\{\} must map each task to"),
        (lambda: Static({"a": True}), r"weights\['a'\]=True must be a weight"),
    ],
)
def test_sets_that_are_no_distribution_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_route_follows_the_rows_teacher(random_evidence) -> None:
    evidence = random_evidence(3, route=torch.tensor([2, 0, -1, 2]))
    log_weights = Route()(evidence)
    expected = torch.tensor([[0, 0, 1.0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]], dtype=torch.float64).T
    torch.testing.assert_close(log_weights[..., 0].exp(), expected)
    assert float(log_weights.min()) == numerics.LOG_ZERO


def test_route_leaves_the_floor_to_the_others(random_evidence) -> None:
    rule = Route(floor=0.05)
    weights = rule(random_evidence(3, route=torch.tensor([2, 0, 1, 2]))).exp()
    assert weights[:, 0, 0].tolist() == pytest.approx([0.05, 0.05, 0.9])
    assert (rule.declared(3).lowest, rule.declared(3).highest) == (0.05, pytest.approx(0.9))
    assert (Route().declared(1).lowest, Route().declared(1).highest) == (1.0, 1.0)


def test_a_floor_is_not_rounded_below_its_promise(random_evidence) -> None:
    rule = Route(floor=0.02)
    found = rule(random_evidence(3, route=torch.tensor([0, 1, 2, -1]))).exp()
    assert float(found.min()) == pytest.approx(0.02, abs=1e-15)
    assert float(found.max()) == pytest.approx(rule.declared(3).highest, abs=1e-15)


def test_route_refuses_a_floor_above_an_even_share(random_evidence) -> None:
    with pytest.raises(ValueError, match=r"floor=0\.5 is too large for 3 teachers; lower it to at most 1/3"):
        Route(floor=0.5)(random_evidence(3))
    with pytest.raises(ValueError, match=r"^floor=-0\.1 must be a weight"):
        Route(floor=-0.1)
