"""What the page claims, as numbers that a run meets or does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.numbers import (
    CHUNKED,
    IN_PLACE,
    OURS,
    OfStep,
    Over,
    Peak,
    Record,
    Share,
    gradient_bytes,
    head_bytes,
    head_sum_bytes,
    worst_adaptive,
    worst_exponent,
)


@dataclass(frozen=True)
class Claim:
    """A number that the page holds against a bound.

    Attributes:
        text: What is claimed.
        jobs: Where it must hold; the worst counts.
        of: The number in one record; None where it was not measured.
        bound: What it must reach, or stay below if ``below``.
        unit: After the number.
    """

    text: str
    jobs: tuple[str, ...]
    of: Callable[[Record], float | None]
    bound: float
    below: bool = False
    unit: str = "x"

    def worst(self, records: Mapping[str, Any]) -> float | None:
        """Return the worst number over all jobs; None unless every one of them was measured."""
        found = [self.of(record) if (record := records.get(job)) else None for job in self.jobs]
        numbers = [number for number in found if number is not None]
        if len(numbers) < len(found):
            return None
        return max(numbers) if self.below else min(numbers)

    def holds(self, records: Mapping[str, Any]) -> bool | None:
        """Return whether the claim was met; None if it was not measured."""
        number = self.worst(records)
        if number is None:
            return None
        return number <= self.bound if self.below else number >= self.bound


def both(of: str, jobs: tuple[str, ...], label: str, name: str, bound: float) -> tuple[Claim, ...]:
    """Claim a number of our line in place, and of the one whose gradient has memory of its own as everybody's has."""
    ways = (("in place", IN_PLACE), ("new gradient", OURS))
    return tuple(Claim(f"{of}, {way}: {label}", jobs, Over(name, own=own), bound) for way, own in ways)


def at_most(text: str, jobs: tuple[str, ...], of: Callable[[Record], float | None], bound: float, unit: str) -> Claim:
    return Claim(text, jobs, of, bound, below=True, unit=unit)


def of_step(way: str) -> tuple[Claim, Claim]:
    """Claim of one way to take a step what it takes above its parts alone, as a share of it and as a ratio."""
    start, name = f"step, four teachers, {way}", f"mashbill, {way}"
    return (
        at_most(
            f"{start}: share of what it takes above its parts alone", ("step",), OfStep(name, "share", 100), 15, " %"
        ),
        at_most(f"{start}: time over that of its parts alone", ("step",), OfStep(name, "over_parts"), 1.05, "x"),
    )


L32, L16 = ("logits-32k-float32", "logits-152k-float32"), ("logits-32k-bfloat16", "logits-152k-bfloat16")
H32, H16 = ("hidden-32k-float32", "hidden-152k-float32"), ("hidden-32k-bfloat16", "hidden-152k-bfloat16")
ONE32, ONE16 = ("hidden-32k-float32-one",), ("hidden-32k-bfloat16-one",)
T32, T16 = ("topk-32k-float32",), ("topk-32k-bfloat16",)
COMPILED_LOOPS = ("adaptive-float32", "adaptive-reverse", "adaptive-bfloat16")
GKD, CHUNKED_TRL, TAIL = "TRL GKD, each teacher", "TRL chunked, each teacher", "TRL tail bucket, each teacher"
PLAIN, COMPILED = "naive PyTorch", "torch.compile(naive)"
STUDENT_ALONE = "logsumexp, then {}softmax, of the student alone"
# Beside bfloat16 the same products in float32, since some processors are faster at those.
PRODUCTS = Over("matrix products alone", "matrix products alone, float32", ours_over=True)
ALONE = "time over that of the matrix products alone"

_LOGITS = (
    *both("logits, float32", L32, "TRL's GKD loss, each teacher", GKD, 10),
    *both("logits, bfloat16", L16, "TRL's GKD loss, each teacher", GKD, 7),
    *both("logits, float32", L32, "naive PyTorch", PLAIN, 6),
    *both("logits, bfloat16", L16, "naive PyTorch", PLAIN, 8),
    *both("logits, both dtypes", L32 + L16, "torch.compile(naive)", COMPILED, 1.7),
    at_most("logits, in place: memory above the inputs", L32 + L16, Peak(IN_PLACE), 10, " MiB"),
    at_most(
        "logits, new gradient: memory above the inputs and that gradient",
        L32 + L16,
        Peak(OURS, gradient_bytes),
        10,
        " MiB",
    ),
)

