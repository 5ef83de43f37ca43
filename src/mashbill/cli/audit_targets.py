"""What the words after ``mashbill audit`` stand for: operators by name, recipes, and runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mashbill import plugins
from mashbill.audit.leaving import no_exit
from mashbill.errors import CorruptionError, MashbillError, Problem, RecipeError, did_you_mean
from mashbill.train.check_data import read_sources
from mashbill.train.check_weighting import Names, check_weighting
from mashbill.train.loading import Loaded, load_recipe
from mashbill.train.strict_yaml import parse

if TYPE_CHECKING:
    from mashbill.audit.loading import Target
    from mashbill.audit.moods import Stage

MAX_ROWS = 20_000
"""Rows of a data file that are read for the names of tasks and contexts."""


@dataclass(frozen=True)
class Opened:
    """One target, ready to be audited.

    Attributes:
        target: The operator, its name, and the names it was made for.
        kind: Where it comes from.
        loaded: The recipe, of a recipe or a run.
        run: The folder of a run.
    """

    target: "Target"
    kind: Literal["operator", "recipe", "run"]
    loaded: Loaded | None = None
    run: Path | None = None


def open_targets(
    words: Sequence[str], modules: Sequence[str], settings: Sequence[str], stage: "Stage | None" = None
) -> list[Opened]:
    """Open every target; nothing is audited before all of them are known to exist.

    Args:
        words: What stands on the command line.
        modules: Modules with plug-ins.
        settings: ``NAME=VALUE`` each.
        stage: The names that operators were made for; recipes and runs have their own.

    Raises:
        MashbillError: A target does not exist, cannot be imported, or refuses its options.
        RecipeError: A recipe, or its data, is not as it should be.
    """
    for module in modules:
        with no_exit(f"cannot import plug-in module `{module}`", "--plugin"):
            plugins.add_module(module)
    found = []
    for word in dict.fromkeys(words):
        with no_exit(f"`{word}` cannot be opened", word):
            one = _opened(word, settings)
        if stage is not None and one.kind != "operator":
            what = f"`{word}` is a {one.kind}, which names its own teachers, tasks and contexts"
            raise MashbillError(what, help="leave --teachers, --tasks and --contexts away")
        found.append(one if stage is None else replace(one, target=replace(one.target, stage=stage)))
    return found


def _opened(word: str, settings: Sequence[str]) -> Opened:
    path = Path(word)
    if path.is_dir():
        return _run(path, settings)
    is_recipe = path.suffix in (".yaml", ".yml")
    if path.is_file() and not is_recipe:
        raise MashbillError(f"`{word}` is a file and no recipe", help=_advice(path))
    if is_recipe:
        return _recipe(word, settings)
    if ":" not in word and ("/" in word or path.suffix):
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MashbillError(f"there is no `{word}`{did_you_mean(path.name, near)}")
    from mashbill.audit.loading import load_operator

    return Opened(load_operator(word, _options(settings)), "operator")


def _advice(path: Path) -> str:
    if path.suffix == ".py":
        return f"write `{path}:Name`"
    return "write the path of a recipe (.yaml), the folder of a run, `file.py:Name` or `package.module:Name`"


def _options(settings: Sequence[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` pairs; the value is YAML, plain data and never code."""
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise RecipeError([Problem("--set", "needs `name=value`", "for example --set beta=2.0")])
        options[name.strip()] = parse(value, name=f"--set {name.strip()}").value
    return options


def _recipe(word: str, settings: Sequence[str]) -> Opened:
    loaded = load_recipe(Path(word), overrides=settings)
    problems: list[Problem] = []
    rows = read_sources(loaded, problems, limit=MAX_ROWS)
    train = next((source for source in rows if source.key == "data.train"), None)
    names = Names() if train is None else Names(train.names("task"), train.names("context"))
    problems += check_weighting(loaded, names)
    if problems:
        raise RecipeError(dict.fromkeys(problems))
    return Opened(_composed(word, loaded, names.tasks or (), names.contexts or ()), "recipe", loaded)


def _run(folder: Path, settings: Sequence[str]) -> Opened:
    if settings:
        raise MashbillError(
            "a run cannot be changed with --set", where=str(folder), help="audit its recipe: recipe.yaml in the folder"
        )
    facts, recipe = folder / "run.json", folder / "recipe.yaml"
    if not facts.is_file() or not recipe.is_file():
        raise MashbillError(
            f"`{folder}` is a folder without a run in it",
            help="give the folder that the recipe names under `output`, after `mashbill distill`",
        )
    try:
        run = json.loads(facts.read_bytes())
        tasks, contexts = tuple(map(str, run.get("tasks", ()))), tuple(map(str, run.get("contexts", ())))
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptionError("run.json cannot be read", where=str(facts), help="restore the file") from error
    loaded = load_recipe(recipe)
    return Opened(_composed(str(folder), loaded, tasks, contexts), "run", loaded, folder)


def _composed(name: str, loaded: Loaded, tasks: Sequence[str], contexts: Sequence[str]) -> "Target":
    """Return the operator that a recipe composes, with its teachers, tasks, contexts and features."""
    from mashbill.audit.loading import Target
    from mashbill.audit.moods import Stage
    from mashbill.train.build import build_operator

    teachers = tuple(teacher.id for teacher in loaded.recipe.teachers)
    stage = Stage(
        teachers=teachers,
        tasks=tuple(tasks) or ("all",),
        contexts=tuple(contexts) or ("all",),
        n_features=len(loaded.recipe.data.feature_columns),
    )
    return Target(name, build_operator(loaded.recipe.weighting, teachers), stage)
