"""What the page claims, as numbers that a run meets or does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Records = Any
"""What one run wrote: a record, or a list of them."""


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
    of: Callable[[Records], float | None]
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


def median(record: Records, name: str) -> float | None:
    return next((one["wall_s"][1] for one in record["variants"] if one["name"] == name and "wall_s" in one), None)


def ours(record: Records) -> float | None:
    """Return our time: in place where there is such a thing."""
    return median(record, "mashbill, in place") or median(record, "mashbill")


@dataclass(frozen=True)
class Over:
    """How much longer somebody takes than we do; the other way round if ``ours_over``."""

    name: str
    ours_over: bool = False

    def __call__(self, record: Records) -> float | None:
        theirs, own = median(record, self.name), ours(record)
        if theirs is None or own is None:
            return None
        return own / theirs if self.ours_over else theirs / own


@dataclass(frozen=True)
class Fastest:
    """How much longer the faster of some takes than we do."""

    names: tuple[str, ...]

    def __call__(self, record: Records) -> float | None:
        found = [ratio for name in self.names if (ratio := Over(name)(record)) is not None]
        return min(found) if found else None


@dataclass(frozen=True)
class Peak:
    """Our peak memory in MiB above the inputs, less a tensor that must be there."""

    name: str
    less: Callable[[Mapping[str, Any]], int] = field(default=lambda _: 0)

    def __call__(self, record: Records) -> float | None:
        found = next((one for one in record["variants"] if one["name"] == self.name), {}).get("peak_mib")
        return None if found is None else found - self.less(record["shape"]) / 2**20


def itemsize(shape: Mapping[str, Any]) -> int:
    return 4 if shape["dtype"] == "float32" else 2


def gradient_bytes(shape: Mapping[str, Any]) -> int:
    return shape["rows"] * shape["entries"] * itemsize(shape)


def head_bytes(shape: Mapping[str, Any]) -> int:
    return shape["entries"] * shape["width"] * itemsize(shape)


def worst_exponent(record: list[Mapping[str, Any]]) -> float | None:
    """Return the largest distance of an exponent from 1.

    In the number of teachers it is the one in what the loss must do, since the student costs something by itself; where
    teachers cost next to nothing only a growth that is more than linear counts.
    """
    off = []
    for axis, fit in [pair for one in record for pair in one["axes"].items()]:
        if axis != "teachers":
            off.append(abs(fit["exponent"] - 1))
        elif fit["exponent_in_work"] is None:
            off.append(max(fit["exponent"] - 1, 0.0))
        else:
            off.append(abs(fit["exponent_in_work"] - 1))
    return max(off, default=None)


def worst_adaptive(record: list[Mapping[str, Any]]) -> float | None:
    return max(100 * (one["adaptive_s"][1] / one["fixed_s"][1] - 1) for one in record)


@dataclass(frozen=True)
class OfStep:
    """A number of the step with four teachers and 32 000 entries, the best of ours that are online."""

    field: str
    factor: float = 1.0

    def __call__(self, record: Mapping[str, Any]) -> float | None:
        for one in record["sizes"]:
            if (one["sizes"]["teachers"], one["sizes"]["entries"]) == (4, 32_000):
                own = [step for step in one["steps"] if step["name"].startswith("mashbill")]
                online = [step[self.field] for step in own if "stored" not in step["name"]]
                return self.factor * min(online) if online else None
        return None


@dataclass(frozen=True)
class Share:
    """What a limit of the machine alone would take, as a share of our time, in percent."""

    limit: str
    factor: float = 1.0

    def __call__(self, record: Records) -> float | None:
        own = ours(record)
        return None if own is None else 100 * self.factor * record["least_seconds"][self.limit] / own


_L32, _L16 = ("logits-32k-float32", "logits-152k-float32"), ("logits-32k-bfloat16", "logits-152k-bfloat16")
_H32, _H16 = ("hidden-32k-float32", "hidden-152k-float32"), ("hidden-32k-bfloat16", "hidden-152k-bfloat16")
_GKD, _CHUNKED = Over("TRL GKD, each teacher"), Over("TRL chunked, each teacher")
_PLAIN, _COMPILED = Over("naive PyTorch"), Over("torch.compile(naive)")
_TAIL = Fastest(("TRL tail bucket, each teacher",))

CLAIMS = (
    Claim("logits, float32: TRL's GKD loss, each teacher", _L32, _GKD, 10),
    Claim("logits, bfloat16: TRL's GKD loss, each teacher", _L16, _GKD, 7),
    Claim("logits, float32: naive PyTorch", _L32, _PLAIN, 6),
    Claim("logits, bfloat16: naive PyTorch", _L16, _PLAIN, 8),
    Claim("logits: torch.compile(naive)", _L32 + _L16, _COMPILED, 1.7),
    Claim("logits, in place: memory above the inputs", _L32 + _L16, Peak("mashbill, in place"), 10, True, " MiB"),
    Claim(
        "logits: memory above the inputs and one gradient",
        _L32 + _L16,
        Peak("mashbill", gradient_bytes),
        10,
        True,
        " MiB",
    ),
    Claim("hidden, float32: TRL's chunked loss, each teacher", _H32, _CHUNKED, 4),
    Claim("hidden, bfloat16: TRL's chunked loss, each teacher", _H16, _CHUNKED, 3),
    Claim("hidden, one teacher: TRL's chunked loss", ("hidden-32k-float32-single",), _CHUNKED, 1.5),
    Claim("hidden: Liger's chunked loss, compiled", _H32, Over("Liger chunked, compiled, each teacher"), 1.8),
    Claim(
        "hidden, one thread: time over that of the matrix products alone",
        ("hidden-32k-float32-one",),
        Over("matrix products alone", ours_over=True),
        1.1,
        True,
    ),
    Claim(
        "hidden, all cores: time over that of the matrix products alone",
        _H32,
        Over("matrix products alone", ours_over=True),
        1.3,
        True,
    ),
    Claim(
        "hidden: memory above the inputs and the head's gradient", _H32, Peak("mashbill", head_bytes), 100, True, " MiB"
    ),
    Claim("top-k, float32: TRL's loss with a tail bucket, each teacher", ("topk-32k-float32",), _TAIL, 10),
    Claim("top-k, bfloat16: TRL's loss with a tail bucket, each teacher", ("topk-32k-bfloat16",), _TAIL, 6),
    Claim(
        "top-k: time over that of logsumexp, then softmax, of the student's logits",
        ("topk-32k-float32",),
        Over("logsumexp, then softmax, of the student alone", ours_over=True),
        1.3,
        True,
    ),
    Claim(
        "top-k, in place: memory above the inputs", ("topk-32k-float32",), Peak("mashbill, in place"), 20, True, " MiB"
    ),
    Claim(
        "beside a busy process: naive PyTorch beside it",
        ("busy-logits-32k", "busy-hidden-32k", "busy-topk-32k"),
        _PLAIN,
        1,
    ),
    Claim(
        "growth in positions, entries, teachers: largest distance of an exponent from 1",
        ("growth",),
        worst_exponent,
        0.1,
        True,
        "",
    ),
    Claim("adaptive weights: cost above fixed ones", ("adaptive",), worst_adaptive, 10, True, " %"),
    Claim("step, four teachers: share of the loss", ("step",), OfStep("share", 100), 15, True, " %"),
    Claim("step, four teachers: time over that of its parts alone", ("step",), OfStep("over_parts"), 1.05, True),
    # Two passes, for statistics and gradient, read K + 1 tensors twice and write one: 11 where one pass has 6.
    Claim(
        "GPU, logits: bytes of two passes at the rate of a copy",
        ("gpu-logits-152k",),
        Share("bytes", 11 / 6),
        75,
        unit=" %",
    ),
    Claim(
        "GPU, hidden: products alone at the rate of the products",
        ("gpu-hidden-152k",),
        Share("products"),
        80,
        unit=" %",
    ),
)
