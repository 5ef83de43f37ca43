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
    Unused slots repeat no id: they hold id ``-1`` and ``LOG_ZERO``.

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
        """Keep the ``k`` largest entries of dense log-probabilities; the tail is the exact remaining mass."""
        n_entries = logprobs.shape[-1]
        kept, ids = logprobs.topk(min(k, n_entries), dim=-1)
        rest = 1 - kept.exp().sum(dim=-1)
        log_tail = numerics.log_of(rest) if k < n_entries else torch.full_like(rest, numerics.LOG_ZERO)
        return cls(ids, kept, log_tail, n_entries)

    @property
    def n_used(self) -> Int[Tensor, "*batch"]:
        """Stored entries at each position."""
        return (self.ids >= 0).sum(dim=-1)

    def logprob_of(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of one entry a position; an unstored entry gets an equal share of the tail."""
        hit = (self.ids == index.unsqueeze(-1)) & (self.ids >= 0)
        stored = torch.where(hit, self.logprobs, -torch.inf).amax(dim=-1)
        return torch.where(hit.any(dim=-1), stored, self.log_tail_share())

    def log_tail_share(self) -> Float[Tensor, "*batch"]:
        """Log-probability of each unstored entry under an even tail, in nats; ``LOG_ZERO`` if none is unstored."""
        n_unstored = self.n_entries - self.n_used
        share = self.log_tail - n_unstored.clamp_min(1).to(self.log_tail.dtype).log()
        return torch.where(n_unstored > 0, share, numerics.LOG_ZERO).clamp_min(numerics.LOG_ZERO)

    def densify(self, *, like: Float[Tensor, "*batch V"] | None = None) -> Float[Tensor, "*batch V"]:
        """Spread the tail over the unstored entries and return log-probabilities for all ``V``.

        Args:
            like: Log-probabilities whose shape the tail takes, usually the student's, without gradient. With it, a
                forward KL against ``like`` equals the divergence of the coarse-grained pair (stored entries, tail as
                one bucket), the least that any completion gives. Without it the tail is spread evenly.

        Returns:
            Log-probabilities in nats; they sum to 1 if stored mass and tail do.
        """
        used = self.ids >= 0
        slot = torch.where(used, self.ids, 0).long()
        if like is None:
            fill = self.log_tail_share().unsqueeze(-1).expand(*self.log_tail.shape, self.n_entries)
        else:
            taken = torch.where(used, like.gather(-1, slot).exp(), 0).sum(dim=-1)
            log_left = numerics.log_of((1 - taken).clamp_min(0))
            fill = like + (self.log_tail - log_left).unsqueeze(-1)
        # Unused slots write to a spare column that is cut off again.
        wide = torch.cat([fill, fill.new_empty(*fill.shape[:-1], 1)], dim=-1)
        wide = wide.scatter(-1, torch.where(used, slot, self.n_entries), self.logprobs.to(wide.dtype))
        return wide[..., :-1].clamp_min(numerics.LOG_ZERO)
