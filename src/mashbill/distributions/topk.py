"""A distribution known only by its top entries and the mass of everything else."""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class TopK:
    """``S`` stored entries a position, and one tail mass over the ``V - S`` others.

    The same value serves captured language-model outputs (the tail is what the capture cut off) and classifiers
    whose label set is not the student's (the tail is the mass that the teacher gave to no label it could name).
    An id stands at most once in a position; unused slots hold id ``-1`` and ``LOG_ZERO``.

    Attributes:
        ids: Vocabulary ids, ``-1`` in an unused slot.
        logprobs: Their log-probabilities in nats.
        log_tail: Log of the mass outside the stored entries, in nats, ``LOG_ZERO`` if none.
        n_entries: ``V``.
    """

    ids: Int[Tensor, "*batch S"]
    logprobs: Float[Tensor, "*batch S"]
    log_tail: Float[Tensor, "*batch"]
    n_entries: int

    @classmethod
    def from_logprobs(cls, logprobs: Float[Tensor, "*batch V"], *, k: int) -> "TopK":
        """Keep the ``k`` largest entries of dense log-probabilities; the tail is the mass of all others.

        Raises:
            ValueError: ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"k={k!r} must be at least 1: a distribution needs an entry to hold")
        wide, n_entries = numerics.widen(logprobs), logprobs.shape[-1]
        kept, ids = wide.topk(min(k, n_entries), dim=-1)
        # Summed over the entries cut off: one minus the kept mass would be rounding noise for a small tail.
        rest = wide.masked_fill(wide <= numerics.LOG_ZERO, -torch.inf).scatter(-1, ids, -torch.inf)
        return cls(ids, kept, rest.logsumexp(dim=-1).clamp_min(numerics.LOG_ZERO), n_entries)

    def cut(self, k: int) -> "TopK":
        """Keep the ``k`` largest stored entries; the others join the tail.

        Raises:
            ValueError: ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"k={k!r} must be at least 1: a distribution needs an entry to hold")
        if k >= self.ids.shape[-1]:
            return self
        wide = numerics.widen(self.logprobs).masked_fill(self.ids < 0, numerics.LOG_ZERO)
        kept, slot = wide.topk(k, dim=-1)
        # Summed over what is cut off, as in from_logprobs.
        rest = wide.masked_fill(wide <= numerics.LOG_ZERO, -torch.inf).scatter(-1, slot, -torch.inf)
        log_tail = torch.logaddexp(numerics.widen(self.log_tail), rest.logsumexp(dim=-1)).clamp_min(numerics.LOG_ZERO)
        return TopK(self.ids.gather(-1, slot), kept, log_tail, self.n_entries)

    @property
    def positions(self) -> torch.Size:
        """Shape of the positions, ``[B T]``."""
        return self.logprobs.shape[:-1]

    @property
    def n_used(self) -> Int[Tensor, "*batch"]:
        """Stored entries at each position."""
        return (self.ids >= 0).sum(dim=-1)

    def logprob_of(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of one entry a position; an unstored entry gets an equal share of the tail."""
        hit = (self.ids == index.unsqueeze(-1)) & (self.ids >= 0)
        share = self.log_tail_share()
        # A maximum over the slots would fail where there are none; at most one slot hits, so a sum does as well.
        stored = torch.where(hit, self.logprobs.to(share.dtype), 0).sum(dim=-1)
        return torch.where(hit.any(dim=-1), stored, share)

    def log_tail_share(self) -> Float[Tensor, "*batch"]:
        """Log-probability of each unstored entry if the tail is spread evenly, in nats.

        ``LOG_ZERO`` if every entry is stored.
        """
        log_tail, n_unstored = numerics.widen(self.log_tail), self.n_entries - self.n_used
        share = log_tail - n_unstored.clamp_min(1).to(log_tail.dtype).log()
        return torch.where(n_unstored > 0, share, numerics.LOG_ZERO).clamp_min(numerics.LOG_ZERO)

    def densify(self, *, like: Float[Tensor, "*batch V"] | None = None) -> Float[Tensor, "*batch V"]:
        """Spread the tail over the unstored entries and return log-probabilities for all ``V``.

        Args:
            like: Log-probabilities whose shape the tail takes, usually the student's, without gradient. With it, a
                forward KL against ``like`` equals the divergence of the coarse-grained pair (stored entries, tail as
                one bucket), the least that any completion gives. Without it, and where ``like`` has no mass at all
                on the unstored entries, the tail is spread evenly.

        Returns:
            Log-probabilities in nats, float32 at least; they sum to 1 if stored mass and tail do.
        """
        used, share = self.ids >= 0, self.log_tail_share().unsqueeze(-1)
        # Unused slots write to a spare column that is cut off again.
        slot = torch.where(used, self.ids, self.n_entries).long()
        if like is None:
            fill = share.expand(*self.log_tail.shape, self.n_entries + 1)
        else:
            fill = self._shaped_tail(torch.cat([numerics.widen(like), share], dim=-1), slot, share)
        return fill.scatter(-1, slot, self.logprobs.to(fill.dtype))[..., :-1].clamp_min(numerics.LOG_ZERO)

    def _shaped_tail(self, like: Tensor, slot: Tensor, share: Tensor) -> Tensor:
        outside = like.masked_fill(like <= numerics.LOG_ZERO, -torch.inf)
        outside = outside.scatter(-1, slot, -torch.inf)
        outside[..., -1] = -torch.inf
        log_left = outside.logsumexp(dim=-1, keepdim=True)
        shaped = outside + (self.log_tail.unsqueeze(-1) - log_left)
        return torch.where(log_left == -torch.inf, share, shaped)
