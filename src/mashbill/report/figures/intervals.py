"""Results as dots: values with intervals, and seeds of several arms."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mashbill.report.figures import canvas


class Dot(NamedTuple):
    """One value with its interval, and how it is drawn."""

    name: str
    value: float
    low: float
    high: float
    colour: str = canvas.INK
    marker: str = "o"
    strong: bool = False


class Arm(NamedTuple):
    """The values of one arm, one for each seed."""

    name: str
    values: list[float]
    strong: bool = False


def dots(rows: Sequence[Dot], *, extent: tuple[float, float], is_share: bool) -> Callable[[Axes], None]:
    """Return a painter of one dot and interval a row, the first row on top."""

    def paint(axes: Axes) -> None:
        for height, row in enumerate(rows):
            size = 7.5 if row.strong else 6
            axes.plot([row.low, row.high], [height, height], color=row.colour, linewidth=2.6 if row.strong else 1.8)
            axes.plot(row.value, height, color=row.colour, marker=row.marker, markersize=size)
            if row.strong:  # a hair line down the panel: everyone else is read against it
                axes.axvline(row.value, color=canvas.MUTED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        _frame(axes, [row.name for row in rows], extent, is_share=is_share)

    return paint


def seeds(arms: Sequence[Arm], *, extent: tuple[float, float], is_share: bool) -> Callable[[Axes], None]:
    """Return a painter of one hollow dot a seed and a bar at the mean, one arm a row."""

    def paint(axes: Axes) -> None:
        for height, arm in enumerate(arms):
            colour = canvas.INK if arm.strong else canvas.MUTED
            mean = sum(arm.values) / len(arm.values)
            axes.plot([mean, mean], [height - 0.36, height + 0.36], color=colour, linewidth=2.4)
            # Each seed has its own height, so that equal values stay apart.
            middle = (len(arm.values) - 1) / 2
            heights = [height + (order - middle) * min(0.2, 0.5 / max(1, middle)) for order in range(len(arm.values))]
            axes.plot(
                arm.values,
                heights,
                color=colour,
                marker="o",
                linestyle="",
                markersize=6.5,
                markerfacecolor=canvas.PAPER,
            )
        _frame(axes, [arm.name for arm in arms], extent, is_share=is_share)

    return paint


def _frame(axes: Axes, names: list[str], extent: tuple[float, float], *, is_share: bool) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [canvas.plain(name, 16) for name in names])
    axes.tick_params(axis="y", labelcolor=canvas.INK)
    axes.set_xlim(extent)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g}%" if is_share else f"{x:.4g}"))
    axes.grid(visible=False, axis="y")


def extent(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the values with room at both ends, the shared axis of a row of panels."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(0.01, 0.02 * abs(high))
    return low - room, high + room


def name_width(names: Sequence[str]) -> int:
    """Return the left margin that the longest name needs."""
    return 18 + round(6.3 * max(len(canvas.plain(name, 16)) for name in names))
