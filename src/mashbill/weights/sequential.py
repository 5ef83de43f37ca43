"""Rules that learn inside a sequence: trust the teachers that predicted its labels so far.

The weights at a position depend on labels before it, never on its own or later ones, so they may weigh the target of
that very position. Every row starts again from the prior; so do the blocks that a long text is cut into. Only positions
that count and have a label are evidence; at the others nothing changes. A classifier's row is one position: there these
rules give the prior, always.

What the mixture loses against the best teacher, or the best sequence of teachers, is in :mod:`mashbill.weights.regret`.
It holds for the linear pool of these weights as they are: a guard, an order or another scale after them voids it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.share_scan import LEAST, accumulator_dtype, share_scan
from mashbill.weights.shares import Number, Shares, extremes, in_order, require_shares
from mashbill.weights.simplex import log_normalise

_BLOCK = 2**17  # numbers in float64 worked on at once


@dataclass(frozen=True)
class Bayes:
    """The posterior over teachers given the labels so far: ``w_t ~ prior exp(-loss_(<t) / temperature)``.

    ``loss_(<t)`` is a teacher's cumulative log-loss ``-sum log p_k(y_s)``, nats, over the counted positions ``s < t``
    of the row. With a temperature of at least 1 the linear pool's cumulative log-loss is at most any teacher's plus
    ``temperature ln(1/prior_k)``, whatever the sequence (:func:`mashbill.weights.regret.regret_bound`). Below 1 there
    is no such guarantee.

    Certified: Lipschitz constant ``1/(2 temperature)`` in the cumulative losses (sup norm); none in the losses of
    single positions that holds for any length. Normalised and continuous; neither bounded nor positive (a teacher can
    lose everything, and then needs long to come back: see :class:`FixedShare`), and not ordered.

    Cost: ``O(K B T)``, one cumulative sum in float64.

    Attributes:
        prior: ``{teacher: weight}`` before any label, at least 1e-30 each; alike by default.
        temperature: Nats of cumulative loss at which one teacher outweighs another e to 1. Positive.

    Raises:
        ValueError: An attribute is out of range. In a call: the prior does not name exactly the teachers.

    Source:
        Bayes' rule; the bound is that of Vovk, *Aggregating strategies*, COLT 1990. An instance of arXiv 2601.17910,
        Section V.A, Principle 2.
    """

    prior: Shares | None = None
    temperature: Number = 1.0

    scale: ClassVar[Literal["token"]] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})
    form: ClassVar[Mapping[str, str]] = {"forecaster": "bayes"}

    def __post_init__(self) -> None:
        _require_prior(self.prior)
        if not 0 < self.temperature < math.inf:  # also catches NaN
            raise ValueError(f"temperature={self.temperature!r} must be finite and positive")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        logprobs, _ = _evidence_of(evidence)
        n_teachers, _, n_positions = logprobs.shape
        dtype = accumulator_dtype(logprobs.device)
        prior = logprobs.new_tensor(_prior_of(self.prior, evidence.teachers), dtype=dtype).log()[:, None, None]
        # A few rows at a time: most of the cost of a long batch in float64 is asking for its memory.
        n_each = max(1, _BLOCK // max(1, n_teachers * n_positions))
        return torch.cat([self._posterior(rows, prior) for rows in logprobs.split(n_each, dim=1)], dim=1)

    def _posterior(self, logprobs: Float[Tensor, "K b T"], log_prior: Float[Tensor, "K 1 1"]) -> LogWeights:
        gain = logprobs.to(log_prior.dtype) / self.temperature
        # Shifted, not subtracted: what a position adds must not even be rounded into its own weight.
        scores = torch.nn.functional.pad(gain.cumsum(dim=-1)[..., :-1], (1, 0)) + log_prior
        best = scores.detach().amax(dim=0, keepdim=True)
        return log_normalise((scores - best).to(logprobs.dtype), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for sequences of any length."""
        lowest = 1.0 if n_teachers == 1 else 0.0
        score = 1 / self.temperature
        source = "softmax of scores -loss/temperature: 1/2 in the sup norm"
        return Declared(lowest, 1.0, score / 2, "cumulative label log-loss, sup", source, score_lipschitz=score)


