"""``mashbill scorecard``: how good and how safe each teacher is, measured."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import (
    PluginOption,
    RecipeArgument,
    SetOption,
    open_recipe,
    prepare_libraries,
    require_no_folder,
)
from mashbill.cli.reply import Reply
from mashbill.train.checks import check, check_plugins

if TYPE_CHECKING:
    from mashbill.weights.scorecard import Cell, Interval, Scorecard


def scorecard(
    recipe: RecipeArgument,
    output: Annotated[
        Path | None, typer.Option(help="Where to write it; scorecard.json in the recipe's output folder if left out.")
    ] = None,
    plugin: PluginOption = None,
    set_: SetOption = None,
) -> Reply:
    """Measure every teacher on data.scorecard and write the scorecard."""
    require_no_folder(output)
    loaded = open_recipe(recipe, plugin, set_)
    check(loaded)
    prepare_libraries()
    check_plugins(loaded)
    from mashbill.train.measure import measure_scorecard

    card = measure_scorecard(loaded, progress=for_stderr())
    place = output or loaded.resolve(loaded.recipe.output) / "scorecard.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    card.write(place)
    return Reply(
        [*table(card), f"written to {place}"],
        {"scorecard": place, **asdict(card)},
    )


def table(card: "Scorecard") -> list[str]:
    """Return each teacher's pooled measures as a table, then the certified safety orders and what stays undecided."""
    width = max(len(teacher) for teacher in card.teachers)
    pooled = [cell for cell in card.cells if cell.task is None and cell.context is None]
    lines = [f"{'':{width}}  {'accuracy':24}  {'loss, nats':24}  {'safety':24}  rows"]
    lines += [_line(cell, width) for cell in pooled]
    for context, pairs in card.orders.items():
        lines += [f"in {context}: {safer} is certified safer than {less}" for safer, less in pairs]
    if card.undecided:
        n_contexts = len({test.context for test in card.undecided})
        lines.append(f"{len(card.undecided)} of {len(card.tests)} pairs undecided, in {n_contexts} context(s)")
    return lines


def _line(cell: "Cell", width: int) -> str:
    measures = "  ".join(f"{_interval(each):24}" for each in (cell.accuracy, cell.loss, cell.safety))
    return f"{cell.teacher:{width}}  {measures}  {cell.n}"


def _interval(interval: "Interval | None") -> str:
    if interval is None:
        return "not measured"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