_HIDDEN = (
    Claim("hidden, float32: TRL's chunked loss, each teacher", H32, Over(CHUNKED_TRL), 4),
    Claim("hidden, bfloat16: TRL's chunked loss, each teacher", H16, Over(CHUNKED_TRL), 3),
    Claim("hidden, float32, one teacher: TRL's chunked loss", ("hidden-32k-float32-single",), Over(CHUNKED_TRL), 1.5),
    Claim("hidden, float32: Liger's chunked loss, compiled", H32, Over("Liger chunked, compiled, each teacher"), 1.8),
    Claim("hidden, bfloat16: Liger's chunked loss, compiled", H16, Over("Liger chunked, compiled, each teacher"), 1.8),
    at_most(f"hidden, float32, one thread: {ALONE}", ONE32, PRODUCTS, 1.1, "x"),
    at_most(f"hidden, bfloat16, one thread: {ALONE}, in their faster dtype", ONE16, PRODUCTS, 1.1, "x"),
    at_most(f"hidden, float32, all cores: {ALONE}", H32, PRODUCTS, 1.3, "x"),
    at_most(f"hidden, bfloat16, all cores: {ALONE}, in their faster dtype", H16, PRODUCTS, 1.3, "x"),
    at_most(
        "hidden, float32: memory above the inputs and the head's gradient", H32, Peak(OURS, head_bytes), 100, " MiB"
    ),
    at_most(
        "hidden, bfloat16: memory above the inputs and the head's gradient", H16, Peak(OURS, head_bytes), 100, " MiB"
    ),
    at_most(
        "hidden, bfloat16: memory above the inputs and the head's gradient as it is summed, in float32",
        H16,
        Peak(OURS, head_sum_bytes),
        100,
        " MiB",
    ),
)

_TOPK = (
    *both("top-k, float32", T32, "TRL's loss with a tail bucket, each teacher", TAIL, 10),
    *both("top-k, bfloat16", T16, "TRL's loss with a tail bucket, each teacher", TAIL, 6),
    at_most(
        "top-k, in place: time over that of logsumexp, then softmax into what exists, of the student's logits",
        T32,
        Over(STUDENT_ALONE.format(""), own=IN_PLACE, ours_over=True),
        1.3,
        "x",
    ),
    at_most(
        "top-k, new gradient: time over that of logsumexp, then softmax into a new tensor, of the student's logits",
        T32,
        Over(STUDENT_ALONE.format("new "), ours_over=True),
        1.3,
        "x",
    ),
    at_most("top-k, in place: memory above the inputs", T32, Peak(IN_PLACE), 20, " MiB"),
    at_most(
        "top-k, new gradient: memory above the inputs and that gradient", T32, Peak(OURS, gradient_bytes), 20, " MiB"
    ),
)

_BUSY = (
    *both("beside a busy process, logits and top-k", ("busy-logits-32k", "busy-topk-32k"), PLAIN, PLAIN, 1),
    Claim(f"beside a busy process, hidden: {PLAIN}", ("busy-hidden-32k",), Over(PLAIN), 1),
    Claim(
        f"beside a busy process, all forms, impl=chunked: {PLAIN}",
        ("busy-logits-32k", "busy-hidden-32k", "busy-topk-32k"),
        Over(PLAIN, own=CHUNKED),
        1,
    ),
)

_WHOLE = (
    at_most(
        "growth in positions, entries, teachers: largest distance of an exponent from 1",
        ("growth",),
        worst_exponent,
        0.1,
        "",
    ),
    at_most(
        "adaptive weights, compiled loops (forward KL in float32 and bfloat16, reverse KL): cost above fixed ones",
        COMPILED_LOOPS,
        worst_adaptive,
        10,
        " %",
    ),
    at_most(
        "adaptive weights, plain PyTorch (impl=chunked): cost above fixed ones",
        ("adaptive-chunked",),
        worst_adaptive,
        10,
        " %",
    ),
    *(claim for way in ("hidden states", "logits in place", "logits") for claim in of_step(way)),
)

_GPU = (
    *(
        Claim(
            f"GPU, logits, {way}: bytes of two passes at the rate of a copy",
            ("gpu-logits-152k",),
            Share("two passes", own),
            75,
            unit=" %",
        )
        for way, own in (("in place", IN_PLACE), ("new gradient", OURS))
    ),
    Claim(
        "GPU, hidden: products alone at the rate of the products",
        ("gpu-hidden-152k",),
        Share("products"),
        80,
        unit=" %",
    ),
)

CLAIMS = (*_LOGITS, *_HIDDEN, *_TOPK, *_BUSY, *_WHOLE, *_GPU)
