"""Random teachers of whom only lists were captured, and the loss of a student against them by either path."""

from dataclasses import dataclass, replace

import torch

from mashbill.distributions import TopK
from mashbill.losses import distillation_loss, topk
from mashbill.losses.objective import Objective
from mashbill.numerics import LOG_ZERO

ALL = ["forward_kl", "reverse_kl", "js", "skew_kl", "reverse_skew_kl", "alpha", "total_variation"]
COVERED = [*((name, "student") for name in ALL), ("forward_kl", "even")]


@dataclass(frozen=True)
class Case:
    logits: torch.Tensor
    teachers: tuple[TopK, ...]
    log_weights: torch.Tensor
    labels: torch.Tensor | None

    def to(self, dtype: torch.dtype) -> "Case":
        teachers = tuple(
            TopK(one.ids, one.logprobs.to(dtype), one.log_tail.to(dtype), one.n_entries) for one in self.teachers
        )
        return replace(self, logits=self.logits.to(dtype), teachers=teachers, log_weights=self.log_weights.to(dtype))

    def lists(self, *, expect_hard: bool = False, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return divergence, cross-entropy and gradient as the lists give them."""
        objective, out = Objective(**options), torch.empty_like(self.logits, dtype=self.teachers[0].logprobs.dtype)
        spare = torch.empty_like(out)
        done = topk.chunk(
            self.logits, self.teachers, self.log_weights, self.labels, objective=objective, out=out, spare=spare
        )
        assert (len(done.hard) > 0) == expect_hard
        return done.divergence, done.cross_entropy, out

    def loss(self, impl: str, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same by the whole call."""
        logits = self.logits.detach().unsqueeze(0).requires_grad_()
        teachers = [
            TopK(one.ids.unsqueeze(0), one.logprobs.unsqueeze(0), one.log_tail.unsqueeze(0), one.n_entries)
            for one in self.teachers
        ]
        labels = None if self.labels is None else self.labels.unsqueeze(0)
        mask = torch.ones(logits.shape[:-1], dtype=torch.bool)
        weights = self.log_weights.unsqueeze(1)
        loss = distillation_loss(logits, teachers, weights, mask=mask, labels=labels, impl=impl, **options)
        (gradient,) = torch.autograd.grad(loss.total, logits)
        return loss.divergence[0], loss.cross_entropy[0], gradient[0]


def noise(*shape, seed=0, scale=3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ragged(stored: TopK, *, drop: float, seed: int) -> TopK:
    """Leave slots unused at random; their mass joins the tail."""
    gone = torch.rand(stored.ids.shape, generator=torch.Generator().manual_seed(seed)) < drop
    moved = torch.where(gone, stored.logprobs, -torch.inf).logsumexp(-1)
    ids, logprobs = stored.ids.masked_fill(gone, -1), stored.logprobs.masked_fill(gone, LOG_ZERO)
    return TopK(ids, logprobs, torch.logaddexp(stored.log_tail, moved), stored.n_entries)


def build(*, n_rows=7, n_entries=29, sizes=(5, 3, 5), drop=0.2, seed=0, scale=3.0) -> Case:
    """Teachers who agree in part, so that their lists share entries, with gaps."""
    common = noise(n_rows, n_entries, seed=seed, scale=scale)
    teachers = []
    for k, size in enumerate(sizes):
        own = noise(n_rows, n_entries, seed=100 * seed + k + 1, scale=scale)
        stored = TopK.from_logprobs(torch.log_softmax((common + own) / 2**0.5, -1), k=size)
        teachers.append(ragged(stored, drop=drop, seed=seed + k))
    weights = torch.log_softmax(noise(len(sizes), n_rows, seed=seed + 50, scale=1.0), 0)
    labels = torch.randint(0, n_entries, (n_rows,), generator=torch.Generator().manual_seed(seed))
    labels[1::3] = -100
    return Case(noise(n_rows, n_entries, seed=seed + 70, scale=scale), tuple(teachers), weights, labels)


def agree(one, two, *, tolerance=1e-12):
    """Compare (divergence, cross-entropy, gradient): values by their size or 1 nat, the gradient by its norm."""
    for value, other in zip(one[:2], two[:2], strict=True):
        torch.testing.assert_close(value.double(), other.double(), rtol=tolerance, atol=tolerance)
    assert (one[2].double() - two[2].double()).norm() <= tolerance * two[2].double().norm() + tolerance / 10
