import networkx
import numpy as np
import pytest
import quadprog
import torch

from mashbill.weights import order
from mashbill.weights.order import SafetyOrder

DOUBLE = torch.float64


def test_orders_without_conflict_are_united() -> None:
    merged = order.merge([(0, 1)], SafetyOrder(4, ((1, 2),)))
    assert merged.order.closure == ((0, 1), (0, 2), (1, 2))
    assert (merged.components, merged.conflicts, merged.report()) == ((), (), "")


def test_a_conflict_is_reported_and_collapsed() -> None:
    merged = order.merge([(0, 1), (2, 3)], [(1, 2)], [(2, 0), (1, 2)], n_teachers=5)
    assert merged.components == ((0, 1, 2),)
    assert merged.order.closure == ((0, 3), (1, 3), (2, 3))
    assert [(c.pair, c.stated_by, c.cycle) for c in merged.conflicts] == [
        ((0, 1), (0,), (0, 1, 2, 0)),
        ((1, 2), (1, 2), (1, 2, 0, 1)),
        ((2, 0), (2,), (2, 0, 1, 2)),
    ]
    said = merged.report(["a", "b", "c", "d", "e"], sources=["token", "context", "scorecard"])
    assert said.splitlines() == [
        "must count alike: a, b, c",
        "a > b (stated by token) is part of a > b > c > a",
        "b > c (stated by context, scorecard) is part of b > c > a > b",
        "c > a (stated by scorecard) is part of c > a > b > c",
    ]


def test_ties_of_merged_orders_count() -> None:
    merged = order.merge(SafetyOrder(3, (), ((0, 1),)), [(1, 2)], [(2, 0)])
    assert merged.components == ((0, 1, 2),)
    assert [conflict.cycle for conflict in merged.conflicts] == [(1, 2, 0, 1), (2, 0, 1, 2)]
    agreed = order.merge(SafetyOrder(3, (), ((0, 1),)), [(1, 2)])
    assert (agreed.components, agreed.conflicts) == (((0, 1),), ())
    assert agreed.order.closure == ((0, 2), (1, 2))


@pytest.mark.parametrize("seed", range(40))
def test_components_and_closure_are_those_of_a_graph_library(seed) -> None:
    draw = np.random.default_rng(seed)
    n_teachers = int(draw.integers(2, 12))
    lists = [
        [(int(i), int(j)) for i, j in draw.integers(0, n_teachers, (int(draw.integers(0, n_teachers)), 2)) if i != j]
        for _ in range(3)
    ]
    graph = networkx.DiGraph(pair for pairs in lists for pair in pairs)
    graph.add_nodes_from(range(n_teachers))
    merged = order.merge(*lists, n_teachers=n_teachers)
    strong = {tuple(sorted(group)) for group in networkx.strongly_connected_components(graph) if len(group) > 1}
    assert set(merged.components) == strong
    place = {k: group for group in strong for k in group}
    reachable = {(i, j) for i in graph for j in networkx.descendants(graph, i) if place.get(i, i) != place.get(j, j)}
    assert set(merged.order.closure) == reachable
    assert {c.pair for c in merged.conflicts} == {(i, j) for i, j in graph.edges if place.get(i, i) == place.get(j, j)}
    for conflict in merged.conflicts:
        assert conflict.cycle[:2] == conflict.pair
        assert conflict.cycle[0] == conflict.cycle[-1]
        assert all(graph.has_edge(i, j) for i, j in zip(conflict.cycle, conflict.cycle[1:], strict=False))
        assert len(conflict.cycle) == 2 + networkx.shortest_path_length(graph, *conflict.pair[::-1])


def with_ties_by_quadprog(v: np.ndarray, safety: SafetyOrder, w_min: float, w_max: float) -> np.ndarray:
    eye, n = np.eye(len(v)), len(v)
    equal = [eye[group[0]] - eye[k] for group in safety.ties for k in group[1:]]
    rows = [np.ones(n), *equal, *eye, *-eye, *(eye[i] - eye[j] for i, j in safety.closure)]
    floor = [1.0, *[0.0] * len(equal), *[w_min] * n, *[-w_max] * n, *[0.0] * len(safety.closure)]
    return quadprog.solve_qp(eye, v, np.array(rows).T, np.array(floor), meq=1 + len(equal))[0]


TIED = [
    SafetyOrder(5, ((0, 1), (1, 2)), ((1, 4),)),
    SafetyOrder(6, ((0, 1), (0, 2), (3, 2)), ((1, 4), (2, 5))),
    SafetyOrder(4, (), ((0, 1, 2, 3),)),
    SafetyOrder(20, tuple((i, 10 + j) for i in range(8) for j in range(8) if (i + j) % 3), ((0, 8, 9), (10, 18))),
]


@pytest.mark.parametrize("safety", TIED, ids=["ranking", "forest", "one group", "cuts"])
def test_tied_teachers_are_projected_as_a_quadratic_program_does(safety) -> None:
    n = safety.n_teachers
    v = np.random.default_rng(0).dirichlet(np.full(n, 0.5), 40)
    found = order.project(torch.from_numpy(v), safety=safety, w_min=0.3 / n, w_max=min(1.0, 1.7 / n)).numpy()
    expected = np.array([with_ties_by_quadprog(row, safety, 0.3 / n, min(1.0, 1.7 / n)) for row in v])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("metric", ["l2", "kl"])
