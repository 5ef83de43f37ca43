"""Random problems for the loss: student, teachers of any kind, weights, mask and labels."""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mashbill.distributions import Dense, Logits, TopK
from mashbill.losses import LossOutput, distillation_loss, native, native_rows


@dataclass(frozen=True)
class Problem:
    logits: torch.Tensor
    teachers: tuple[Dense | Logits | TopK, ...]
    log_weights: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def solve(self, **options) -> tuple[LossOutput, torch.Tensor]:
        """Return the loss and its gradient by the logits."""
        logits = self.logits.detach().requires_grad_()
        options.setdefault("labels", self.labels)
        loss = distillation_loss(logits, self.teachers, self.log_weights, mask=self.mask, **options)
        (gradient,) = torch.autograd.grad(loss.total, logits)
        return loss, gradient

    def to(self, dtype: torch.dtype) -> "Problem":
        """Cast logits, teachers and weights."""
        teachers = tuple(cast(one, dtype) for one in self.teachers)
        return replace(self, logits=self.logits.to(dtype), teachers=teachers, log_weights=self.log_weights.to(dtype))


def cast(teacher, dtype: torch.dtype):
    """Cast a teacher's numbers."""
    if isinstance(teacher, TopK):
        return TopK(teacher.ids, teacher.logprobs.to(dtype), teacher.log_tail.to(dtype), teacher.n_entries)
    return Dense(teacher.logprobs.to(dtype)) if isinstance(teacher, Dense) else Logits(teacher.values.to(dtype))


def build(
    *, kind="dense", shape=(2, 5, 23), n_teachers=3, k=4, spread=3.0, dtype=torch.float64, seed=0, per_token=True
) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def noise(*sizes):
        return torch.randn(*sizes, dtype=torch.float64, generator=generator)

    n_rows, n_positions, n_entries = shape
    teachers = []
    for index in range(n_teachers):
        scores = noise(*shape) * spread
        dense = Dense.from_logits(scores)
        is_stored = kind == "topk" or (kind == "mixed" and index % 2 == 1)
        teachers.append(TopK.from_logprobs(dense.logprobs, k=k) if is_stored else dense)
        if kind == "logits":
            teachers[-1] = Logits(scores)
    mask = torch.rand(n_rows, n_positions, generator=generator) < 0.7
    mask[0, 0] = True
    labels = torch.randint(0, n_entries, (n_rows, n_positions), generator=generator)
    labels[torch.rand(n_rows, n_positions, generator=generator) < 0.2] = -100
    weights = torch.log_softmax(noise(n_teachers, n_rows, n_positions if per_token else 1), dim=0)
    return Problem(noise(*shape) * spread, tuple(teachers), weights, mask, labels).to(dtype)


@pytest.fixture
def peak_mib() -> Callable[[Callable[[], object]], float]:
    """Return what tells how far the process's memory rises above where it stands, in MiB."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        pytest.skip("needs Linux's resettable high-water mark: run it there")

    def field(name):
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def peak(run):
        gc.collect()  # What other tests left would be freed meanwhile and hide a rise.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)  # So would freed memory that the process still holds.
        clear.write_text("5")
        before = field("VmRSS")
        run()
        return field("VmHWM") - before

    return peak


@pytest.fixture
def problem() -> Callable[..., Problem]:
    return build


@dataclass
class Mixed:
    """Rows that the compiled loops were given to mix, and those of them that they left to PyTorch."""

    n: int = 0
    n_left: int = 0


@pytest.fixture
def mixed(monkeypatch) -> Mixed:
    """Count what the compiled loops do; a test that asks for this is skipped where they cannot be built."""
    if (why := native.why_not()) is not None:
        pytest.skip(why)
    count, mix = Mixed(), native_rows.Worker.mix

    def counted(self, logits, *arguments, **options):
        found = mix(self, logits, *arguments, **options)
        count.n += len(logits)
        count.n_left += 0 if found.left is None else len(found.left)
        return found

    monkeypatch.setattr(native_rows.Worker, "mix", counted)
    return count
