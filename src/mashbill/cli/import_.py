"""``mashbill import``: make another tool's captured answers the store of a teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, RecipeArgument, SetOption, open_recipe, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.errors import RecipeError
from mashbill.train.checks import check
from mashbill.train.loading import Loaded

if TYPE_CHECKING:
    from mashbill.train.import_recipe import Imported
    from mashbill.train.rescoring import Difference


def import_(  # noqa: PLR0917  # options of a command line
    capture: Annotated[Path, typer.Argument(help="A folder that DistillKit captured.", show_default=False)],
    recipe: RecipeArgument,
    teacher: Annotated[
        str | None, typer.Option(metavar="ID", help="Whose answers they are; needed if several have a `store`.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Says how it was written; the file beside it if left out.")
    ] = None,
    write_rows: Annotated[bool, typer.Option("--write-rows", help="First make `data.train` from the capture.")] = False,
    plugin: PluginOption = None,
    set_: SetOption = None,
) -> Reply:
    """Make a capture of DistillKit the store of a teacher, and say what its form has lost."""
    loaded = open_recipe(recipe, plugin, set_)
    prepare_libraries()
    lines: list[str] = []
    values: dict[str, object] = {}
    if write_rows:
        _check_all_but_rows(loaded, teacher)
        from mashbill.train.import_recipe import write_captured_rows

        rows = write_captured_rows(loaded, capture, config=config)
        values["rows"] = {"written": rows.n_rows, "lost": rows.n_lost, "too_long": rows.n_long}
        lines.append(f"{rows.n_rows:,} rows in {loaded.resolve(loaded.recipe.data.train)}")
        if rows.n_lost:
            lines.append(f"  {rows.n_lost:,} left out: their text does not give their tokens back")
        if rows.n_long:
            lines.append(f"  {rows.n_long:,} left out: longer than data.max_length={loaded.recipe.data.max_length}")
    try:
        check(loaded, is_captured=False)
        from mashbill.train.import_recipe import import_recipe

        done = import_recipe(loaded, capture, teacher=teacher, config=config, progress=for_stderr())
    except BaseException:  # rows that this command has made are made again by the next
        if write_rows:
            loaded.resolve(loaded.recipe.data.train).unlink()
        raise
    values["stores"] = [_facts(one) for one in done]
    return Reply([*lines, *(line for one in done for line in _lines(one))], values)


def _check_all_but_rows(loaded: Loaded, teacher: str | None) -> None:
    from mashbill.train.import_recipe import teacher_of

    teacher_of(loaded, teacher)
    try:
        check(loaded, is_captured=False)
    except RecipeError as error:
        others = [problem for problem in error.problems if problem.where != loaded.where("data.train")]
        if others:
            raise RecipeError(others) from None


def _lines(one: "Imported") -> list[str]:
    plan, form = one.plan, one.form
    lines = [
        f"{one.teacher}, {one.rows}: {plan.n_rows:,} rows, {plan.n_positions:,} positions in {one.folder}",
        f"  looked at {form.n_positions:,} positions: entries written as numbers are within {form.written:.1e} nats",
    ]
    if form.binned is not None:
        lines.append(f"  entries of a curve with bins are within {form.binned:.1e} nats")
    if form.fitted:
        lines.append(f"  {form.fitted} entries a position lie on a curve alone, for which the form has no bound")
    if form.disorder > 0:
        lines.append(f"  lists rise by up to {form.disorder:.1e} nats where they must fall")
    if form.over > 0:
        lines.append(
            f"  {100 * form.over:.1f} % of lists sum to more than 1, up to {1 + form.excess:.2f}: the curve is cut"
        )
    if form.foreign > 0:
        lines.append(f"  {form.foreign:.1e} of the mass lies on ids that the student lacks: shared by the others")
    return [*lines, *(difference_lines(one.against) if one.against else ["  no teacher at hand to compare with"])]


def difference_lines(found: "Difference") -> list[str]:
    """Say how far stored answers are from those of today."""
    beside = f", beside {100 * found.infinite:.1f} % of positions where nothing is left for others and it is infinite"
    infinite = beside if found.infinite else ""
    return [
        f"  asked again about {found.n_positions:,} positions of {found.n_rows} rows: log-probabilities are off by "
        f"{found.mean:.1e} nats on average, {found.largest:.1e} at most ({found.where})",
        f"  KL lost {found.lost:.2e} nats, {found.cut:.2e} of it by keeping no more entries{infinite}; "
        f"the most probable entry is the same at {100 * found.agreement:.1f} % of the positions",
    ]


def _facts(one: "Imported") -> dict[str, object]:
    from dataclasses import asdict

    return {
        "teacher": one.teacher,
        "rows": one.rows,
        "folder": one.folder,
        "n_rows": one.plan.n_rows,
        "n_positions": one.plan.n_positions,
        "form": asdict(one.form),
        "against_teacher": asdict(one.against) if one.against else None,
    }
