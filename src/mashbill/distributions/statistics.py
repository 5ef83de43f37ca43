"""What weight rules read: a few numbers for each teacher and position instead of whole distributions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.interval import entropy_interval
from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Statistics:
    """Statistics of one distribution a position; :meth:`stack` puts teachers in front as axis ``K``.

    Attributes:
        entropy: ``-sum p log p`` in nats; the largest possible where a top-k leaves it open.
        entropy_low: The least possible entropy, in nats: ``entropy`` itself where the distribution was known in full.
            The truth is between the two, so half their difference is how far the midpoint can be off.
        gini: Gini variance ``1 - sum p^2``, a probability.
        margin: Largest minus second largest probability.
        max_logprob: Log of the largest probability, in nats.
        label_logprob: Log-probability of the label, in nats; NaN where there is no label.
        class_mass: Probability of each declared class of entries; ``C`` may be 0.
    """

    entropy: Float[Tensor, "*batch"]
    entropy_low: Float[Tensor, "*batch"]
    gini: Float[Tensor, "*batch"]
    margin: Float[Tensor, "*batch"]
    max_logprob: Float[Tensor, "*batch"]
    label_logprob: Float[Tensor, "*batch"]
    class_mass: Float[Tensor, "*batch C"]

    @classmethod
    def stack(cls, each: Sequence["Statistics"]) -> "Statistics":
        """Stack the statistics of ``K`` teachers along a new first axis."""
        return cls(**{f.name: torch.stack([getattr(one, f.name) for one in each]) for f in fields(cls)})

    def rows(self, index: slice | Tensor) -> "Statistics":
        """Select along the first axis."""
        return Statistics(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, *args, **kwargs) -> "Statistics":
        """Move or cast every field, as ``Tensor.to`` does."""
        return Statistics(**{f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)})


def measure(
    distribution: Dense | TopK,
    *,
    labels: Int[Tensor, "*batch"] | None = None,
    classes: Int[Tensor, " V"] | None = None,
    n_classes: int = 0,
    is_top: bool = False,
) -> Statistics:
    """Compute the statistics of a distribution, position by position.

    For a :class:`TopK` the tail counts as spread evenly over the unstored entries: entropy and Gini are then upper
    ends of what the stored numbers allow, and ``entropy_low`` is the lower end of the entropy.

    Args:
        distribution: One distribution a position.
        labels: The label of each position; ``-100`` means none.
        classes: A class id for each vocabulary entry, ``-1`` for none.
        n_classes: How many classes there are.
        is_top: The stored entries of a :class:`TopK` are the largest, as those that ``TopK.from_logprobs`` keeps;
            ``entropy_low`` is then higher. See :mod:`mashbill.distributions.interval`.

    Raises:
        ValueError: ``is_top`` cannot be true of the numbers.
    """
    logprobs, multiplicity = _entries(distribution)
    probabilities = logprobs.exp()
    # p log p is 0 at p = 0 because LOG_ZERO is finite.
    terms = multiplicity * probabilities * logprobs
    entropy = -terms.sum(dim=-1)
    gini = 1 - (multiplicity * probabilities.square()).sum(dim=-1)
    max_logprob, margin = _top_two(logprobs, multiplicity)
    entropy = entropy.clamp_min(0)
    return Statistics(
        entropy=entropy,
        entropy_low=_entropy_low(distribution, entropy, terms, is_top=is_top),
        gini=gini.clamp(0, 1),
        margin=margin,
        max_logprob=max_logprob,
        label_logprob=_label_logprob(distribution, labels, max_logprob),
        class_mass=_class_mass(distribution, probabilities, classes, n_classes),
    )


def measure_logits(
    logits: Float[Tensor, "*batch V"],
    *,
    labels: Int[Tensor, "*batch"] | None = None,
    classes: Int[Tensor, " V"] | None = None,
    n_classes: int = 0,
    chunk_elements: int = 2**20,
) -> Statistics:
    """Compute the statistics of ``softmax(logits)`` a few rows at a time.

    Equal to ``measure(Dense.from_logits(logits), ...)``, but the float32 log-probabilities of only
    ``chunk_elements`` entries exist at once. No gradient.

    Args:
        logits: Any real dtype; ``-inf`` masks an entry.
        labels: The label of each position; ``-100`` means none.
        classes: A class id for each vocabulary entry, ``-1`` for none.
        n_classes: How many classes there are.
        chunk_elements: Logits worked on at once; a whole row at least.
    """
    *batch, n_entries = logits.shape
    rows = logits.detach().reshape(-1, n_entries)
    wanted = None if labels is None else labels.reshape(-1)
    n_each = max(1, chunk_elements // max(n_entries, 1))
    parts = [
        measure(
            Dense.from_logits(rows[start : start + n_each]),
            labels=None if wanted is None else wanted[start : start + n_each],
            classes=classes,
            n_classes=n_classes,
        )
        for start in range(0, max(len(rows), 1), n_each)
    ]
    whole = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Statistics)}
    return Statistics(**{name: values.reshape((*batch, *values.shape[1:])) for name, values in whole.items()})


def _entries(distribution: Dense | TopK) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and how many entries have each: a top-k's tail is one value, ``V - S`` times."""
    stored = numerics.widen(distribution.logprobs)
    if isinstance(distribution, Dense):
        return stored, torch.ones((), dtype=stored.dtype, device=stored.device)
    share = distribution.log_tail_share().to(stored.dtype)
    n_unstored = (distribution.n_entries - distribution.n_used).to(stored.dtype)
    used = (distribution.ids >= 0).to(stored.dtype)
    return torch.cat([stored, share.unsqueeze(-1)], -1), torch.cat([used, n_unstored.unsqueeze(-1)], -1)


