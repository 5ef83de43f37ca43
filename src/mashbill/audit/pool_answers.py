"""What a pool answers to cases, how it is softened, and how a case is told and replayed."""

from collections.abc import Mapping
from typing import Any

import torch

from mashbill import numerics
from mashbill.audit.cases import Cases
from mashbill.audit.searching import Operator
from mashbill.shapes import Float, Tensor

LOG_TINY = -745.0
"""``exp`` of less is 0 in float64."""


def answer(pool: Operator, log_p: Tensor, log_w: Tensor) -> Float[Tensor, "N V"]:
    """Return the pool's log-probabilities, divided by their sum."""
    return torch.log_softmax(pool(log_p, log_w).double(), dim=-1).clamp_min(numerics.LOG_ZERO)


def soften(log_p: Tensor, temperature: Tensor) -> Tensor:
    """Return ``p^(1/T)`` divided by its sum; zeros stay zero."""
    powers = (log_p / temperature.unsqueeze(-1)).masked_fill(log_p <= numerics.LOG_ZERO, -torch.inf)
    return torch.log_softmax(powers, dim=-1).clamp_min(numerics.LOG_ZERO)


def entropy(log_q: Tensor) -> Tensor:
    """Return entropies in nats."""
    return -(log_q.exp() * log_q.clamp_min(LOG_TINY)).sum(dim=-1)


def of_case(pool: Operator, cases: Cases) -> Tensor:
    """Return :func:`answer` of cases."""
    return answer(pool, cases.log_p, cases.log_w)


def probabilities(pool: Operator, cases: Cases) -> Tensor:
    """Return the answers to cases as probabilities."""
    return of_case(pool, cases).exp()


def told_case(inputs: Mapping[str, Any]) -> str:
    """Return teachers and weights in words."""
    rows = " ".join(row(torch.tensor(one, dtype=torch.float64)) for one in inputs["p"][:4])
    weights = row(torch.tensor(inputs["w"], dtype=torch.float64))
    return f"teachers {rows}{' ...' if len(inputs['p']) > 4 else ''}, weights {weights}"


def replay_head(inputs: Mapping[str, Any]) -> str:
    """Return the first two lines of every replay: ``p``, ``w``, and ``q``, the pool's log-probabilities of them."""
    return (
        f"import torch; p, w = (torch.tensor(x, dtype=torch.float64) for x in ({inputs['p']}, {inputs['w']}))\n"
        "log = lambda x: x.log().clamp_min(-1e4); "
        "q = lambda p, w: operator(log(p), log(w)).double().log_softmax(-1).clamp_min(-1e4)\n"
    )


def row(values: Tensor) -> str:
    """Return numbers in brackets."""
    return "(" + ", ".join(f"{x:.6g}" for x in values.flatten().tolist()) + ")"
