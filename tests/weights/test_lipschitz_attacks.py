"""Every advertised Lipschitz constant of guards and orders, attacked by gradient ascent on the difference quotient.

An attack that comes near the constant shows that it has the power to exceed it; none may.
"""

from collections.abc import Callable

import pytest
import torch

from mashbill.weights import order, simplex
from mashbill.weights.order import SafetyOrder

DOUBLE = torch.float64
BOX = {"w_min": 0.05, "w_max": 0.6}
FOREST = SafetyOrder(4, ((0, 1), (0, 2), (3, 2)))


def attack(
    function: Callable[[torch.Tensor], torch.Tensor], *, n_teachers: int, norm: float, spread: float, seed: int = 0
) -> float:
    """Return the largest ``|f(x) - f(y)| / |x - y|`` that ascent from 100 starting pairs finds, in one norm."""
    generator = torch.Generator().manual_seed(seed)
    x = (spread * torch.randn(100, n_teachers, generator=generator, dtype=DOUBLE)).requires_grad_()
    toward = torch.randn(100, n_teachers, generator=generator, dtype=DOUBLE).requires_grad_()
    distance = spread * 10 ** (-3 * torch.rand(100, 1, generator=generator, dtype=DOUBLE))
    optimiser = torch.optim.Adam([x, toward], lr=0.05)
    largest = 0.0
    for _ in range(90):
        # tanh drives the direction to the corners of the sup-norm ball.
        direction = torch.tanh(2 * toward) if norm == torch.inf else toward
        step = distance * direction / direction.norm(p=norm, dim=-1, keepdim=True)
        moved = (function(x + step / 2) - function(x - step / 2)).norm(p=norm, dim=-1)
        quotient = moved / step.norm(p=norm, dim=-1)
        largest = max(largest, float(quotient.detach().max()))
        optimiser.zero_grad()
        (-quotient.sum()).backward()
        optimiser.step()
    return largest


def ranked(x: torch.Tensor) -> list[float]:
    return [float(k) for k in range(x.shape[-1], 0, -1)]


CLAIMS = {
    "squash, sup": (lambda x: simplex.squash(x, **BOX), torch.inf, 0.02, lambda n: simplex.squash_factor(n, **BOX)),
    "l2, l2": (lambda x: simplex.project_l2(x, **BOX), 2, 0.3, lambda n: 1.0),
    "l2, sup": (lambda x: simplex.project_l2(x, **BOX), torch.inf, 0.1, lambda n: 2 * (1 - 1 / n)),
    "softmax, sup": (lambda x: x.softmax(-1), torch.inf, 1.0, lambda n: 0.5),
    "softmax and KL guard, sup": (
        lambda x: simplex.project_kl_log(x, **BOX).exp(),
        torch.inf,
        1.0,
        lambda n: 0.5,
    ),
    "order, sup": (lambda x: order.fit(x, ranked(x)), torch.inf, 1.0, lambda n: 1.0),
    "order, l2": (lambda x: order.fit(x, ranked(x)), 2, 1.0, lambda n: 1.0),
    "order and l2 guard, l2": (
        lambda x: order.project(x, safety=ranked(x), **BOX),
        2,
        0.3,
        lambda n: 1.0,
    ),
    "scores, order and KL guard, sup": (
        lambda x: simplex.project_kl_log(order.fit(x, ranked(x)), **BOX).exp(),
        torch.inf,
        1.0,
        lambda n: 0.5,
    ),
}


@pytest.mark.parametrize("n_teachers", [2, 5])
@pytest.mark.parametrize("claim", CLAIMS)
def test_no_attack_exceeds_the_constant_and_some_come_near(claim, n_teachers) -> None:
    function, norm, spread, constant = CLAIMS[claim]
    found = attack(function, n_teachers=n_teachers, norm=norm, spread=spread)
    assert 0.97 * constant(n_teachers) < found <= constant(n_teachers) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize(
    ("function", "norm", "constant"),
    [
        (lambda x: order.fit(x, FOREST), torch.inf, 1.0),
        (lambda x: order.project(x, safety=SafetyOrder(4, ((0, 1),), ((1, 3),)), **BOX), 2, 1.0),
        (lambda x: simplex.project_kl_log(order.fit(x, FOREST), **BOX).exp(), torch.inf, 0.5),
        (lambda x: simplex.squash(x.softmax(-1), **BOX), torch.inf, 0.5 * simplex.squash_factor(4, **BOX)),
    ],
    ids=["forest", "ties and l2 guard", "forest and KL guard", "softmax and squash"],
)
def test_other_orders_and_compositions_are_attacked_too(function, norm, constant) -> None:
    found = attack(function, n_teachers=4, norm=norm, spread=0.5)
    assert 0.97 * constant < found <= constant * (1 + 1e-9)


def test_the_relaxed_order_moves_no_further_than_the_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 400, 4, generator=generator, dtype=DOUBLE)
    scores = torch.tensor([0.3, 0.2, 0.1, 0.05], dtype=DOUBLE)
    near = x + 1e-3 * (y - x)
    for other in (y, near):
        before, after = (order.project_relaxed(v, scores=scores, margin=0.2, kappa=2.0) for v in (x, other))
        quotient = (before - after).norm(dim=-1) / (x - other).norm(dim=-1)
        assert 0.9 < float(quotient.max()) <= 1 + 1e-9


def test_the_attack_finds_the_constant_of_a_known_map() -> None:
    matrix = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0], [3.0, 0.0, -1.0]], dtype=DOUBLE)
    found = attack(lambda x: x @ matrix.T, n_teachers=3, norm=torch.inf, spread=1.0)
    assert found == pytest.approx(float(matrix.abs().sum(-1).max()), rel=1e-3)
