"""``mashbill verify``: whether a store is what was written, and what its teacher says."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mashbill.cli.import_ import difference_lines
from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, open_recipe, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.errors import CorruptionError, MashbillError

if TYPE_CHECKING:
    from mashbill.train.rescoring import Difference


def verify(
    store: Annotated[Path, typer.Argument(help="A store, or a folder of stores.", show_default=False)],
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask its teacher about some rows again, and compare.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many, of each set.")] = 8,
    plugin: PluginOption = None,
) -> Reply:
    """Read every byte of a store, and say whether it is what was written."""
    from mashbill.teachers.store.verifying import verify_all

    found, of_folder = verify_all(store, progress=for_stderr())
    lines, values, code = [problem.render() for problem in of_folder], [], CorruptionError.exit_code if of_folder else 0
    for place, health in found.items():
        problems = list(health.problems)
        lines.append(
            f"{place}: {health.n_rows:,} rows, {health.n_positions:,} positions, {health.n_bytes:,} bytes proved"
        )
        if health.missing:
            lines.append(f"  not captured yet: {len(health.missing)} shard(s), the first {health.missing[0]}")
        against = None
        if recipe is not None and health.is_whole:
            against, problem = _asked_again(recipe, plugin, place, rows)
            lines += difference_lines(against)
            problems += [problem] if problem else []
        lines += [problem.render() for problem in problems]
        values.append(
            {
                "folder": place,
                "rows": health.n_rows,
                "positions": health.n_positions,
                "bytes": health.n_bytes,
                "missing": list(health.missing),
                "problems": [problem.facts() for problem in problems],
                "against_teacher": asdict(against) if against else None,
            }
        )
        code = max(code, CorruptionError.exit_code if problems else MashbillError.exit_code if health.missing else 0)
    return Reply(lines, {"stores": values, "problems": [problem.facts() for problem in of_folder]}, code)


def _asked_again(
    recipe: Path, plugin: list[str] | None, place: Path, n_rows: int
) -> tuple["Difference", CorruptionError | None]:
    loaded = open_recipe(recipe, plugin, None)
    prepare_libraries()
    from mashbill.train.verify_recipe import rescore_store

    return rescore_store(loaded, place, n_rows=n_rows)
