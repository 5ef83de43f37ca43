"""Rules that compare how teachers pull on the student: gradients by its logits, ``p_S - p_k``.

They read ``evidence.gram``, the inner products of these gradients with one another and with the labels' gradient
``p_S - onehot(y)``, each row's positions summed. All follow the student, without gradient. ``by`` says whose gradients
count together: a ``"row"``'s own, those of all rows of its ``"task"`` in the batch, or of the whole ``"batch"``; the
Gram matrices are then averaged over the rows in which anything counts, and the weights of a row depend on others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights import quadratic
from mashbill.weights.bounds import check_box, effective_bounds
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.groups import By, Groups, require_by
from mashbill.weights.order import SafetyOrder
from mashbill.weights.shares import Number, in_order
from mashbill.weights.simplex import log_normalise
from mashbill.weights.softmax import softmax_range


@dataclass(frozen=True)
class GradientAlignment:
    """Trust teachers that pull as the labels do: ``w = softmax_k(beta cos_eps(g_k, h))``.

    ``cos_eps(g, h) = <g, h> / ((|g| + epsilon)(|h| + epsilon))`` with ``g_k`` the teacher's and ``h`` the labels'
    gradient by the student's logits. Without labels every cosine is 0 and the weights are even.

    Certified, before any guard: range ``[1/(1+(K-1)e^R), 1/(1+(K-1)e^-R)]`` with ``R = 2 beta``, because a cosine is
    in ``[-1, 1]``; Lipschitz constant ``beta / (2 epsilon)`` per gradient (l2): if no teacher's gradient moves by more
    than ``d``, or the labels' moves by ``d``, no weight moves by more than ``d beta / (2 epsilon)``, because
    ``|d cos_eps / dg| <= 1 / epsilon``. The plain cosine, ``epsilon = 0``, has none: it jumps where a gradient is 0.

    Normalised, positive, bounded and continuous; not ordered. Cost: ``O(K^2 V)`` a position for the Gram matrices.

    Attributes:
        beta: Half the log-odds between a teacher that pulls with the labels and one that pulls against. Not negative.
        epsilon: Norm below which a gradient counts for little; norms are those of a row (of a typical row of the
            group). Positive.
        by: ``"row"``, ``"task"`` or ``"batch"``.

    Raises:
        ValueError: An attribute is out of range. In a call: the evidence has no gradients.

    Source:
        arXiv 2601.17910, Theorem V.2, family B (task scale), axiom III.16; ``epsilon`` is ours.

    >>> round(GradientAlignment(beta=1.0).declared(2).lowest, 4)
    0.1192
    """

    beta: Number = 1.0
    epsilon: Number = 0.1
    by: By = "row"

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:  # also catches NaN
            raise ValueError(f"beta={self.beta!r} must be finite and not negative")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon={self.epsilon!r} must be positive: it bounds the slope at a vanishing gradient")
        require_by(self.by)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        groups = Groups.of(evidence, self.by)
        gram = _gram(evidence, groups)
        norm = torch.diagonal(gram, dim1=-2, dim2=-1).clamp_min(0).sqrt() + self.epsilon
        cosine = (gram[:, :-1, -1] / norm[:, :-1] / norm[:, -1:]).clamp(-1, 1)
        return log_normalise(self.beta * groups.share(cosine).T, dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for any gradients."""
        low, high = softmax_range(2 * self.beta, n_teachers)
        source = "arXiv 2601.17910, Theorem V.2, family B: softmax of smoothed cosines in a range of 2 beta"
        score, mixes = self.beta / self.epsilon, self.by != "row"
        metric = "teachers' gradients by the student's logits, or the labels', largest l2"
        return Declared(low, high, score / 2, metric, source, score, reads_student=True, mixes_rows=mixes)


@dataclass(frozen=True)
class MGDA:
    """The mix whose pull is least: ``w = argmin |sum_k w_k g_k|`` over the simplex, exactly.

    Its negative is a direction in which no teacher's divergence grows (``<g_k, sum w g> >= |sum w g|^2``), or 0 where
    the student is Pareto stationary. Of several minimisers the most even.

    Normalised. Breaks *positive* and *bounded*: gradients (1, 0) and (2, 0) give (1, 0). Breaks *continuous*, so it has
    no Lipschitz constant: (1, 0) beside (1 + 1e-6, 0) gives (1, 0), beside (1 - 1e-6, 0) it gives (0, 1); a guard
    afterwards bounds the jump and does not remove it. Breaks *ordered*. :class:`BoundedMGDA` repairs all four.
    Not scale-free either: teachers far from the student count less. The released two-task solver returns (.999, .001)
    where one gradient is a multiple of the other; here it is (1, 0).

    Attributes:
        by: ``"batch"``, ``"task"`` or ``"row"``.

    Raises:
        ValueError: ``by`` is unknown. In a call: the evidence has no gradients.

    Source:
        Désidéri, C. R. Math. 350, 2012; Sener & Koltun, *Multi-Task Learning as Multi-Objective Optimization*, NeurIPS
        2018, with teachers for tasks and the gradient by logits, which bounds that by parameters.
    """

    by: By = "batch"

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        require_by(self.by)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``; a weight 0 gives ``LOG_ZERO``."""
        groups = Groups.of(evidence, self.by)
        weights = quadratic.minimise(_gram(evidence, groups)[:, :-1, :-1])
        return _log_weights(groups, weights)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: none but the simplex."""
        low = 1.0 if n_teachers == 1 else 0.0
        source = "the weights jump where two gradients become collinear"
        mixes = self.by != "row"
        return Declared(low, 1.0, None, _METRIC, source, reads_student=True, mixes_rows=mixes)


