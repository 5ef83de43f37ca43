"""What learned rules start from and step with: seeded layers, and optimisers whose state is saved with the rule.

``torch.optim`` keeps its state outside the module; here it is buffers, so that ``state_dict()`` of a rule restores the
next step exactly, too.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


class Adam(nn.Module):
    """Adam with ``beta = (0.9, 0.999)``, ``epsilon = 1e-8`` and l2 decay, as ``torch.optim.Adam``.

    Attributes:
        learning_rate: Step size. Positive.
        weight_decay: Times the parameter, added to its gradient.
    """

    first: Tensor
    second: Tensor
    n_steps: Tensor

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: Number, weight_decay: Number = 0.0) -> None:
        super().__init__()
        require_rate(learning_rate)
        self.learning_rate, self.weight_decay = float(learning_rate), float(weight_decay)
        n_parameters = sum(parameter.numel() for parameter in parameters)
        self.register_buffer("first", torch.zeros(n_parameters))
        self.register_buffer("second", torch.zeros(n_parameters))
        self.register_buffer("n_steps", torch.zeros(()))

    @torch.no_grad()
    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Move the parameters, always the same ones in the same order."""
        flat = torch.cat([p.flatten() for p in parameters])
        gradient = torch.cat([g.flatten() for g in gradients]).to(flat) + self.weight_decay * flat
        self.n_steps += 1
        self.first.lerp_(gradient.to(self.first), 0.1)
        self.second.lerp_(gradient.to(self.second).square(), 0.001)
        unbiased = (self.second / (1 - 0.999**self.n_steps)).sqrt() + 1e-8
        move = self.learning_rate * self.first / (1 - 0.9**self.n_steps) / unbiased
        _subtract(parameters, move)


class Momentum(nn.Module):
    """Gradient descent with momentum: ``v <- m v + g``, ``p <- p - rate v``, as ``torch.optim.SGD``.

    Attributes:
        learning_rate: Step size. Positive.
        momentum: What is kept of the last step; 0 is plain descent.
    """

    velocity: Tensor

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: Number, momentum: Number = 0.0) -> None:
        super().__init__()
        require_rate(learning_rate)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum!r} must be at least 0 and below 1")
        self.learning_rate, self.momentum = float(learning_rate), float(momentum)
        self.register_buffer("velocity", torch.zeros(sum(parameter.numel() for parameter in parameters)))

    @torch.no_grad()
    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Move the parameters, always the same ones in the same order."""
        gradient = torch.cat([g.flatten() for g in gradients]).to(self.velocity)
        self.velocity.mul_(self.momentum).add_(gradient)
        _subtract(parameters, self.learning_rate * self.velocity)


def linear(n_in: int, n_out: int, *, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """Return a layer with PyTorch's own initial distribution, drawn from ``generator`` alone."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)
    assert isinstance(layer, nn.Linear)
    bound = 1 / math.sqrt(n_in)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def require_rate(learning_rate: Number) -> None:
    """Raise ``ValueError`` unless the step size is finite and positive."""
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate!r} must be finite and positive")


def require_sizes(**sizes: int) -> None:
    """Raise ``ValueError`` unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size!r} must be at least 1")


def require_teachers(n_declared: int, n_teachers: int) -> None:
    """Raise ``ValueError`` unless a rule meets as many teachers as it was made for."""
    if n_declared != n_teachers:
        raise ValueError(
            f"n_teachers={n_declared} is what the rule was made for, but there are {n_teachers} teachers; "
            f"set n_teachers={n_teachers} and train it anew"
        )


def _subtract(parameters: Sequence[Tensor], move: Float[Tensor, " N"]) -> None:
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, move.split(sizes), strict=True):
        parameter.sub_(part.reshape(parameter.shape).to(parameter))
