"""Weights that differ between classes of vocabulary entries: what they do to a target, and three repairs.

A weight for every entry, ``u(i) = sum_k w_k(i) p_k(i)``, is no distribution: it sums to ``Z``, and as a soft target it
gives the logit gradient ``Z softmax(z) - u``, which counts every position ``Z`` times. Divided by ``Z`` it may leave
the teachers' hull, even at an entry on which they all agree. In order of preference:

1. one weight a teacher, by :func:`mashbill.weights.marginalise`, then any pool;
2. :func:`token_project`, the nearest mixture of the teachers;
3. :func:`token_blocks`, classes mixed as events and then entries within each class: sums to 1 by construction;
4. :func:`token_renormalise`, ``u / Z``, with its distance from the hull.

Every entry has a class, ``0 ... C-1``; ``-1`` is the last one, so ``C`` counts a class of all others if there is one.
"""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.pools.projection import Metric, hull_project
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.weights.shares import Number
from mashbill.weights.token_classes import marginalise  # noqa: F401  # the first of the repairs, beside the others


@dataclass(frozen=True)
class TokenPool:
    """A pool by weights that differ between classes, and how far from a mixture it is.

    Attributes:
        logprobs: Nats, normalised.
        mass: ``Z``, the sum of the mixture before any repair; 1 for blocks.
        hull_distance: Euclidean distance of the repaired pool from the mixtures of the teachers; for
            :func:`token_project`, which is one, that of ``u / Z``: what the projection moved. No gradient.
        hull_bound: A bound in total variation, from the weights alone, on the same distance. At most 1. No gradient.
        weights: For :func:`token_project` the weights of the mixture, else None.
    """

    logprobs: Float[Tensor, "*batch V"]
    mass: Float[Tensor, "*batch"]
    hull_distance: Float[Tensor, "*batch"]
    hull_bound: Float[Tensor, "*batch"]
    weights: Float[Tensor, "K *batch"] | None = None


def token_mixture(
    logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "C K *#batch"], *, classes: Int[Tensor, " V"]
) -> Float[Tensor, "*batch V"]:
    """``log u(i) = log sum_k w_k(class of i) p_k(i)``, **not normalised**: it sums to ``Z = exp(logsumexp)``.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights for each class, normalised over ``K``.
        classes: The class of each entry, ``0 ... C-1``; ``-1`` is the last.

    Raises:
        ValueError: A class without weights.

    Source:
        arXiv 2601.17910, Definition III.7 with weights that depend on the token.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> by_class = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=torch.float64).log()
    >>> token_mixture(teachers, by_class, classes=torch.tensor([0, 1, 1])).exp().round(decimals=4).tolist()
    [0.68, 0.29, 0.19]
    """
    _check_classes(classes, len(log_weights))
    wide = numerics.widen(logprobs)
    by_entry = log_weights.to(wide.dtype)[classes.long()].movedim(0, -1)
    return torch.logsumexp(wide + by_entry, dim=0).clamp_min(numerics.LOG_ZERO)


def token_renormalise(
    logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "C K *#batch"], *, classes: Int[Tensor, " V"]
) -> TokenPool:
    """``u / Z``: keeps the ratios between entries, and may leave the hull of the teachers.

    Total variation from the hull is at most ``min_wbar sum_k max_c |w_k(c) - wbar_k|`` over probabilities ``wbar``,
    which is ``max(sum_k max_c w_k(c) - 1, 1 - sum_k min_c w_k(c))``: each term is half a range and the distance of
    ``wbar_k`` from its middle, and the middles miss a sum of 1 by what is added.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights for each class, normalised over ``K``.
        classes: The class of each entry, ``0 ... C-1``; ``-1`` is the last.

    Raises:
        ValueError: A class without weights.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> by_class = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=torch.float64).log()
    >>> pooled = token_renormalise(teachers, by_class, classes=torch.tensor([0, 1, 1]))
    >>> pooled.logprobs.exp().round(decimals=6).tolist(), round(pooled.mass.item(), 6)
    ([0.586207, 0.25, 0.163793], 1.16)
    >>> round(pooled.hull_distance.item(), 6)
    0.009753
    """
    mixture = token_mixture(logprobs, log_weights, classes=classes)
    q = numerics.log_softmax(mixture)
    distance = _hull_distance(q, logprobs)
    bound = _weight_spread(log_weights, _occurring(classes, len(log_weights))).expand_as(distance).clamp(0, 1)
    return TokenPool(q, mixture.logsumexp(dim=-1).exp(), distance, bound)


def token_project(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "C K *#batch"],
    *,
    classes: Int[Tensor, " V"],
    metric: Metric = "l2",
    w_min: Number = 0.0,
    w_max: Number = 1.0,
) -> TokenPool:
    """Return the mixture of the teachers nearest to ``u / Z``, with weights in the box: :func:`hull_project`.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights for each class, normalised over ``K``.
        classes: The class of each entry, ``0 ... C-1``; ``-1`` is the last.
        metric: Nearest in ``"l2"``, or in ``"kl"`` from ``u / Z``.
        w_min: Least weight.
        w_max: Largest weight.

    Raises:
        ValueError: A class without weights, an unknown metric, or a box that is empty for ``K``.
    """
    before = token_renormalise(logprobs, log_weights, classes=classes)
    found = hull_project(before.logprobs, logprobs, metric=metric, w_min=w_min, w_max=w_max)
    return TokenPool(found.logprobs, before.mass, before.hull_distance, before.hull_bound, found.weights)


