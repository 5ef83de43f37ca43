"""``mashbill distill``: the run itself."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, RecipeArgument, SetOption, open_recipe, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.train.checks import check, check_plugins


def distill(
    recipe: RecipeArgument,
    resume: Annotated[
        Literal["auto", "never"], typer.Option(help="Continue from the newest valid checkpoint, or start anew.")
    ] = "auto",
    accept_change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Resume although this key of the recipe has changed. Repeatable."),
    ] = None,
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

    progress = for_stderr()
    result = run_recipe(loaded, resume=resume, accept_change=tuple(accept_change or ()), progress=progress)
    if loaded.recipe.compare is not None:
        compare(loaded, progress=progress)
    page = write_report(result.directory)
    value: dict[str, Any] = {"run": result.directory, "status": result.status, "steps": result.step, "report": page}
    value["entries"] = [entry for entry in (result.result or {}).get("entries", ()) if entry["by"] == "all"]
    head = f"{result.status} after {result.step} steps: {result.directory}"
    return Reply([head, *summary(result.result or {}), f"report: {page}"], value)


def summary(result: Mapping[str, Any]) -> list[str]:
    """Return how the student, the pool and each teacher did on each evaluation set, in one measure, best first."""
    measure = result.get("primary", "accuracy")
    lines = []
    whole = [entry for entry in result.get("entries", ()) if entry["by"] == "all" and entry.get(measure)]
    for name in dict.fromkeys(entry["set"] for entry in whole):
        lines.append(f"{measure} on {name}")
        here = [entry for entry in whole if entry["set"] == name]
        here.sort(key=lambda entry: entry[measure]["value"], reverse=measure == "accuracy")
        lines += [f"  {_shown(entry[measure]):26} {entry['who'].removeprefix('teacher:')}" for entry in here]
    return lines


def _shown(interval: Mapping[str, float | None]) -> str:
    ends = (interval["low"], interval["high"])
    known = "" if None in ends else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{interval['value']:.3f}{known}"
