"""``mashbill distill``: the run itself."""

from typing import Annotated, Any, Literal

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, RecipeArgument, SetOption, open_recipe, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.train.checks import check, check_plugins


def distill(  # noqa: PLR0917  # the command line's options, not a call's arguments
    recipe: RecipeArgument,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option(help="Continue from the newest valid checkpoint, or refuse a folder that holds a run."),
    ] = "auto",
    accept_change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Resume although this key of the recipe has changed. Repeatable."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Runs of the recipe's `compare` section at the same time, a process each.")
    ] = 1,
    plugin: PluginOption = None,
    set_: SetOption = None,
) -> Reply:
    """Distil the teachers into the student. Stop it whenever you like: the same command continues."""
    loaded = open_recipe(recipe, plugin, set_)
    check(loaded)
    prepare_libraries()
    check_plugins(loaded)
    from mashbill.report.page import write_report
    from mashbill.train.compare import compare
    from mashbill.train.run import distill as run_recipe
    from mashbill.train.summary import summary_lines

    progress = for_stderr()
    accepted = tuple(accept_change or ())
    result = run_recipe(loaded, resume=resume, accept_change=accepted, progress=progress)
    comparison = None
    if loaded.recipe.compare is not None:
        comparison = compare(loaded, accept_change=accepted, progress=progress, workers=workers)
    page = write_report(result.directory)
    value: dict[str, Any] = {"run": result.directory, "status": result.status, "steps": result.step, "report": page}
    value["entries"] = [entry for entry in (result.result or {}).get("entries", ()) if entry["by"] == "all"]
    head = f"{result.status} after {result.step} steps: {result.directory}"
    return Reply([head, *(summary_lines(result.result, comparison) if result.result else ()), f"report: {page}"], value)
