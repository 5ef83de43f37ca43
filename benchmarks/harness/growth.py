"""How time grows with positions, entries and teachers."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from harness import clock
from harness.forms import Shape, make
from harness.variants import ours, run

AXES = ("rows", "entries", "teachers")


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the least-squares slope of log time over log size: 1 is linear."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / sum((a - middle_x) ** 2 for a in x)


def exponent_in_work(works: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope over the work; None where the work hardly changes, so that there is no slope to speak of."""
    return exponent(works, seconds) if max(works) >= 1.5 * min(works) else None


def growth(shape: Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """Double one size around ``shape``, then the next, and fit exponents.

    Time in K cannot be a pure power, since the student costs something without any teacher; it is fitted over the
    work, ``work(shape)``, as well.
    """
    if shape.form in ("logits", "topk") and not arguments.smoke:
        shape = replace(shape, rows=4 * shape.rows)  # else some milliseconds that every call costs are half of it
    record = {"mode": "growth", "shape": asdict(shape), "divergence": arguments.divergence, "axes": {}}
    for axis in AXES:
        shapes = [replace(shape, **{axis: size}) for size in sizes(shape, axis, smoke=arguments.smoke)]
        seconds = _seconds(shapes, arguments)
        swept = [getattr(one, axis) for one in shapes]
        record["axes"][axis] = {
            "sizes": swept,
            "seconds": seconds,
            "exponent": exponent(swept, seconds),
            "exponent_in_work": exponent_in_work([work(one) for one in shapes], seconds),
        }
    return record


def sizes(shape: Shape, axis: str, *, smoke: bool = False) -> list[int]:
    """Return the sizes to try: a quarter to four times the shape's own; teachers from 1 to 16.

    Entries under lists begin at the shape's own: below, the time is that of the lists, which do not grow with them.
    """
    own = getattr(shape, axis)
    if smoke:
        return [own, 2 * own]
    if axis == "teachers":
        return [1, 2, 4, 8, 16]
    if axis == "entries" and shape.form == "topk":
        return [own, 2 * own, 4 * own, 8 * own]
    return [own // 4, own // 2, own, 2 * own, 4 * own]


def work(shape: Shape) -> float:
    """Return what a loss must at least do, in units that cancel: logits and stored entries, or multiply-adds."""
    matrix = shape.rows * shape.entries
    if shape.form == "logits":
        return matrix * (shape.teachers + 1)
    if shape.form == "hidden":
        return matrix * (3 * shape.width + shape.teachers * shape.teacher_width)
    if shape.form == "stored":
        return matrix * 3 * shape.width
    return matrix + shape.rows * shape.teachers * shape.k


def _seconds(shapes: Sequence[Shape], arguments: argparse.Namespace) -> list[float]:
    """Return the median at each size, all sizes in turn: a machine that is slower for a while would bend the fit."""
    # In place where there is such a thing, since memory for a new gradient costs by the page from some size on. What
    # takes the logits' place is read as logits the next time: the time does not depend on their values.
    loss = partial(ours, in_place=True) if shapes[0].form in ("logits", "topk") else ours
    each = [make(shape, divergence=arguments.divergence, device=arguments.device) for shape in shapes]
    work = {str(number): partial(run, loss, inputs) for number, inputs in enumerate(each)}
    # Cores that idled, or did something else, take some ten milliseconds to come back: as much as a small loss takes.
    samples = clock.interleaved(work, repeats=arguments.repeats, before=work["0"], device=arguments.device)
    return [clock.quartiles([wall for wall, _ in samples[name]])[1] for name in work]
