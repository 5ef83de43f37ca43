"""What the machine can do at best, measured in the same process as everything else, and what a loss needs at least."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from harness.clock import once
from harness.forms import DTYPES, Shape


@dataclass(frozen=True)
class Limits:
    """Best rates seen, with as many threads as the loss has.

    Attributes:
        copy: Bytes read and written a second by a copy between two tensors that exist and fit in no cache.
        exp: Exponentials a second in float32 where the numbers are in the cache already: those of ``torch.exp`` or
            those inside of ``torch.softmax``, whichever are faster.
        product: Floating-point operations a second of a matrix product as large as the head's: in the loss's dtype, or
            in float32 where a processor is faster at that.
    """

    copy: float
    exp: float
    product: float

    def best(self, other: "Limits") -> "Limits":
        """Return the higher rates: whatever was slower was disturbed."""
        mine, theirs = asdict(self), asdict(other)
        return Limits(**{name: max(mine[name], theirs[name]) for name in mine})


def measure(shape: Shape, *, device: str = "cpu", seconds: float = 0.5) -> Limits:
    """Measure all three for about ``seconds`` each."""
    # A GPU must be busy for much longer than a call takes; a smoke run's copy fits in the cache, and means nothing.
    large = 2**21 if seconds < 0.1 else 2**26 if device == "cpu" else 2**29
    source, sink = torch.ones(large, device=device), torch.ones(large, device=device)
    copied = 8 * large / _fastest(lambda: sink.copy_(source), device, seconds)
    # As much as the loss works on at once: a share of a core's cache for each thread.
    n_cached = 2**17 * torch.get_num_threads() if device == "cpu" else large
    cached, out = torch.linspace(-9, 0, n_cached, device=device), torch.empty(n_cached, device=device)
    wide, wide_out = cached.view(-1, 2**10), out.view(-1, 2**10)
    exponentials = n_cached / min(
        _fastest(lambda: torch.exp(cached, out=out), device, seconds / 2),
        _fastest(lambda: torch.softmax(wide, dim=-1, out=wide_out), device, seconds / 2),
    )
    dtypes = {DTYPES[shape.dtype], torch.float32} if device == "cpu" else {DTYPES[shape.dtype]}
    product = max(_product(shape, dtype, device, seconds) for dtype in dtypes)
    return Limits(copied, exponentials, product)


def _product(shape: Shape, dtype: torch.dtype, device: str, seconds: float) -> float:
    """Return operations a second of a teacher's head on a chunk of positions; a GPU takes them all at once."""
    rows = min(shape.rows, 512) if device == "cpu" else shape.rows
    hidden = torch.randn(rows, shape.teacher_width, device=device).to(dtype)
    head = torch.randn(shape.entries, shape.teacher_width, device=device).to(dtype)
    scores = torch.empty(rows, shape.entries, device=device, dtype=dtype)
    operations = 2 * rows * shape.entries * shape.teacher_width
    return operations / _fastest(lambda: torch.mm(hidden, head.T, out=scores), device, seconds)


def _fastest(function: Callable[[], object], device: str, seconds: float) -> float:
    function()
    spent, best = 0.0, float("inf")
    while spent < seconds:
        wall, _ = once(function, device)
        spent, best = spent + wall, min(best, wall)
    return best


def least_seconds(shape: Shape, limits: Limits, *, device: str = "cpu") -> dict[str, float]:
    """Return the seconds that each limit alone would take.

    Every logit is read once and the gradient by it is written once; every logit has one exponential; and a head costs
    one product of a teacher, three of the student. On a GPU, ``two passes`` is what kernels move that read every logit
    twice, for the norms and for the mixture: no row of a large vocabulary stays on the chip in between.
    """
    matrix = shape.rows * shape.entries
    n_dense = shape.teachers if shape.form in ("logits", "hidden") else 0
    in_memory = {"logits": n_dense + 2, "topk": 2}.get(shape.form, 0)
    widths = (3 * shape.width + (n_dense * shape.teacher_width)) if shape.form in ("hidden", "stored") else 0
    per_matrix = matrix * shape.itemsize / limits.copy
    twice = {} if device == "cpu" or not in_memory else {"two passes": (2 * in_memory - 1) * per_matrix}
    return {
        "bytes": in_memory * per_matrix,
        **twice,
        "exp": (n_dense + 1) * matrix / limits.exp,
        "products": 2 * matrix * widths / limits.product,
    }
