"""Pools with one fault each, most of them bred from the linear pool.

The linear pool itself does not commute with softening and can lose entropy, so its offspring may be blamed for that.
"""

from collections.abc import Callable

import torch

Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

STRONG, WEAK = "pool.convexity.strong", "pool.convexity.weak"
ALONE, ALL = "pool.positivity.strong", "pool.positivity.weak"
COORDINATE, DIVERGENCE = "pool.monotonicity.coordinate", "pool.monotonicity.divergence"
COMMUTES, ENTROPY, LIMIT = "pool.temperature.strong", "pool.temperature.entropy", "pool.temperature.weak"
SUM, CONTINUITY = "pool.normalised", "pool.continuity"
LOSS, REGRET, UNSAFE = "pool.logloss", "pool.regret", "pool.unsafe"

LINEAR = (COMMUTES, ENTROPY)
ANY_VALUE = (STRONG, WEAK, COORDINATE, DIVERGENCE, COMMUTES, ENTROPY, LOSS, REGRET, UNSAFE)
"""What a pool may break that moves mass between entries by a rule of its own."""


def linear(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(log_p + log_w.unsqueeze(-1), dim=0)


def logarithmic(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax((log_w.exp().unsqueeze(-1) * log_p).sum(dim=0), dim=-1)


def normalised(q: torch.Tensor) -> torch.Tensor:
    return (q / q.sum(dim=-1, keepdim=True)).log().clamp_min(-1e4)


def too_much(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return linear(log_p, log_w) + 1e-4


def divided_by_largest(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    q = linear(log_p, log_w)
    return q - q.amax(dim=-1, keepdim=True)


def clipped(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return linear(log_p, log_w).clamp_min(-7.0)


def clipped_and_normalised(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(clipped(log_p, log_w), dim=-1)


def zero_times_infinity(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    p, w = log_p.exp(), log_w.exp().unsqueeze(-1)
    return torch.log_softmax((w * p.log()).sum(dim=0), dim=-1)


def median(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return normalised(log_p.double().exp().quantile(0.5, dim=0) + 1e-300)


def largest(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(log_p.amax(dim=0), dim=-1)


def squared_weights(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return linear(log_p, torch.log_softmax(2 * log_w.double(), dim=0))


def inverted_weights(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    n_teachers = len(log_w)
    if n_teachers == 1:
        return linear(log_p, log_w)
    return linear(log_p, ((1 - log_w.exp()) / (n_teachers - 1)).clamp_min(1e-300).log())


def paired_wrongly(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """Weights one place further."""
    return linear(log_p, log_w.roll(1, dims=0))


def even(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return linear(log_p, torch.log_softmax(0 * log_w, dim=0))


def softened_twice(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """Softens what was softened before."""
    return linear(torch.log_softmax(log_p / 2, dim=-1), log_w)


def sharpened(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(1.05 * linear(log_p, log_w).clamp_min(-1e4), dim=-1)


def tail_dropped(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """Entries below a hundredth are set to 0."""
    q = linear(log_p, log_w)
    return torch.log_softmax(torch.where(q < -4.6, -1e4, q), dim=-1)


def least_dropped(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """A top-k of all entries but the least: which one that is jumps."""
    q = linear(log_p, log_w)
    return torch.log_softmax(q.scatter(-1, q.argmin(dim=-1, keepdim=True), -1e4), dim=-1)


def least_share(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """Whoever has any weight has at least 0.05: a jump at weight 0."""
    w = log_w.exp()
    raised = torch.where(w > 0, w.clamp_min(0.05), 0.0)
    return linear(log_p, (raised / raised.sum(dim=0)).clamp_min(1e-300).log())


def dictated(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """A majority takes a little more than its share."""
    w = log_w.exp()
    raised = w + 0.01 * (w > 0.6)
    return linear(log_p, (raised / raised.sum(dim=0)).clamp_min(1e-300).log())


def with_prior(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """A hundredth of everything goes to the first entry."""
    q = 0.99 * linear(log_p, log_w).exp()
    first = torch.zeros_like(q)
    first[..., 0] = 0.01
    return (q + first).clamp_min(1e-300).log()


def power(log_p: torch.Tensor, log_w: torch.Tensor, *, r: float) -> torch.Tensor:
    return torch.log_softmax(torch.logsumexp(r * log_p + log_w.unsqueeze(-1), dim=0) / r, dim=-1)


def vetoed(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """The linear pool, but what one teacher with weight rules out is out, unless nothing would be left."""
    out = ((log_p <= -745) & (log_w.unsqueeze(-1) > -745)).any(dim=0)
    out = out & ~out.all(dim=-1, keepdim=True)
    return torch.log_softmax(torch.where(out, -1e4, linear(log_p, log_w)), dim=-1)


def by_certainty(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """The surer teacher counts more: a geometric mean whose weights soften with the teachers."""
    said = log_w + (log_p.exp() * log_p.clamp_min(-745)).sum(dim=-1)
    return logarithmic(log_p, torch.log_softmax(said, dim=0))


def narrow(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return linear(log_p, log_w).exp().to(torch.bfloat16).to(log_p.dtype).clamp_min(1e-300).log()


def moved_apart(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """A mixture whose weights are bent so that a little more weight counts less, between 0.5 and 0.6 of two."""
    w = log_w.exp()
    bent = w - 0.08 * torch.sin((w.clamp(0.5, 0.6) - 0.5) * 20 * torch.pi).clamp_min(0)
    return linear(log_p, (bent / bent.sum(dim=0)).clamp_min(1e-300).log())


class Remembering:
    """Shares out by a mean of this call's weights and the last one's."""

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None

    def __call__(self, log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
        used = log_w
        if self.last is not None and self.last.shape == log_w.shape:
            used = torch.logaddexp(log_w, self.last) - torch.tensor(2.0).log()
        self.last = log_w.detach()
        return linear(log_p, used.clamp_min(-1e4))


def by_batch(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    """The mean weights of the batch for all."""
    w = log_w.exp()
    each = w.reshape(len(w), -1).mean(dim=1).reshape(-1, *[1] * (w.ndim - 1))
    return linear(log_p, (0.5 * w + 0.5 * each).clamp_min(1e-300).log())


def favours_first(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    w = log_w.exp()
    first = torch.zeros_like(w)
    first[0] = 1
    return linear(log_p, (0.99 * w + 0.01 * first).clamp_min(1e-300).log())


def other_in_float32(log_p: torch.Tensor, log_w: torch.Tensor) -> torch.Tensor:
    return linear(log_p, log_w) if log_p.dtype == torch.float64 else logarithmic(log_p, log_w)