@dataclass(frozen=True)
class BoundedMGDA:
    """MGDA made admissible: ``w = argmin |sum_k w_k g_k|^2 + ridge |w|^2`` over the box simplex, exactly.

    Certified: range ``[w_min, w_max]``; Lipschitz constant ``sqrt(1 - 1/K) |w|_2 / ridge`` in the Gram matrix (spectral
    norm), with ``|w|_2`` the largest in the box; none without ridge. A constant in the gradients themselves exists
    where their norms are bounded: the Gram matrix moves by at most ``(2 |J| + d) d`` when the matrix ``J`` of
    gradients moves by ``d``.

    Descent: with ``d = sum w g + ridge w`` and ``nu`` its multiplier, ``<g_j, sum w g> + ridge w_j >= nu`` for every
    teacher below ``w_max``. A teacher at ``w_max`` may be pulled against: gradients 1 and -3 with ``w_max = .5`` mix to
    -1, uphill for the first.

    Normalised, positive (``w_min > 0``), bounded; continuous with ``ridge > 0``; ordered with ``safety``.

    Attributes:
        w_min: Least weight.
        w_max: Largest weight.
        ridge: Squared norm of a gradient, of a typical row, that is taken for noise. Not negative.
        by: ``"batch"``, ``"task"`` or ``"row"``.
        normalise: Compare gradients of length 1, as AE-KD does; then nothing is certified but the box.
        safety: ``{teacher: score}``; a teacher with a higher score never counts less. Solved with the box, not after.

    Raises:
        ValueError: An attribute is out of range. In a call: the box is empty for ``K``, ``safety`` does not name
            exactly the teachers, or the evidence has no gradients.

    Source:
        Box, ridge and order are ours; arXiv 2601.17910, axioms III.10 to III.13, for what they repair. With
        ``normalise``, ``ridge=0`` and ``w_max=1/(K nu)`` the dual of a one-class support vector machine, the problem
        of Du et al., *Agree to Disagree*, NeurIPS 2020.

    >>> BoundedMGDA(w_min=0.1, w_max=0.5).declared(3).highest
    0.5
    """

    w_min: Number = 0.05
    w_max: Number = 1.0
    ridge: Number = 1e-2
    by: By = "batch"
    normalise: bool = False
    safety: Mapping[str, Number] | None = None

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        check_box(self.w_min, self.w_max)
        if not 0 <= self.ridge < math.inf:
            raise ValueError(
                f"ridge={self.ridge!r} must be finite and not negative; above 0 the weights are continuous"
            )
        require_by(self.by)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        groups = Groups.of(evidence, self.by)
        gram = _gram(evidence, groups)[:, :-1, :-1]
        if self.normalise:
            length = torch.diagonal(gram, dim1=-2, dim2=-1).clamp_min(0).sqrt()
            length = torch.where(length > 0, length, 1)
            gram = gram / length.unsqueeze(-1) / length.unsqueeze(-2)
        order = None
        if self.safety is not None:
            order = SafetyOrder.from_scores(in_order(self.safety, evidence.teachers, argument="safety"))
        weights = quadratic.minimise(gram, w_min=self.w_min, w_max=self.w_max, ridge=self.ridge, order=order)
        return _log_weights(groups, weights)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for any gradients."""
        low, high = effective_bounds(n_teachers, w_min=self.w_min, w_max=self.w_max)
        lipschitz = None
        if self.ridge > 0 and not self.normalise:
            longest = quadratic.longest(n_teachers, w_min=self.w_min, w_max=self.w_max)
            lipschitz = math.sqrt(1 - 1 / n_teachers) * longest / self.ridge
        source = "strong convexity: a minimiser moves by |dG w| / ridge at most, along the simplex"
        mixes = self.by != "row"
        return Declared(low, high, lipschitz, _METRIC, source, reads_student=True, mixes_rows=mixes)


_METRIC = "Gram matrix of gradients by the student's logits, spectral norm"


def _gram(evidence: Evidence, groups: Groups) -> Float[Tensor, "G J J"]:
    """Return each group's Gram matrix, the mean over its rows in which anything counts; 0 if there are none."""
    given = numerics.widen(evidence.given("gram").detach())
    if given.shape[-1] != evidence.n_teachers + 1:
        raise ValueError(
            f"gram is {given.shape[-1]} by {given.shape[-1]} for {evidence.n_teachers} teachers, but must have one row "
            "for each and one for the labels; see mashbill.distributions.gradient_gram"
        )
    counts = evidence.mask.any(dim=-1).to(given.device)
    n_rows = groups.total(counts.to(given.dtype)).clamp_min(1)
    return groups.total(torch.where(counts[:, None, None], given, 0)) / n_rows[:, None, None]


def _log_weights(groups: Groups, weights: Float[Tensor, "G K"]) -> LogWeights:
    return log_normalise(numerics.log_of(groups.share(weights)).T, dim=0).unsqueeze(-1)
