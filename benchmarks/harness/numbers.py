"""What is read out of a run's record to hold it against a bound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "mashbill"
"""Our line as a user calls it, the gradient in memory of its own."""
IN_PLACE = "mashbill, in place"
"""Our line that writes the gradient over the student's logits, which no competitor does."""
CHUNKED = "mashbill, chunked"
"""Our line in plain PyTorch."""
Record = Any
"""What one run wrote: a record, or a list of them."""


def median(record: Record, name: str) -> float | None:
    return next((one["wall_s"][1] for one in record["variants"] if one["name"] == name and "wall_s" in one), None)


class Over:
    """How much longer the fastest of some takes than we do; the other way round if ``ours_over``."""

    def __init__(self, *names: str, own: str = OURS, ours_over: bool = False) -> None:
        self.names, self.own, self.ours_over = names, own, ours_over

    def __call__(self, record: Record) -> float | None:
        theirs = [second for name in self.names if (second := median(record, name)) is not None]
        own = median(record, self.own)
        if not theirs or own is None:
            return None
        return own / min(theirs) if self.ours_over else min(theirs) / own


@dataclass(frozen=True)
class Peak:
    """Our peak memory in MiB above the inputs, less a tensor that must be there."""

    name: str
    less: Callable[[Mapping[str, Any]], int] = field(default=lambda _: 0)

    def __call__(self, record: Record) -> float | None:
        found = next((one for one in record["variants"] if one["name"] == self.name), {}).get("peak_mib")
        return None if found is None else found - self.less(record["shape"]) / 2**20


@dataclass(frozen=True)
class Share:
    """What a limit of the machine alone would take, as a share of our time, in percent."""

    limit: str
    own: str = OURS

    def __call__(self, record: Record) -> float | None:
        own = median(record, self.own)
        return None if own is None else 100 * record["least_seconds"][self.limit] / own


@dataclass(frozen=True)
class OfStep:
    """A number of one kind of step with four teachers and 32 000 entries."""

    name: str
    field: str
    factor: float = 1.0

    def __call__(self, record: Mapping[str, Any]) -> float | None:
        for one in record["sizes"]:
            if (one["sizes"]["teachers"], one["sizes"]["entries"]) == (4, 32_000):
                found = next((step[self.field] for step in one["steps"] if step["name"] == self.name), None)
                return None if found is None else self.factor * found
        return None


def gradient_bytes(shape: Mapping[str, Any]) -> int:
    return shape["rows"] * shape["entries"] * itemsize(shape)


def head_bytes(shape: Mapping[str, Any]) -> int:
    return shape["entries"] * shape["width"] * itemsize(shape)


def head_sum_bytes(shape: Mapping[str, Any]) -> int:
    """Return what the head's gradient takes while it is summed, in float32."""
    return shape["entries"] * shape["width"] * 4


def itemsize(shape: Mapping[str, Any]) -> int:
    return 4 if shape["dtype"] == "float32" else 2


def worst_exponent(record: list[Mapping[str, Any]]) -> float | None:
    """Return the largest distance of an exponent from 1.

    In the number of teachers it is the one in what the loss must do, since the student costs something by itself. Under
    lists, where teachers cost next to nothing and lists do not grow with the entries, a part of the time stays the
    same in both, so that only a growth that is more than linear counts.
    """
    off = []
    for form, axis, fit in [(one["shape"]["form"], *pair) for one in record for pair in one["axes"].items()]:
        exponent = fit["exponent_in_work"] if axis == "teachers" and form != "topk" else fit["exponent"]
        is_part = form == "topk" and axis != "rows"
        off.append(max(exponent - 1, 0.0) if is_part else abs(exponent - 1))
    return max(off, default=None)


def worst_adaptive(record: list[Mapping[str, Any]]) -> float | None:
    return max(one["above_percent"][1] for one in record)
