"""Finding named things: installed entry points, and modules that the user names on the command line.

A recipe holds names only. A name resolves through an installed package's entry points or through a module given
with ``--plugin``; nothing that a recipe says is ever imported. ``--plugin module`` imports that module and reads its
``MASHBILL_PLUGINS`` mapping, ``{"weights": {"my_rule": MyRule}, "teachers": {...}}``.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

from mashbill.errors import MashbillError, did_you_mean

Kind = Literal["weights", "teachers", "students"]
"""What a plug-in can provide: a weight rule, a callable teacher, a student architecture."""

_given: dict[str, dict[str, Callable[..., Any]]] = {}


def add_module(module_name: str) -> None:
    """Import ``module_name`` and make its ``MASHBILL_PLUGINS`` available by name for this process.

    Raises:
        MashbillError: The module cannot be imported, or has no ``MASHBILL_PLUGINS`` mapping.
    """
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise MashbillError(
            f"cannot import plug-in module `{module_name}`: {error}",
            where="--plugin",
            help="install the package, or run from the folder that holds the module",
        ) from error
    offered = getattr(module, "MASHBILL_PLUGINS", None)
    if not isinstance(offered, Mapping):
        raise MashbillError(
            f"module `{module_name}` offers no plug-ins",
            where="--plugin",
            help='add MASHBILL_PLUGINS = {"weights": {"my_rule": MyRule}} to the module',
        )
    for kind, things in offered.items():
        _given.setdefault(kind, {}).update(things)


def names(kind: Kind) -> list[str]:
    """Return the known names of one kind, sorted. Imports nothing."""
    return sorted(set(_given.get(kind, ())) | {point.name for point in _installed(kind)})


def resolve(kind: Kind, name: str) -> Callable[..., Any]:
    """Return what ``name`` stands for: a class or function to call with the recipe's options.

    Raises:
        MashbillError: No plug-in of that kind has that name; the text lists those that exist.
    """
    if name in _given.get(kind, {}):
        return _given[kind][name]
    for point in _installed(kind):
        if point.name == name:
            return point.load()
    known = names(kind)
    raise MashbillError(
        f"no {kind} plug-in named `{name}`{did_you_mean(name, known)}",
        why=f"installed: {', '.join(known) or 'none'}",
        help="install the package that provides it, or name its module with --plugin",
    )


def _installed(kind: Kind):
    # Turning off other people's packages is how one finds out which of them is at fault.
    found = entry_points(group=f"mashbill.{kind}")
    if os.environ.get("MASHBILL_NO_PLUGINS"):
        return [point for point in found if point.value.startswith("mashbill.")]
    return list(found)
