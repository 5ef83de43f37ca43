"""Who taught what: weights over steps, as stacked areas."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from mashbill.report import palette
from mashbill.report.figures import canvas


class Stream(NamedTuple):
    """Weights over steps: ``shares[k][i]`` is the weight of teacher ``k`` at ``steps[i]``."""

    steps: list[float]
    shares: list[list[float]]


def condense(stream: Stream, n_points: int) -> Stream:
    """Return the stream with at most ``n_points`` points, each the mean over a run of neighbouring ones."""
    n = len(stream.steps)
    if n <= n_points:
        return stream
    edges = [round(index * n / n_points) for index in range(n_points + 1)]
    spans = list(itertools.pairwise(edges))
    means = [[sum(row[a:b]) / (b - a) for a, b in spans] for row in stream.shares]
    middles = [sum(stream.steps[a:b]) / (b - a) for a, b in spans]
    # The ends stay where they were, so that the area fills its axis.
    return Stream([stream.steps[0], *middles[1:-1], stream.steps[-1]], means)


def area(stream: Stream, *, extent: tuple[float, float], teachers: Sequence[str] = ()) -> Callable[[Axes], None]:
    """Return a painter of the stacked areas; with ``teachers`` their names stand at the right end."""

    def paint(axes: Axes) -> None:
        steps, shares = stream
        if len(steps) == 1:
            steps, shares = [extent[0], extent[1]], [[row[0], row[0]] for row in shares]
        floor = [0.0] * len(steps)
        ends: list[float] = []
        for index, row in enumerate(shares):
            top = [low + share for low, share in zip(floor, row, strict=True)]
            axes.fill_between(
                steps, floor, top, facecolor=canvas.teacher_colour(index), edgecolor=canvas.PAPER, linewidth=1.2
            )
            ends.append((floor[-1] + top[-1]) / 2)
            floor = top
        axes.set(xlim=extent, ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "½", "1"])
        axes.grid(visible=False)
        axes.locator_params(axis="x", nbins=4, integer=True)
        places = canvas.spread(ends, 0.075, 0.03, 0.97)
        if teachers:
            axes.set_xlabel("training step", loc="right")
        for index, name in enumerate(teachers):
            note(axes, index, name, places[index])

    return paint


def note(axes: Axes, index: int, name: str, height: float) -> None:
    """Write a teacher's marker and name at the right edge, at ``height`` in parts of the axis."""
    width = axes.get_window_extent().width
    axes.plot(
        1 + 12 / width,
        height,
        transform=axes.transAxes,
        clip_on=False,
        linestyle="",
        color=canvas.teacher_colour(index),
        marker=palette.mark(index).matplotlib,
        markersize=6,
    )
    axes.text(1 + 22 / width, height, canvas.plain(name, 18), transform=axes.transAxes, va="center", fontsize=11)
