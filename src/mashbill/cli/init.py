"""``mashbill init``: a commented recipe to start from."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from mashbill.cli.reply import Reply
from mashbill.errors import MashbillError

RecipeName = Literal["own", "langid", "specialists", "routing", "safety-ordered"]
WITH_DATA = ("own", "routing", "safety-ordered")
"""Recipes that run at once, on the small data that is written beside them."""


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write.")] = Path(),
    recipe: Annotated[RecipeName, typer.Option(help="Which recipe to start from.")] = "own",
) -> Reply:
    """Write a commented recipe, with small data where it can run at once. Never overwrites."""
    source = files("mashbill.cli") / "templates"
    wanted: dict[Path, Traversable] = {directory / "recipe.yaml": source / f"{recipe}.yaml"}
    if recipe in WITH_DATA:
        wanted |= {directory / "data" / item.name: item for item in sorted((source / "data").iterdir(), key=str)}
    _require_free(directory, list(wanted))
    for place, template in wanted.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            file.write(template.read_bytes())
    path = directory / "recipe.yaml"
    then = [f"next: mashbill validate {path}", f"      mashbill distill {path}"]
    if recipe not in WITH_DATA:
        then = [f"next: read {path}: it says which models and data to put where", f"      mashbill validate {path}"]
    return Reply([*(f"wrote {place}" for place in wanted), *then], {"recipe": path, "files": list(wanted)})


def _require_free(directory: Path, places: list[Path]) -> None:
    if directory.exists() and not directory.is_dir():
        raise MashbillError(f"`{directory}` is a file, not a folder", help="name a new folder")
    there = [str(place) for place in places if place.exists()]
    if there:
        raise MashbillError(
            f"`{there[0]}` exists already" + (f", and {len(there) - 1} more" if there[1:] else ""),
            why="init never overwrites",
            help="name another folder: mashbill init myrun",
        )


NAMES: tuple[str, ...] = get_args(RecipeName)
