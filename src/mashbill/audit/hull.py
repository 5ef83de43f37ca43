"""Whether one distribution is a mixture of some others, with a proof either way.

Such a proof is about one case. It certifies no pool: that takes a theorem about the pool's form.
"""

from collections.abc import Sequence

import numpy as np
import scipy.optimize

from mashbill.audit.verdicts import Certificate, Numbers, rechecks

ROUNDING = 1e-9


def separator(q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights of the point of ``{sum_k w_k p_k, w >= 0}`` nearest to ``q``, and ``q`` less that point.

    The optimality conditions of non-negative least squares make what is left over, ``a``, a proof: ``a.p_k <= 0 <
    a.q``. Points of the cone that sum to 1 are the mixtures, so for a distribution ``q`` nothing is left over if and
    only if it is a mixture.

    Args:
        q: ``[V]``.
        p: ``[K V]``.
    """
    weights, _ = scipy.optimize.nnls(p.T, q)
    return weights, q - p.T @ weights


def hull_certificate(q: Sequence[float], p: Sequence[Sequence[float]]) -> Certificate:
    """Return the proof that ``q`` is a mixture of the rows of ``p``, or the proof that it is none.

    >>> hull_certificate([0.6, 0.25, 0.15], [[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]]).claim
    'q is the mixture with weights (0.5, 0.5)'
    >>> proof = hull_certificate([0.62, 0.25, 0.13], [[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]])
    >>> proof.kind, proof.recheck()
    ('separating vector', True)
    """
    weights, left = separator(np.asarray(q, dtype=float), np.asarray(p, dtype=float))
    given = {"q": [float(x) for x in q], "p": [[float(x) for x in row] for row in p]}
    if np.abs(left).max() <= ROUNDING:
        weights = (weights / weights.sum()).tolist()
        told = ", ".join(f"{x:.6g}" for x in weights)
        return Certificate(
            "hull membership", f"q is the mixture with weights ({told})", "", given | {"weights": weights}
        )
    a = (left / np.linalg.norm(left)).tolist()
    claim = f"no mixture is q: along a they lie {float(np.dot(a, q) - (np.asarray(p) @ a).max()):.3g} below it"
    return Certificate("separating vector", claim, "", given | {"a": a})


@rechecks("hull membership")
def is_mixture(numbers: Numbers) -> bool:
    """Whether the weights are weights, the rows distributions, and their mixture ``q``."""
    q, p, w = (np.asarray(numbers[name], dtype=float) for name in ("q", "p", "weights"))
    return are_distributions(p) and are_distributions(w) and bool(np.abs(w @ p - q).max() <= ROUNDING)


@rechecks("separating vector")
def is_separated(numbers: Numbers) -> bool:
    """Whether ``a`` is of length 1, the rows are distributions, and ``a.q`` is above every ``a.p_k``."""
    q, p, a = (np.asarray(numbers[name], dtype=float) for name in ("q", "p", "a"))
    is_unit = bool(abs(np.linalg.norm(a) - 1) <= ROUNDING)
    return is_unit and are_distributions(p) and are_distributions(q) and bool(a @ q > (p @ a).max() + ROUNDING)


def are_distributions(p: np.ndarray) -> bool:
    """Whether the last axis holds distributions."""
    return bool(np.isfinite(p).all() and (p >= 0).all() and (np.abs(p.sum(axis=-1) - 1) <= ROUNDING).all())
