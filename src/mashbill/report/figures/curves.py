"""Curves over training steps: loss, evaluation loss, distance to each teacher."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mashbill.report.figures import canvas


class Curve(NamedTuple):
    """One curve and how it is drawn; ``colour`` is a stand-in of the canvas."""

    name: str
    steps: list[float]
    values: list[float]
    colour: str = canvas.INK
    marker: str = ""
    dash: str = "-"
    width: float = 1.6


def thin(steps: list[float], values: list[float], n_points: int) -> tuple[list[float], list[float]]:
    """Return at most about ``n_points`` of the points, first and last kept; what is not finite is left out."""
    pairs = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    stride = max(1, math.ceil(len(pairs) / n_points))
    kept = pairs[::stride]
    if pairs and kept[-1] != pairs[-1]:
        kept.append(pairs[-1])
    return [step for step, _ in kept], [value for _, value in kept]


def lines(
    curves: Sequence[Curve], *, extent: tuple[float, float], resumes: Sequence[int] = (), names: bool = True
) -> Callable[[Axes], None]:
    """Return a painter of the curves on a logarithmic axis, with a dotted line at every resume."""

    def paint(axes: Axes) -> None:
        axes.set_xlim(extent)
        for curve in curves:
            many = max(1, len(curve.steps) // 6)
            axes.plot(
                curve.steps,
                curve.values,
                color=curve.colour,
                linestyle=curve.dash,
                linewidth=curve.width,
                marker=curve.marker or None,
                markevery=many,
                markersize=5.5,
            )
        if any(value > 0 for curve in curves for value in curve.values):
            _logarithmic(axes)
        axes.locator_params(axis="x", nbins=5, integer=True)
        for step in resumes:
            axes.axvline(step, color=canvas.MUTED, linewidth=1, linestyle=":")
            axes.text(step, 1.0, " resumed", transform=axes.get_xaxis_transform(), color=canvas.MUTED, fontsize=10)
        axes.set_xlabel("training step", loc="right")
        if names:
            _name(axes, curves)

    return paint


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if not any(low <= tick <= high for tick in axes.get_yticks()):
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=tuple(float(n) for n in range(1, 10))))


def _name(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each curve's name at its right end, moved apart where ends meet."""
    drawn = [curve for curve in curves if curve.values and (axes.get_yscale() != "log" or curve.values[-1] > 0)]
    if not drawn:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [float(to_axes.transform((curve.steps[-1], curve.values[-1]))[1]) for curve in drawn]
    box = axes.get_window_extent()
    for curve, height in zip(drawn, canvas.spread(ends, 15 / box.height, 0.02, 0.98), strict=True):
        axes.text(
            1 + 18 / box.width, height, canvas.plain(curve.name, 18), transform=axes.transAxes, va="center", fontsize=11
        )
        axes.plot(
            [1 + 6 / box.width, 1 + 14 / box.width],
            [height, height],
            color=curve.colour,
            linestyle=curve.dash,
            linewidth=2,
            transform=axes.transAxes,
            clip_on=False,
        )