def token_blocks(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "C K *#batch"],
    log_class_weights: Float[Tensor, "K *#batch"],
    *,
    classes: Int[Tensor, " V"],
) -> TokenPool:
    """Mix the classes as events, then the entries within each class: ``q(i) = A(c) B_c(i)`` for ``i`` in ``c``.

    ``A(c) = sum_k a_k P_k(c)`` with the class weights ``a``, ``B_c(i) = sum_k b_k(c) p_k(i)/P_k(c)`` with the weights
    ``b`` of the class. Sums to 1, and the mass of every class is that of a mixture. In the hull only where ``b_k(c)``
    is proportional to ``a_k P_k(c)``.

    Zeros: a teacher without mass on a class has no opinion within it, and the others share its weight there; if none of
    those with weight ``b`` has mass there, the class is divided as in the mixture by ``a``.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights ``b`` for each class, normalised over ``K``.
        log_class_weights: Log-weights ``a``, normalised over ``K``.
        classes: The class of each entry, ``0 ... C-1``; ``-1`` is the last.

    Raises:
        ValueError: A class without weights.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> by_class = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=torch.float64).log()
    >>> even = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    >>> pooled = token_blocks(teachers, by_class, even, classes=torch.tensor([0, 1, 1]))
    >>> pooled.logprobs.exp().round(decimals=4).tolist()
    [0.6, 0.2533, 0.1467]
    """
    n_classes = len(log_weights)
    _check_classes(classes, n_classes)
    wide = numerics.widen(logprobs)
    batch = wide.shape[1:-1]
    a = log_class_weights.to(wide.dtype).expand(wide.shape[0], *batch)
    b = log_weights.to(wide.dtype).expand(n_classes, wide.shape[0], *batch)
    masks = classes.long() % n_classes == torch.arange(n_classes, device=classes.device).unsqueeze(-1)
    has_entries = masks.any(dim=-1)
    mass = torch.stack([_class_mass(wide, mask) for mask in masks])  # log P_k(c), [C K *batch]
    share = a + mass  # of the mixture by a
    log_event = share.logsumexp(dim=1, keepdim=True)  # log A(c)
    is_known = mass > numerics.LOG_ZERO
    voiced = torch.where(is_known, b, -torch.inf)
    has_voice = (voiced > numerics.LOG_ZERO).any(dim=1, keepdim=True)
    chosen = torch.where(has_voice, voiced, share).clamp_min(2 * numerics.LOG_ZERO)
    factor = chosen - chosen.logsumexp(dim=1, keepdim=True) + log_event - torch.where(is_known, mass, 0)
    by_entry = factor[classes.long()].movedim(0, -1)
    q = numerics.log_softmax(torch.logsumexp(wide + by_entry, dim=0).clamp_min(numerics.LOG_ZERO))
    distance = _hull_distance(q, logprobs)
    # This is sum_k exp(factor_k(c)) p_k, by weights that do not sum to 1; it does, so half their spread is enough.
    bound = (_weight_spread(factor, has_entries) / 2).clamp(0, 1)
    return TokenPool(q, torch.ones_like(distance), distance, bound)


def _check_classes(classes: Int[Tensor, " V"], n_classes: int) -> None:
    if classes.numel() and not -1 <= int(classes.min()) <= int(classes.max()) < n_classes:
        raise ValueError(
            f"classes has ids {int(classes.min())} to {int(classes.max())}, but log_weights has {n_classes} classes; "
            f"ids are 0 to {n_classes - 1}, and -1 for the last"
        )


def _occurring(classes: Int[Tensor, " V"], n_classes: int) -> Bool[Tensor, " C"]:
    return torch.bincount(classes.long() % n_classes, minlength=n_classes) > 0


def _class_mass(logprobs: Float[Tensor, "K *batch V"], mask: Bool[Tensor, " V"]) -> Float[Tensor, "K *batch"]:
    """Return the log-probability of a class; ``LOG_ZERO`` for one that has no entries or only impossible ones."""
    possible = logprobs.masked_fill(~mask | (logprobs <= numerics.LOG_ZERO), 2 * numerics.LOG_ZERO)
    total = possible.logsumexp(dim=-1)
    return torch.where(total > numerics.LOG_ZERO, total, numerics.LOG_ZERO)


@torch.no_grad()
def _hull_distance(q: Float[Tensor, "*batch V"], logprobs: Float[Tensor, "K *batch V"]) -> Float[Tensor, "*batch"]:
    return hull_project(q, logprobs).distance


@torch.no_grad()
def _weight_spread(log_weights: Float[Tensor, "C K *any"], occurring: Bool[Tensor, " C"]) -> Float[Tensor, "*any"]:
    """Return ``min_wbar sum_k max_c |w_k(c) - wbar_k|`` over probabilities ``wbar``, in closed form."""
    w = numerics.widen(log_weights).exp()[occurring]
    return torch.maximum(w.amax(dim=0).sum(dim=0) - 1, 1 - w.amin(dim=0).sum(dim=0))
