"""A rule's weights, averaged from step to step: one exponential average for each task or context.

Not covered: weights that should differ from row to row within a task or context; they get their mean.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from mashbill import numerics
from mashbill.shapes import Bool, Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence, Learner, Observation, WeightOperator
from mashbill.weights.promises import declared_of
from mashbill.weights.shares import Number, require_known
from mashbill.weights.tracking import EMATracker, Lag


class Tracked(nn.Module):
    """Follow a rule's mean weights in each task or context: ``m_c <- m_c + b (mean_c w - m_c)``, once a step.

    ``mean_c w`` is the plain mean of the rule's weights over the counted positions of the step's rows in cell ``c``.
    The average moves in :meth:`observe` alone and starts at the first mean seen; a call only reads it. A cell that
    was never observed has, row by row, the rule's own weights, averaged over the row's counted positions.

    A convex mean of the rule's weights: normalised, positive, bounded and ordered as the rule's are in that cell.
    Within a cell the weights do not depend on the row; the rule's Lipschitz constant holds for cells not yet seen.
    With a declared drift ``D`` of the cell's mean from one observation of the cell to the next, ``certificate`` bounds
    the lag by ``D (1-b)/b``. Cost: one more call of the rule each step.

    State: the buffers ``mean [cells K]``, ``count [cells]`` and ``cells`` (their names, as UTF-8 JSON). Cells are
    known by name, so another data set with other tasks finds its own. Give ``names`` and ``n_teachers`` to fix the
    shapes from the start, as a checkpoint restored tensor by tensor needs; ``load_state_dict`` takes any shape.

    Args:
        op: The rule.
        gain: ``b``, in ``(0, 1]``.
        by: What selects the cell.
        drift: Declared drift of a cell's mean, per observation of the cell, in the sup norm; None declares nothing.
        noise: Standard deviation of the noise in a cell's mean.
        decays: The ``t``-th observation of a cell, from 0, has gain ``b/(1+t)``; refused if a drift is declared.
        names: Tasks or contexts to follow; None takes those that come.
        n_teachers: ``K``; goes with ``names``.

    Raises:
        ValueError: An argument is out of range. In ``observe``: a cell is not among ``names``.
        DriftError: The gain shrinks although a drift is declared.

    Source:
        arXiv 2601.17910, IX.C (non-stationary teachers); the certificate is derived in
        :func:`~mashbill.weights.tracking.ema_lag`.
    """

    mean: Tensor
    count: Tensor
    cells: Tensor

    def __init__(
        self,
        op: WeightOperator,
        *,
        gain: Number,
        by: Literal["all", "task", "context"] = "task",
        drift: Number | None = None,
        noise: Number = 0.0,
        decays: bool = False,
        names: Sequence[str] | None = None,
        n_teachers: int | None = None,
    ) -> None:
        super().__init__()
        if by not in ("all", "task", "context"):
            raise ValueError(f"by={by!r} must be 'all', 'task' or 'context'")
        if (names is None) != (n_teachers is None):
            raise ValueError(
                f"names={names!r} and n_teachers={n_teachers!r} fix the shapes together; give both or none"
            )
        self.op, self.by, self.is_declared, self.is_fixed = op, by, drift is not None, names is not None
        self.tracker = EMATracker(gain, drift=drift or 0.0, noise=noise, decays=decays)
        self.register_buffer("mean", torch.zeros(len(names or ()), n_teachers or 0))
        self.register_buffer("count", torch.zeros(len(names or ()), dtype=torch.long))
        self.register_buffer("cells", _encoded(names or ()))
        self._names = tuple(names or ())  # as in `cells`, without asking the device

    @property
    def scale(self) -> Literal["task", "context"]:
        """``"context"`` if contexts select the weights, else ``"task"``."""
        return "context" if self.by == "context" else "task"

    @property
    def needs(self) -> frozenset[str]:
        """What the rule reads."""
        return getattr(self.op, "needs", frozenset())

    @property
    def certificate(self) -> Lag | None:
        """Bound of the lag behind the cell's mean; None unless a drift is declared."""
        return self.tracker.certificate if self.is_declared else None

    @property
    def names(self) -> tuple[str, ...]:
        """Cells in the order of the state."""
        return self._names

    def forward(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        own = self._by_row(evidence)
        place = self._places(evidence)
        if not len(self.mean):
            return numerics.log_of(own).T.unsqueeze(-1)
        self._require_teachers(evidence)
        is_seen = (place >= 0) & (self.count[place.clamp_min(0)] > 0)
        kept = self.mean[place.clamp_min(0)].to(own)
        return numerics.log_of(torch.where(is_seen.unsqueeze(-1), kept, own)).T.unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the rule's promise, which a mean of its weights keeps."""
        part = declared_of(self.op, n_teachers)
        return replace(part, source=f"mean over rows and steps of: {part.source}", score_lipschitz=None)

    @torch.no_grad()
    def observe(self, observation: Observation, /) -> None:
        """Let the rule learn if it does, then move the averages of the cells seen toward its weights."""
        if isinstance(self.op, Learner):
            self.op.observe(observation)
        evidence, names = observation.evidence, self._names_of(observation.evidence)
        self._make_room(evidence, names)
        weights, counted = self._weights(evidence), evidence.mask.unsqueeze(-1)
        index = self._index(evidence)
        total = weights.new_zeros(len(names), evidence.n_teachers)
        total = total.index_add(0, index, torch.where(counted, weights, 0).sum(dim=1)).to(self.mean)
        n_counted = total.new_zeros(len(names), 1).index_add(0, index, counted.sum(dim=1).to(total))
        place = torch.tensor([self.names.index(name) for name in names], device=self.mean.device)
        before, step = self.mean[place], self.count[place].unsqueeze(-1)
        value = total / n_counted.clamp_min(1)
        after = torch.where(step == 0, value, self.tracker.update(before, value, step=step))
        self.mean[place] = torch.where(n_counted > 0, after, before)
        self.count[place] += (n_counted > 0).squeeze(-1)

    def _weights(self, evidence: Evidence) -> Float[Tensor, "B T K"]:
        return numerics.widen(self.op(evidence)).exp().expand(-1, *evidence.mask.shape).movedim(0, -1)

    def _by_row(self, evidence: Evidence) -> Float[Tensor, "B K"]:
        """Return each row's weights, averaged over its counted positions; over all if none counts."""
        weights = self._weights(evidence)
        counted: Bool[Tensor, "B T"] = evidence.mask | ~evidence.mask.any(dim=-1, keepdim=True)
        total = torch.where(counted.unsqueeze(-1), weights, 0).sum(dim=1)
        return total / counted.sum(dim=1, keepdim=True)

    def _names_of(self, evidence: Evidence) -> tuple[str, ...]:
        return {"all": ("all",), "task": evidence.tasks, "context": evidence.contexts}[self.by]

    def _index(self, evidence: Evidence) -> Tensor:
        if self.by == "all":
            return torch.zeros_like(evidence.task)
        return evidence.task if self.by == "task" else evidence.context

    def _places(self, evidence: Evidence) -> Tensor:
        """Return each row's cell, -1 where it is not known."""
        known = {name: n for n, name in enumerate(self.names)}
        place = torch.tensor([known.get(name, -1) for name in self._names_of(evidence)], device=evidence.task.device)
        return place[self._index(evidence)]

    def _make_room(self, evidence: Evidence, names: Sequence[str]) -> None:
        if self.is_fixed:
            require_known(names, self.names, argument="evidence", kind=self.by)
        elif missing := [name for name in names if name not in self.names]:
            like = numerics.widen(evidence.statistics.entropy)
            rows = torch.zeros(len(missing), evidence.n_teachers, dtype=like.dtype, device=like.device)
            self._names = (*self.names, *missing)
            self.cells = _encoded(self.names).to(like.device)
            self.mean = torch.cat([self.mean, rows]) if len(self.mean) else rows
            self.count = torch.cat([self.count.to(like.device), rows.new_zeros(len(missing), dtype=torch.long)])
        self._require_teachers(evidence)

    def _require_teachers(self, evidence: Evidence) -> None:
        if self.mean.shape[1] != evidence.n_teachers:
            raise ValueError(
                f"n_teachers={self.mean.shape[1]} were followed, but the evidence has {evidence.n_teachers}"
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The cells found so far decide the shapes, unless they were fixed; then a mismatch is an error as usual.
        if not self.is_fixed and prefix + "cells" in state_dict:
            for name in ("mean", "count", "cells"):
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.mean.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._names = _decoded(self.cells)


def _encoded(names: Sequence[str]) -> Tensor:
    return torch.tensor(list(json.dumps(list(names)).encode()), dtype=torch.uint8)


def _decoded(cells: Tensor) -> tuple[str, ...]:
    return tuple(json.loads(bytes(cells.tolist()).decode()))


__all__ = ["Tracked"]
