"""Plots of the page, as small SVG files that are the same for the same numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams |= {"svg.hashsalt": "mashbill", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}

from matplotlib.figure import Figure  # noqa: E402  # after the settings, which it reads

from harness.tables import title  # noqa: E402

COLOURS = {"ours": "#1b6ca8", "plain": "#8d99a6", "peer": "#c46a3a", "floor": "#d9d9d9"}


def bars(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw seconds and peak memory of everybody, a row of panels for each run."""
    counts = [sum("wall_s" in line for line in record["variants"]) for record in records]
    figure = Figure(figsize=(9, 0.6 + 0.24 * sum(counts) + 0.6 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), 2, squeeze=False, height_ratios=counts)
    for record, (time, memory) in zip(records, axes, strict=True):
        lines = [line for line in record["variants"] if "wall_s" in line][::-1]
        names, colours = [line["name"] for line in lines], [COLOURS[line["kind"]] for line in lines]
        seconds = [line["wall_s"][1] for line in lines]
        peaks = [max(line["peak_mib"] or 0, 0) for line in lines]
        written = ["" if line["peak_mib"] is None else f" {peak:.0f}" for line, peak in zip(lines, peaks, strict=True)]
        time.bar_label(time.barh(names, seconds, color=colours), [f" {second:.2g}" for second in seconds])
        memory.bar_label(memory.barh(names, peaks, color=colours), written)
        time.set_title(title(record), loc="left", fontsize=9)
        time.set_xlabel("seconds, forward and backward")
        memory.set_xlabel("MiB above the inputs")
        memory.set_yticklabels([])
        for one in (time, memory):
            one.margins(x=0.16)  # for the numbers behind the longest bar
            one.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def growth(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw time over each size, on logarithmic axes, with its exponent and a line of slope 1 through the last point."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    names = {"rows": "positions", "entries": "entries", "teachers": "teachers"}
    for panel, (axis, name) in zip(panels, names.items(), strict=True):
        fits = [(record["shape"]["form"], record["axes"][axis]) for record in records if axis in record["axes"]]
        for form, fit in fits:
            label = f"{form}: {fit['exponent']:.2f}"
            if axis == "teachers" and fit["exponent_in_work"] is not None:
                label += f", in work {fit['exponent_in_work']:.2f}"
            (line,) = panel.loglog(fit["sizes"], fit["seconds"], "o-", markersize=4, label=label)
            linear = [fit["seconds"][-1] * size / fit["sizes"][-1] for size in fit["sizes"]]
            panel.loglog(fit["sizes"], linear, ":", color=line.get_color())
        panel.set_xlabel(name)
        panel.spines[["top", "right"]].set_visible(False)
        if fits:
            sizes = fits[0][1]["sizes"]
            panel.set_xticks(sizes, [f"{size:,}".replace(",", " ") for size in sizes])
            panel.minorticks_off()
            panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, title="fitted exponent")
    panels[0].set_ylabel("seconds (dotted: linear)")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
