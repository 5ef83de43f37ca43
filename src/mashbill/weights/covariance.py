"""Weights of least variance for teachers whose errors are known to vary together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights import quadratic
from mashbill.weights.bounds import check_box, effective_bounds
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number, in_order
from mashbill.weights.simplex import log_normalise

_Key = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MinVariance:
    """``w = argmin w' Sigma w + ridge |w|^2`` over the box simplex, exactly; ``Sigma`` the teachers' covariance.

    Independent teachers, wide bounds: ``w_k ~ 1/(sigma_k^2 + ridge)``. The same weights at every position.

    Range: the least and largest of these weights. Lipschitz constant 0 in everything that changes from row to row; in
    the covariance ``|w|_2 / ridge``, spectral norm to l2: :func:`mashbill.weights.quadratic.sensitivity`. Cost:
    ``O(K^3)`` once.

    Normalised, bounded and continuous; positive with ``w_min > 0``; not ordered.

    Attributes:
        covariance: ``{teacher: variance}`` of independent teachers, or the matrix as a nested list in the order of the
            teachers: symmetric, positive semidefinite, in any unit.
        ridge: Added to every variance, in that unit. Not negative.
        w_min: Least weight.
        w_max: Largest weight.

    Raises:
        ValueError: An attribute is out of range. In a call: the covariance is not of these teachers.

    Source:
        arXiv 2601.17910, Section V.A, Principle 1; Markowitz, *Portfolio Selection*, J. Finance 7, 1952.

    >>> round(MinVariance({"a": 1.0, "b": 4.0, "c": 0.25}).declared(3).highest, 6)
    0.761905
    """

    covariance: Mapping[str, Number] | Sequence[Sequence[Number]]
    ridge: Number = 0.0
    w_min: Number = 0.0
    w_max: Number = 1.0

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_box(self.w_min, self.w_max)
        if not 0 <= self.ridge < math.inf:  # also catches NaN
            raise ValueError(f"ridge={self.ridge!r} must be finite and not negative")
        if isinstance(self.covariance, Mapping):
            _require_variances(self.covariance)
        else:
            _require_covariance(self.covariance)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``; a weight 0 gives ``LOG_ZERO``."""
        entropy = evidence.statistics.entropy
        weights = torch.tensor(self._weights(evidence.teachers), dtype=torch.float64)
        log_weights = log_normalise(numerics.log_of(weights), dim=0)
        log_weights = log_weights.to(entropy.device, numerics.reduction_dtype(entropy.dtype))
        return log_weights.reshape(-1, 1, 1).expand(-1, entropy.shape[1], 1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: the weights themselves."""
        effective_bounds(n_teachers, w_min=self.w_min, w_max=self.w_max)
        if len(self.covariance) != n_teachers:
            raise ValueError(
                f"covariance is of {len(self.covariance)} teachers, but n_teachers={n_teachers}; list each once"
            )
        teachers = (
            tuple(self.covariance) if isinstance(self.covariance, Mapping) else tuple(map(str, range(n_teachers)))
        )
        weights = self._weights(teachers)
        source = "the minimiser for the covariance as given"
        return Declared(min(weights), max(weights), 0.0, "any continuous input", source, score_lipschitz=0.0)

    def _weights(self, teachers: tuple[str, ...]) -> tuple[float, ...]:
        if isinstance(self.covariance, Mapping):
            variances = in_order(self.covariance, teachers, argument="covariance")
            matrix = np.diag(variances)
        else:
            matrix = np.asarray(self.covariance, dtype=float)
            if len(matrix) != len(teachers):
                raise ValueError(
                    f"covariance is {len(matrix)} by {len(matrix)} for {len(teachers)} teachers ({', '.join(teachers)})"
                )
        key = tuple(map(tuple, matrix.tolist()))
        return _solved(key, float(self.ridge), float(self.w_min), float(self.w_max))


@lru_cache(maxsize=256)
def _solved(covariance: _Key, ridge: float, w_min: float, w_max: float) -> tuple[float, ...]:
    gram = torch.tensor(covariance, dtype=torch.float64)
    return tuple(quadratic.minimise(gram, ridge=ridge, w_min=w_min, w_max=w_max).tolist())


def _require_variances(variances: Mapping[str, Number]) -> None:
    for name, variance in variances.items():
        if isinstance(variance, bool) or not isinstance(variance, int | float) or not 0 <= variance < math.inf:
            raise ValueError(f"covariance[{name!r}]={variance!r} must be a variance, finite and not negative")
    if not variances:
        raise ValueError("covariance={} must map each teacher id to its variance")


def _require_covariance(rows: Sequence[Sequence[Number]]) -> None:
    try:
        matrix = np.asarray(rows, dtype=float)
    except (TypeError, ValueError):
        matrix = np.asarray(math.nan)
    if matrix.ndim != 2 or len(set(matrix.shape)) != 1 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ValueError(
            f"covariance={rows!r} must be a finite square matrix, one row a teacher, or {{teacher: variance}}"
        )
    scale = np.abs(matrix).max()
    i, j = np.unravel_index(np.abs(matrix - matrix.T).argmax(), matrix.shape)
    if abs(matrix[i, j] - matrix[j, i]) > 1e-9 * scale:
        raise ValueError(
            f"covariance[{i}][{j}]={matrix[i, j]:.6g} must equal covariance[{j}][{i}]={matrix[j, i]:.6g}: "
            "a covariance is symmetric"
        )
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least < -1e-9 * scale:
        raise ValueError(
            f"covariance has the eigenvalue {least:.6g}, but a mix of teachers cannot have a negative variance; "
            "estimate it from complete rows"
        )
