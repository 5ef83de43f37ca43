"""Kendall's uncertainty weights: each teacher's loss divided by a variance that is learned."""

from typing import ClassVar, Literal

import torch
from torch import nn

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence, Observation
from mashbill.weights.published.descent import require_rate, require_sizes, require_teachers
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise

_LARGEST_MOVE = 1.0


def released_coefficients(log_variance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``exp(-s) / 2``, what multiplies each loss in :func:`objective`; it sums to nothing in particular.

    >>> losses = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    >>> released_coefficients(losses.log()).round(decimals=9).tolist()  # at the optimum s = log L: 1/(2L)
    [2.5, 1.0, 0.5]
    """
    return (-numerics.widen(log_variance)).exp() / 2


def objective(log_variance: Float[Tensor, "*shape"], losses: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``exp(-s) L / 2 + s / 2``, convex in ``s``, least at ``s = log L``."""
    return released_coefficients(log_variance) * losses + numerics.widen(log_variance) / 2


class Kendall(nn.Module):
    """``w_k = exp(-s_k) / sum_j exp(-s_j)``, with log-variances ``s`` that follow each teacher's distillation loss.

    ``observe`` takes one gradient step on :func:`objective` with ``L_k`` the mean of ``KL(p_k || student)`` over the
    step's counted positions; no log-variance moves more than 1 in a step. At the optimum ``w_k ~ 1/L_k``: teachers
    whom the student already matches count more. With ``n_tasks`` above 1, one variance for each teacher and task.

    Range ``(0, 1)``; the weights depend on state and task alone, so their Lipschitz constant in the evidence is 0.
    With ``learning_rate max(1, L exp(-s)) <= 4`` no step ends further from the optimum than it began.

    Breaks *normalised* as published and *bounded*: losses (1, 1e-4) give coefficients (.5, 5000), normalised
    (.0001, .9999). Breaks *ordered*. Keeps positive and continuous.

    Attributes:
        log_variances: Learned, ``[K M]``; 0 at the start, which counts all alike.
        learning_rate: Step size of ``observe``. Positive.

    Raises:
        ValueError: A size is below 1 or the rate not positive; in a call, there are other teachers or more tasks.

    Source:
        Kendall, Gal & Cipolla, *Multi-Task Learning Using Uncertainty to Weigh Losses*, CVPR 2018, Section 3.2, with
        teachers for tasks. The paper gives no code; its classification likelihood ``exp(-s) L + s / 2`` has the same
        optimal coefficient ``1/(2L)``. Normalising is ours: it drops the common factor, which acts as a step size.
    """

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, n_teachers: int, *, n_tasks: int = 1, learning_rate: Number = 0.1) -> None:
        super().__init__()
        require_sizes(n_teachers=n_teachers, n_tasks=n_tasks)
        require_rate(learning_rate)
        self.learning_rate = float(learning_rate)
        self.log_variances = nn.Parameter(torch.zeros(n_teachers, n_tasks))

    def forward(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        like = numerics.widen(evidence.statistics.entropy[:0])
        log_variances = self.log_variances.to(like)[:, self._task(evidence).to(like.device)]
        return log_normalise(-log_variances, dim=0).unsqueeze(-1)

    @torch.no_grad()
    def observe(self, observation: Observation, /) -> None:
        """Take one gradient step; a task without counted positions keeps its variances."""
        evidence, log_variances = observation.evidence, self.log_variances
        counted = evidence.mask & observation.losses.isfinite().all(dim=0)
        losses = torch.where(counted, observation.losses, 0).sum(dim=-1)
        n_tasks = log_variances.shape[1]
        in_task = (self._task(evidence) == torch.arange(n_tasks, device=evidence.task.device)[:, None]).to(losses)
        n_counted = in_task @ counted.sum(dim=-1).to(losses)
        mean = ((losses @ in_task.T) / n_counted.clamp_min(1)).to(log_variances)
        gradient = (1 - mean * (-log_variances).exp()) / 2
        move = (self.learning_rate * gradient).clamp(-_LARGEST_MOVE, _LARGEST_MOVE)
        log_variances.sub_(torch.where((n_counted > 0).to(move.device), move, 0))

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every state that training may reach."""
        low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        source = "a function of state and task alone; a softmax without bound on its scores"
        return Declared(low, high, 0.0, "any continuous input", source, score_lipschitz=0.0)

    def _task(self, evidence: Evidence) -> Tensor:
        require_teachers(self.log_variances.shape[0], evidence.n_teachers)
        n_tasks = self.log_variances.shape[1]
        if n_tasks == 1:
            return torch.zeros_like(evidence.task)
        if len(evidence.tasks) > n_tasks:
            raise ValueError(
                f"n_tasks={n_tasks} is less than the {len(evidence.tasks)} tasks of the data; raise it, or set it to 1"
            )
        return evidence.task
