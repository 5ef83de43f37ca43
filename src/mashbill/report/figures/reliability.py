"""Reliability diagrams: how often right, at each stated confidence."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from mashbill.report.figures import canvas


class Reliability(NamedTuple):
    """The bins of one model: mean confidence, accuracy, share of the rows; and how they are drawn."""

    name: str
    confidence: list[float]
    accuracy: list[float]
    share: list[float]
    colour: str = canvas.INK
    marker: str = "o"
    dash: str = "-"


def diagram(models: Sequence[Reliability]) -> Callable[[Axes], None]:
    """Return a painter of accuracy over confidence; the area of a dot grows with the rows in its bin."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=canvas.MUTED, linewidth=1, linestyle=(0, (2, 3)))
        for model in models:
            axes.plot(model.confidence, model.accuracy, color=model.colour, linestyle=model.dash, linewidth=1.3)
            for x, y, share in zip(model.confidence, model.accuracy, model.share, strict=True):
                axes.plot(x, y, color=model.colour, marker=model.marker, markersize=3.2 + 7 * share**0.5)
        ticks, names = [0, 0.5, 1], ["0", "½", "1"]
        axes.set(xlim=(-0.02, 1.04), ylim=(-0.02, 1.04), xticks=ticks, yticks=ticks)
        axes.set_xticklabels(names)
        axes.set_yticklabels(names)

    return paint
