"""Numbers as text: one way to write each kind, a dash for what is not there."""

import math
from typing import Literal, NamedTuple

from mashbill.report.schema import Interval

NOTHING = "–"


class Shown(NamedTuple):
    """A table cell: its text, a smaller line below it, and a tint in percent (0: none)."""

    text: str
    small: str = ""
    tint: int = 0


class Table(NamedTuple):
    """A table: the first ``n_text`` columns hold text, the others numbers.

    Attributes:
        caption: What it lists.
        head: Column heads.
        rows: Cells, as many as heads.
        n_text: Columns of text at the start.
        teachers_in: Where teachers' names stand: in the heads after the first column, in the last column of text, or
            nowhere. A task may have a teacher's name, so that the name alone does not tell.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    n_text: int = 1
    teachers_in: Literal["head", "text", "nowhere"] = "nowhere"


def is_number(value: float | None) -> bool:
    """Return whether there is a finite number to show."""
    return value is not None and math.isfinite(value)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as percent.

    >>> percent(0.9127)
    '91.3%'
    """
    return f"{100 * value:.{digits}f}%" if value is not None and math.isfinite(value) else NOTHING


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, or with three significant ones where those would all be zero.

    >>> number(0.25), number(0.00002), number(None)
    ('0.250', '2.00e-05', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2e}" if value and abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Return a count with thin spaces between thousands.

    >>> count(None)
    '–'
    """
    return f"{value:,.0f}".replace(",", "\u202f") if value is not None and math.isfinite(value) else NOTHING


def measure(value: float | None, name: str) -> str:
    """Return a value of ``accuracy``, ``perplexity``, ``loss`` or ``calibration_error`` as it is usually written."""
    if name in ("accuracy", "safety", "calibration_error"):
        return percent(value)
    return number(value, 2 if name == "perplexity" else 3)


def span(interval: Interval | None, name: str) -> str:
    """Return the two ends of an interval, or nothing.

    >>> span(Interval(value=0.9, low=0.88, high=0.92), "accuracy")
    '88.0–92.0%'
    """
    if interval is None or not is_number(interval.low) or not is_number(interval.high):
        return ""
    low, high = measure(interval.low, name), measure(interval.high, name)
    return f"{low.removesuffix('%')}–{high}"


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign; what rounds to nothing has none.

    >>> signed(1.25), signed(-0.5), signed(-0.01)
    ('+1.2', '−0.5', '0.0')
    """
    rounded = f"{value:+.{digits}f}"
    return rounded.lstrip("+-") if float(rounded) == 0 else rounded.replace("-", "−")


def shown(interval: Interval | None, name: str) -> Shown:
    """Return a table cell with the value and, below it, its interval."""
    return Shown(measure(interval.value if interval else None, name), span(interval, name))


def duration(seconds: float | None) -> str:
    """Return a time in the unit that reads best.

    >>> duration(0.0512), duration(61.4), duration(4000.0)
    ('51.2 ms', '1 min 1 s', '1 h 6 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(n: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "teacher"), plural(5, "teacher")
    ('1 teacher', '5 teachers')
    """
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"
