"""Distributions from answers alone: what ``n`` sampled completions tell of a teacher that gives no probabilities.

An *answer* is the id of a vocabulary entry or label, however it was read from the text. Not covered: reading it, and
answers that depend on one another.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Empirical:
    """The distribution of ``n`` answers a position, and how far it can be trusted.

    Attributes:
        distribution: ``(count + smoothing) / (n + smoothing V)``: the answers seen are stored, the others share the
            tail evenly.
        entropy: Of the counts without smoothing, in nats; too small on average, by ``-entropy_bias``.
        entropy_bias: ``-(V_seen - 1) / (2 n)`` in nats, with ``V_seen`` the distinct answers at the position
            (Miller and Madow). It is what the true bias is to first order once every possible answer was seen.
        consistency: Share of the most frequent answer; ``1 - consistency`` is a variance for ``InverseVariance``.
        n_samples: ``n``.
        expected_error: Bound on the expected ``sum_v |p_v - true_v|``, see :func:`empirical_error`.
    """

    distribution: TopK
    entropy: Float[Tensor, "*batch"]
    entropy_bias: Float[Tensor, "*batch"]
    consistency: Float[Tensor, "*batch"]
    n_samples: int
    expected_error: float

    @property
    def corrected_entropy(self) -> Float[Tensor, "*batch"]:
        """``entropy - entropy_bias``, at most ``ln V``."""
        return (self.entropy - self.entropy_bias).clamp_max(math.log(self.distribution.n_entries))


def empirical(answers: Int[Tensor, "n *batch"], *, n_entries: int, smoothing: float = 0.0) -> Empirical:
    """Count the answers of ``n`` independent completions at each position.

    A single answer without smoothing is one-hot.

    Args:
        answers: Ids in ``[0, V)``.
        n_entries: ``V``.
        smoothing: Added to the count of each of the ``V`` entries: 0 keeps the frequencies, 1 is Laplace's rule.

    Returns:
        A float32 :class:`TopK` with as many slots as there are answers, and its error.

    Raises:
        ValueError: There is no answer, an id is outside ``[0, V)``, or ``smoothing`` is negative or not finite.

    >>> found = empirical(torch.tensor([3, 1, 3, 3]), n_entries=5, smoothing=1.0)
    >>> [round(p, 4) for p in found.distribution.densify().exp().tolist()]
    [0.1111, 0.2222, 0.1111, 0.4444, 0.1111]
    """
    if answers.shape[0] == 0:
        raise ValueError("answers has none; ask for at least one completion at each position")
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing={smoothing!r} must be finite and not negative")
    if answers.numel() and (int(answers.min()) < 0 or int(answers.max()) >= n_entries):
        raise ValueError(
            f"answers are ids from {int(answers.min())} to {int(answers.max())}, but must be in [0, {n_entries}); "
            "leave out completions that name no entry"
        )
    n_samples = answers.shape[0]
    ids, counts = _counted(answers.movedim(0, -1).long())
    n_seen = (counts > 0).sum(dim=-1)
    share = counts / n_samples
    return Empirical(
        from_counts(ids, counts, n_entries=n_entries, smoothing=smoothing),
        entropy=-(share * numerics.log_of(share)).sum(dim=-1),
        entropy_bias=-(n_seen.float() - 1) / (2 * n_samples),
        consistency=share.amax(dim=-1),
        n_samples=n_samples,
        expected_error=empirical_error(n_entries, n_samples=n_samples, smoothing=smoothing),
    )


def from_counts(
    ids: Int[Tensor, "*batch S"],
    counts: Float[Tensor, "*batch S"],
    *,
    n_entries: int,
    smoothing: float = 0.0,
    outside: Float[Tensor, "*batch"] | None = None,
) -> TopK:
    """Return ``(count + smoothing) / (n + smoothing V)`` for counted answers; all tail where nothing was counted.

    Args:
        ids: Each answer once, ``-1`` in unused slots.
        counts: How often it was given, 0 in unused slots.
        n_entries: ``V``.
        smoothing: As in :func:`empirical`.
        outside: Answers that name no entry; they count as mass of nobody in particular, if an entry is left for it.
    """
    used = counts > 0
    n_seen = used.sum(dim=-1)
    is_full = n_seen == n_entries
    lost = torch.zeros_like(counts[..., 0]) if outside is None else torch.where(is_full, 0, outside)
    n_counted = counts.sum(dim=-1) + lost
    total = torch.where(n_counted > 0, n_counted + smoothing * n_entries, 1)
    tail = torch.where(n_counted > 0, lost + smoothing * (n_entries - n_seen).float(), 1) / total
    logprobs = numerics.log_of((counts + smoothing) / total.unsqueeze(-1))
    return TopK(ids, torch.where(used, logprobs, numerics.LOG_ZERO), numerics.log_of(tail), n_entries)


def empirical_error(n_entries: int, *, n_samples: int, smoothing: float = 0.0) -> float:
    """Bound the expected l1 distance of an empirical distribution from the true one: ``sqrt((V - 1) / n)``.

    ``E|f_v - p_v| <= sqrt(p_v (1 - p_v) / n)``, and by Cauchy and Schwarz the sum is largest at uniform. Smoothing
    moves a share ``s = smoothing V / (n + smoothing V)`` to uniform, which leaves ``1 - s`` of that error and adds at
    most ``2 s (1 - 1/V)``. Never more than 2, the largest l1 distance.

    Args:
        n_entries: ``V``.
        n_samples: ``n``, independent.
        smoothing: As in :func:`empirical`.

    >>> empirical_error(101, n_samples=400)
    0.5
    """
    moved = smoothing * n_entries / (n_samples + smoothing * n_entries)
    random = math.sqrt((n_entries - 1) / n_samples)
    return min(2.0, (1 - moved) * random + 2 * moved * (1 - 1 / n_entries))


def entropy_bias(n_effective: int, *, n_samples: int) -> float:
    """Return the bias of an empirical entropy to first order, ``-(V_eff - 1) / (2 n)`` nats (Miller and Madow).

    Args:
        n_effective: ``V_eff``, entries of positive probability.
        n_samples: ``n``, independent.

    >>> entropy_bias(50, n_samples=2000)
    -0.01225
    """
    return -(n_effective - 1) / (2 * n_samples)


def paraphrase_consistency(answers: Sequence[Hashable]) -> float:
    """Share of answers that agree with the most frequent one: PC@k of ``k`` answers to paraphrases of one question.

    In ``[1/k, 1]``. ``1 - PC@k`` is a variance in ``[0, 1)``: give it as ``Evidence.variance`` to
    ``InverseVariance(source="supplied")``.

    Args:
        answers: One for each paraphrase, decoded greedily and read alike (case, spaces) before they are compared.

    Raises:
        ValueError: There is no answer.

    Source:
        arXiv 2601.07058 (abstract): agreement with the mode over ``k`` paraphrases.

    >>> paraphrase_consistency(["a", "a", "b", "a", "c"])
    0.6
    """
    if not answers:
        raise ValueError("answers=[] must hold at least one answer")
    return max(Counter(answers).values()) / len(answers)


def _counted(answers: Int[Tensor, "*batch n"]) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Return each distinct answer once, ascending, ``-1`` in unused slots, and how often it was given."""
    ordered = answers.sort(dim=-1).values
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    slot = is_new.long().cumsum(dim=-1) - 1
    counts = torch.zeros_like(ordered, dtype=torch.float32).scatter_add(-1, slot, torch.ones_like(slot).float())
    return torch.full_like(ordered, -1).scatter(-1, slot, ordered), counts
