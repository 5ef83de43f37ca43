"""What the commands that read a recipe share: its arguments, and opening it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mashbill import plugins
from mashbill.errors import MashbillError
from mashbill.train.loading import Loaded, load_recipe

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="Import this module for its MASHBILL_PLUGINS. Repeatable."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, as in train.seed=1. Repeatable."),
]


def open_recipe(path: Path, modules: Sequence[str] | None, changes: Sequence[str] | None) -> Loaded:
    """Import the plug-in modules, then read the recipe."""
    for module in modules or ():
        plugins.add_module(module)
    return load_recipe(path, overrides=changes or ())


def require_no_folder(path: Path | None) -> None:
    """Refuse a folder where ``--output`` names a file, before any work is done."""
    if path is not None and path.is_dir():
        raise MashbillError(f"`{path}` is a folder", where="--output", help="name the file to write")


def prepare_libraries() -> None:
    """Keep the libraries underneath quiet, and data off the network; of the hub, only pinned teachers are taken."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the command draws its own
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
