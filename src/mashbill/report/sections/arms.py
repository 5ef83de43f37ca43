"""Comparison arms: the same recipe under other weights, each with every seed."""

from typing import NamedTuple

from mashbill.report import text, verdict
from mashbill.report.figures import canvas, intervals
from mashbill.report.records import RunFiles
from mashbill.report.schema import ArmRun, Comparison, Interval
from mashbill.report.text import Shown, Table

MAIN, UNIFORM = "main", "uniform"


class Difference(NamedTuple):
    """Gain of the main arm over equal weights on one set; positive means better.

    Attributes:
        set: Evaluation set.
        measure: ``accuracy`` or ``perplexity``.
        values: One for each seed.
        paired: Paired by row and averaged over seeds, of accuracy or of nats, if that was measured.
        is_clear: The paired interval leaves out zero and every seed agrees.
    """

    set: str
    measure: str
    values: list[float]
    paired: Interval | None = None
    is_clear: bool = False

    @property
    def unit(self) -> str:
        """The unit of the values."""
        return "points" if self.measure == "accuracy" else "of the perplexity saved"

    def show(self, value: float) -> str:
        """Return one value with its sign."""
        return text.signed(100 * value) + ("" if self.measure == "accuracy" else "%")


def section(files: RunFiles) -> dict[str, object]:
    """Return one panel a set with a dot for each seed, and the table of all of them."""
    comparison = files.comparison
    if comparison is None:
        return {"missing": "No arms were compared: the recipe has no `compare`, or the comparison has not run."}
    sets = _sets(comparison)
    panels = [_panel(comparison, name, number, sets) for number, name in enumerate(sets)]
    caption = f"{comparison.primary.capitalize()} of the student, by arm and seed"
    head = ("Arm", "Set", *(f"seed {seed}" for seed in _seeds(comparison)), "mean")
    rows = [_row(comparison, arm, name) for name in sets for arm in comparison.arms]
    return {
        "panels": panels,
        "measure": comparison.primary,
        "n_seeds": len(_seeds(comparison)),
        "table": Table(caption, head, tuple(row for row in rows if row), n_text=2),
    }


def differences(comparison: Comparison | None) -> list[Difference]:
    """Return for each set the gain of the main arm over the arm named ``uniform``, seed by seed.

    Accuracy: the difference. Perplexity: the share saved, ``1 - main / uniform``.
    """
    if comparison is None or not {MAIN, UNIFORM} <= comparison.arms.keys():
        return []
    found = []
    for name in _sets(comparison):
        ours, theirs = (_by_seed(comparison, arm, name) for arm in (MAIN, UNIFORM))
        shared = [seed for seed in ours if seed in theirs]
        if comparison.primary == "accuracy":
            values = [ours[seed] - theirs[seed] for seed in shared]
        else:
            values = [1 - ours[seed] / theirs[seed] for seed in shared if theirs[seed] > 0]
        if values:
            found.append(Difference(name, comparison.primary, values, *_paired(comparison, name)))
    return found


def _paired(comparison: Comparison, name: str) -> tuple[Interval | None, bool]:
    for line in comparison.against_main:
        if (line.arm, line.set, line.by) == (UNIFORM, name, "all"):
            if comparison.primary == "accuracy":
                return line.accuracy.difference, line.accuracy.is_clear
            return verdict.negated(line.loss.difference), line.loss.is_clear
    return None, False


def _sets(comparison: Comparison) -> list[str]:
    runs = [run for seeds in comparison.arms.values() for run in seeds.values()]
    return list(dict.fromkeys(entry.set for run in runs for entry in run.entries))


def _seeds(comparison: Comparison) -> list[str]:
    named = [str(seed) for seed in comparison.seeds]
    return list(dict.fromkeys([*named, *(seed for seeds in comparison.arms.values() for seed in seeds)]))


def _value(run: ArmRun, name: str, measure: str) -> float | None:
    for entry in run.entries:
        if entry.set == name and entry.by == "all" and entry.who == "student":
            found = verdict.interval_of(entry, measure)
            return found.value if found and text.is_number(found.value) else None
    return None


def _by_seed(comparison: Comparison, arm: str, name: str) -> dict[str, float]:
    values = {seed: _value(run, name, comparison.primary) for seed, run in comparison.arms[arm].items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _panel(comparison: Comparison, name: str, number: int, sets: list[str]) -> dict[str, object]:
    by_arm = {arm: list(_by_seed(comparison, arm, name).values()) for arm in comparison.arms}
    rows = [intervals.Arm(arm, values, strong=arm == MAIN) for arm, values in by_arm.items() if values]
    if not rows:
        return {"name": name, "svg": None}
    everything = [
        value for each in sets for arm in comparison.arms for value in _by_seed(comparison, arm, each).values()
    ]
    is_share = comparison.primary == "accuracy"
    paint = intervals.seeds(rows, extent=intervals.extent(everything), is_share=is_share)
    box = canvas.Box(330, 48 + 30 * len(rows), left=intervals.name_width([row.name for row in rows]), right=18)
    label = f"{comparison.primary} on {name}, one dot a seed: " + "; ".join(
        f"{row.name} {', '.join(text.measure(value, comparison.primary) for value in row.values)}" for row in rows
    )
    return {"name": name, "svg": canvas.picture(paint, box=box, identity=f"arms{number}", label=label)}


def _row(comparison: Comparison, arm: str, name: str) -> tuple[Shown, ...] | None:
    values = _by_seed(comparison, arm, name)
    if not values:
        return None
    cells = [Shown(text.measure(values.get(seed), comparison.primary)) for seed in _seeds(comparison)]
    mean = sum(values.values()) / len(values)
    return Shown(arm), Shown(name), *cells, Shown(text.measure(mean, comparison.primary))
