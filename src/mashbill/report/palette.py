"""Colours of the report: one per teacher, in a light and a dark version, and the sums that justify them.

The eight teacher colours stay apart under simulated protanopia, deuteranopia and tritanopia, and reach 3:1 against the
paper (WCAG 2.2, 1.4.11); text is always ink or muted ink, at 4.5:1 or better, also on tinted cells. A marker shape
goes with every colour, so that colour never carries a meaning alone. ``tests/report/test_palette.py`` holds all of
this as assertions.
"""

from typing import NamedTuple


class Mark(NamedTuple):
    """The marker shape of a teacher: matplotlib's name, an SVG path in a 12 x 12 box, and a border style."""

    matplotlib: str
    path: str
    border: str


class Scheme(NamedTuple):
    """All colours of one scheme, as ``#rrggbb``."""

    paper: str
    ink: str
    muted: str
    rule: str
    wash: str
    heat: str
    good: str
    bad: str
    teachers: tuple[str, ...]


LIGHT = Scheme(
    paper="#ffffff",
    ink="#1b1d22",
    muted="#5a606b",
    rule="#dcdfe4",
    wash="#f6f7f8",
    heat="#2d5fc4",
    good="#0f7a4d",
    bad="#b3261e",
    teachers=("#2d5fc4", "#c9801c", "#0c5a4c", "#b84a86", "#9a7de3", "#6f6f00", "#7c1404", "#1a86b4"),
)
DARK = Scheme(
    paper="#15171b",
    ink="#e9eaed",
    muted="#a4aab5",
    rule="#353a43",
    wash="#1d2025",
    heat="#6c95f4",
    good="#5fd39b",
    bad="#ff8a80",
    teachers=("#6c95f4", "#e09322", "#8fe6c0", "#cc5c86", "#c6befe", "#facf4e", "#cca2a1", "#2f86ba"),
)
N_COLOURS = len(LIGHT.teachers)

MARKS = (
    Mark("o", "M6 1.6a4.4 4.4 0 1 0 .01 0z", "solid"),
    Mark("s", "M2 2h8v8h-8z", "dashed"),
    Mark("^", "M6 1.2l5 9.3h-10z", "dotted"),
    Mark("D", "M6 .8l5.2 5.2-5.2 5.2-5.2-5.2z", "double"),
    Mark("v", "M6 10.8l5-9.3h-10z", "solid"),
    Mark("P", "M4.3 1h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z", "dashed"),
    Mark("p", "M6 .8l5.2 3.8-2 6.2h-6.4l-2-6.2z", "dotted"),
    Mark("*", "M6 .5l1.6 3.5 3.9.4-2.9 2.6.8 3.8-3.4-1.9-3.4 1.9.8-3.8-2.9-2.6 3.9-.4z", "double"),
    Mark(
        "X", "M3.2 .9l2.8 2.8 2.8-2.8 2.3 2.3-2.8 2.8 2.8 2.8-2.3 2.3-2.8-2.8-2.8 2.8-2.3-2.3 2.8-2.8-2.8-2.8z", "solid"
    ),
)
"""Nine shapes for eight colours: the pair (colour, shape) first repeats at the 73rd teacher."""

TINT_LIMIT = 42
"""Largest share, in percent, of a colour mixed into the paper behind text; more would cost the 4.5:1 contrast."""


def mark(index: int) -> Mark:
    """Return the marker of the teacher at ``index``."""
    return MARKS[index % len(MARKS)]


def channels(colour: str) -> tuple[float, float, float]:
    """Return red, green, blue of ``#rrggbb``, each from 0 to 1."""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def mix(colour: str, paper: str, percent: float) -> str:
    """Return ``percent`` of ``colour`` on ``paper``, as CSS ``color-mix(in srgb, ...)`` does."""
    share = percent / 100
    mixed = [share * a + (1 - share) * b for a, b in zip(channels(colour), channels(paper), strict=True)]
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)


def luminance(colour: str) -> float:
    """Return the relative luminance ``0.2126 R + 0.7152 G + 0.0722 B`` of linear light (WCAG 2.2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio ``(L1 + 0.05) / (L2 + 0.05)``, the lighter over the darker (WCAG 2.2)."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def css_variables(scheme: Scheme) -> str:
    """Return the scheme as CSS custom properties: ``--paper``, ``--ink``, ... and ``--t0``, ``--t1``, ..."""
    plain = [f"--{name}:{value}" for name, value in scheme._asdict().items() if name != "teachers"]
    return ";".join(plain + [f"--t{index}:{value}" for index, value in enumerate(scheme.teachers)])