@pytest.mark.parametrize("safety", TIED, ids=["ranking", "forest", "one group", "cuts"])
def test_tied_teachers_get_the_same_number(safety, metric, dtype) -> None:
    n = safety.n_teachers
    v = torch.rand(150, n, generator=torch.Generator().manual_seed(1), dtype=dtype) + 1e-3
    w = order.project(v, safety=safety, w_min=0.3 / n, w_max=min(1.0, 1.7 / n), metric=metric)
    slack = 0.0 if metric == "l2" else 2 * torch.finfo(dtype).eps
    for group in safety.ties:
        assert float((w[:, list(group)].amax(-1) - w[:, list(group)].amin(-1)).max()) <= slack


def test_a_tie_is_the_mean_in_both_metrics() -> None:
    v = torch.tensor([0.1, 0.4, 0.5], dtype=DOUBLE)
    tied = SafetyOrder(3, (), ((0, 1),))
    assert order.project(v, safety=tied).tolist() == pytest.approx([0.25, 0.25, 0.5])
    share = 0.2 / (0.2 + 0.2 + 0.5)  # geometric mean of .1 and .4
    assert order.project(v, safety=tied, metric="kl").tolist() == pytest.approx([share, share, 1 - 2 * share])


@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_gradients_through_ties_are_those_of_finite_differences(metric) -> None:
    v = torch.rand(4, 6, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).add(0.05).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: order.project(x, safety=TIED[1], w_min=0.05, w_max=0.4, metric=metric), (v,)
    )


def test_ties_that_overlap_are_one() -> None:
    safety = SafetyOrder(5, ((0, 1),), ((1, 2), (2, 3)))
    assert safety.closure == ((0, 1), (0, 2), (0, 3))
    assert safety.copeland() == (3, -1, -1, -1, 0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pairs contain \(1, 2\), but ties make them equal"):
        SafetyOrder(3, ((1, 2),), ((1, 2),))
    with pytest.raises(ValueError, match=r"cycle .*; remove one of its pairs, or collapse it: order\.merge"):
        SafetyOrder(3, ((0, 1), (2, 0)), ((1, 2),))
    with pytest.raises(ValueError, match=r"ties contain \(0, 3\), but teachers are numbered 0 to 2"):
        SafetyOrder(3, (), ((0, 3),))
    with pytest.raises(ValueError, match=r"orders\[1\] contain \(0, 3\), but teachers are numbered 0 to 2"):
        order.merge([], [(0, 3)], n_teachers=3)
    with pytest.raises(ValueError, match="n_teachers=None with orders of"):
        order.merge([(0, 1)])
    with pytest.raises(ValueError, match=r"n_teachers=3 with orders of \[3, 4\] teachers"):
        order.merge(SafetyOrder(4, ()), n_teachers=3)


@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_each_position_has_its_own_order(metric) -> None:
    orders = [SafetyOrder.from_scores([1, 2, 3, 4]), SafetyOrder(4, ((0, 1),), ((2, 3),)), SafetyOrder(4, ((3, 0),))]
    generator = torch.Generator().manual_seed(3)
    w = torch.rand(8, 30, 4, generator=generator, dtype=DOUBLE)
    which = torch.randint(-1, 3, (8, 30), generator=generator)
    options = {"w_min": 0.1, "w_max": 0.5, "metric": metric}
    found = order.project_by(w, which, orders=orders, **options)
    for b in range(8):
        for t in range(30):
            safety = orders[which[b, t]] if which[b, t] >= 0 else SafetyOrder(4, ())
            expected = order.project(w[b, t], safety=safety, **options)
            torch.testing.assert_close(found[b, t], expected, rtol=0, atol=1e-15)
    by_row = order.project_by(w, which[:, :1], orders=orders, **options)
    torch.testing.assert_close(by_row[:, 0], found[:, 0], rtol=0, atol=1e-15)


def test_orders_by_position_pass_gradients_and_refuse_unknown_ones() -> None:
    orders = [SafetyOrder(3, ((0, 1),)), SafetyOrder(3, ((1, 0), (1, 2)))]
    v = torch.rand(5, 3, generator=torch.Generator().manual_seed(4), dtype=DOUBLE).requires_grad_()
    which = torch.tensor([0, 1, -1, 1, 0])
    assert torch.autograd.gradcheck(lambda x: order.project_by(x, which, orders=orders, w_min=0.05), (v,))
    with pytest.raises(ValueError, match="which contains -1 to 1, but there are 1 orders"):
        order.project_by(v, which, orders=orders[:1])


def test_a_class_of_critical_tokens_has_its_own_order() -> None:
    class_of = torch.tensor([-1, 0, 1, -1])  # vocabulary: two kinds of critical tokens
    labels = torch.tensor([[0, 1, 2]])
    orders = [SafetyOrder(2, ((0, 1),)), SafetyOrder(2, ((1, 0),))]
    w = torch.tensor([0.3, 0.7], dtype=DOUBLE).expand(1, 3, 2)
    found = order.project_by(w, class_of[labels], orders=orders)
    torch.testing.assert_close(found[0], torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.3, 0.7]], dtype=DOUBLE))