def _entropy_low(distribution: Dense | TopK, entropy: Tensor, terms: Tensor, *, is_top: bool) -> Tensor:
    if isinstance(distribution, Dense):
        return entropy
    if is_top:
        low = entropy_interval(distribution, is_top=True)[0].to(entropy.dtype)
    else:
        # The whole tail on one entry; there is none if everything is stored.
        log_tail = torch.where(terms[..., -1] == 0, 0, distribution.log_tail.to(terms.dtype))
        low = (-terms[..., :-1].sum(dim=-1) - log_tail.exp() * log_tail).clamp_min(0)
    # Rounding must not put the low end above the high one.
    return torch.minimum(low, entropy)


def _top_two(logprobs: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor]:
    if multiplicity.ndim:
        logprobs = torch.where(multiplicity > 0, logprobs, numerics.LOG_ZERO)
        last_twice = torch.where(multiplicity[..., -1:] > 1, logprobs[..., -1:], numerics.LOG_ZERO)
        logprobs = torch.cat([logprobs, last_twice], dim=-1)
    if logprobs.shape[-1] == 1:
        return logprobs[..., 0], logprobs[..., 0].exp()
    top = logprobs.topk(2, dim=-1).values
    return top[..., 0], top[..., 0].exp() - top[..., 1].exp()


def _label_logprob(distribution: Dense | TopK, labels: Tensor | None, like: Tensor) -> Tensor:
    if labels is None:
        return torch.full_like(like, torch.nan)
    found = distribution.logprob_of(labels.clamp_min(0)).to(like.dtype)
    return torch.where(labels >= 0, found, torch.nan)


def _class_mass(
    distribution: Dense | TopK, probabilities: Tensor, classes: Tensor | None, n_classes: int
) -> Float[Tensor, "*batch C"]:
    if classes is None or n_classes == 0:
        return probabilities.new_zeros(*probabilities.shape[:-1], n_classes)
    if isinstance(distribution, Dense):
        return mass_by_class(probabilities, classes, n_classes)
    index = _with_spare(classes, n_classes)
    share = probabilities[..., -1:]
    used = (distribution.ids >= 0).to(probabilities.dtype)
    index_of_stored = index[distribution.ids.clamp_min(0).long()]
    n_stored = _summed(used, index_of_stored, n_classes + 1)
    mass = _summed(used * probabilities[..., :-1], index_of_stored, n_classes + 1)
    n_unstored = torch.bincount(index, minlength=n_classes + 1).to(mass.dtype) - n_stored
    return (mass + n_unstored * share)[..., :-1]


def listed_class_mass(topk: TopK, classes: Int[Tensor, " V"], n_classes: int) -> Float[Tensor, "*batch C"]:
    """Return the mass of each class on stored entries alone: the least that it can be; ``-1`` is none."""
    index = _with_spare(classes, n_classes)[topk.ids.clamp_min(0).long()]
    stored = numerics.widen(topk.logprobs).exp().masked_fill(topk.ids < 0, 0)
    return _summed(stored, index, n_classes + 1)[..., :-1]


def mass_by_class(
    probabilities: Float[Tensor, "*batch V"], classes: Int[Tensor, " V"], n_classes: int
) -> Float[Tensor, "*batch C"]:
    """Return the probability of each class of entries; ``-1`` is none."""
    return _summed(probabilities, _with_spare(classes, n_classes), n_classes + 1)[..., :-1]


def _with_spare(classes: Int[Tensor, " V"], n_classes: int) -> Int[Tensor, " V"]:
    # Entries of no class go to a spare column that is cut off again.
    return torch.where(classes >= 0, classes, n_classes).long()


def _summed(values: Float[Tensor, "*batch S"], index: Int[Tensor, "*#batch S"], n: int) -> Float[Tensor, "*batch n"]:
    """Add up the values of each index, a stretch of entries at a time in float64.

    They are added one by one: in float32 each would be rounded to the size of the sum.
    """
    on_cpu, n_rows = values.device.type == "cpu", max(1, math.prod(values.shape[:-1]))
    wide = values.dtype if values.device.type == "mps" else torch.float64  # it has none
    total = torch.zeros(*values.shape[:-1], n, dtype=wide, device=values.device)
    n_each = max(1, (2**16 if on_cpu else 2**24) // n_rows)
    for start in range(0, values.shape[-1], n_each):
        part = values[..., start : start + n_each].to(wide)
        total = total.scatter_add_(-1, index[..., start : start + n_each].expand_as(part), part)
    return total.to(values.dtype)