@dataclass(frozen=True)
class FixedShare:
    """Bayes over sequences of teachers: ``w_(t+1) = (1 - rate) posterior_t + rate/K``.

    ``posterior_t ~ w_t p(y_t)``. It follows a text that changes its domain: against the best sequence of teachers with
    ``S`` switches over ``n`` counted positions the linear pool loses at most
    ``ln(1/prior) - S ln(rate/K) - (n-1-S) ln(1 - rate + rate/K)`` nats, whatever the text
    (:func:`mashbill.weights.regret.tracking_bound`; :func:`~mashbill.weights.regret.best_rate` for the rate). Shares
    are made after counted positions only, so padding and prompts change no weight.

    Certified: range ``[min(rate/K, least prior), max(1 - rate + rate/K, largest prior)]``, however long and hostile
    the row; Lipschitz constant ``K (1 - rate) / (4 rate)`` in the label log-probabilities (sup norm over teachers and
    positions), for any length. Proof: a share contracts Hilbert's metric by ``tanh(D/4) = (r-1)/(r+1)`` with
    ``r = 1 + K (1-rate)/rate`` and ``D = 2 ln r`` (Birkhoff), a position adds at most 2, and ``2 c/(1-c) = r - 1``;
    softmax makes it a quarter. Attained for ``K = 2``. Normalised, positive, bounded and continuous; not ordered.

    Cost: ``O(K^2 B T)`` in ``2 T`` small steps.

    Attributes:
        rate: Share that all teachers give to all after each position, from 1e-30 to 1, which is uniform.
        prior: ``{teacher: weight}`` before any label, at least 1e-30 each; alike by default.

    Raises:
        ValueError: An attribute is out of range. In a call: the prior does not name exactly the teachers.

    Source:
        Herbster & Warmuth, *Tracking the Best Expert*, Machine Learning 32, 1998, with shares to all teachers, oneself
        included, and log-loss; Birkhoff, *Extensions of Jentzsch's theorem*, 1957, for the contraction.

    >>> FixedShare(rate=0.1).declared(5).lowest
    0.02
    """

    rate: Number = 0.01
    prior: Shares | None = None

    scale: ClassVar[Literal["token"]] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})
    form: ClassVar[Mapping[str, str]] = {"forecaster": "fixed_share"}

    def __post_init__(self) -> None:
        _require_prior(self.prior)
        if not LEAST <= self.rate <= 1:  # also catches NaN
            raise ValueError(f"rate={self.rate!r} must be between {LEAST:g} and 1; for less use Bayes")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        logprobs, counted = _evidence_of(evidence)
        prior = _prior_of(self.prior, evidence.teachers)
        return share_scan(logprobs, counted, prior=prior, rate=self.rate)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for rows of any length."""
        even = 1 / n_teachers
        least, largest = (even, even)
        if self.prior is not None:
            least, largest = extremes([self.prior], n_teachers=n_teachers, argument="prior")
        lowest, highest = min(self.rate / n_teachers, least), max(1 - self.rate + self.rate / n_teachers, largest)
        if n_teachers == 1:
            lowest, highest = 1.0, 1.0
        score = n_teachers * (1 - self.rate) / (2 * self.rate) if n_teachers > 1 else 0.0
        source = "shares contract Hilbert's metric (Birkhoff); a geometric series over the positions"
        return Declared(lowest, highest, score / 2, "label log-probabilities, sup", source, score_lipschitz=score)


def _evidence_of(evidence: Evidence) -> tuple[Float[Tensor, "K B T"], Bool[Tensor, "B T"]]:
    """Return the labels' log-probabilities, 0 where they do not count, and where they count."""
    given = numerics.widen(evidence.statistics.label_logprob)
    counted = evidence.mask & ~given.isnan().any(dim=0)
    return torch.where(counted, given, 0).clamp_min_(numerics.LOG_ZERO), counted


def _require_prior(prior: Shares | None) -> None:
    if prior is None:
        return
    require_shares(prior, argument="prior")
    for name, share in prior.items():
        if share < LEAST:
            raise ValueError(f"prior[{name!r}]={share!r} must be at least {LEAST:g}: no label could ever raise a zero")


def _prior_of(prior: Shares | None, teachers: Sequence[str]) -> list[float]:
    if prior is None:
        return [1 / len(teachers)] * len(teachers)
    given = in_order(prior, teachers, argument="prior")
    return [share / math.fsum(given) for share in given]
