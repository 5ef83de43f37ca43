"""Finding named things: installed entry points, and modules that the user names on the command line.

A recipe holds names only. A name resolves through an installed package's entry points or through a module given
with ``--plugin``; nothing that a recipe says is ever imported. ``--plugin module`` imports that module and reads its
``MASHBILL_PLUGINS`` mapping, ``{"weights": {"my_rule": MyRule}, "teachers": {...}}``.
"""

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from mashbill.errors import MashbillError, did_you_mean

Kind = Literal["weights", "teachers", "students"]
"""What a plug-in can provide: a weight rule, a callable teacher, a student architecture."""

_given: dict[str, dict[str, Callable[..., Any]]] = {}
_added: list[str] = []


def add_module(module_name: str) -> None:
    """Import ``module_name`` and make its ``MASHBILL_PLUGINS`` available by name for this process.

    The working folder counts as a place for modules, as it does for ``python -m``.

    Raises:
        MashbillError: The module cannot be imported, or its ``MASHBILL_PLUGINS`` is not what it should be.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        raise MashbillError(
            f"cannot import plug-in module `{module_name}`: {type(error).__name__}: {error}",
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
        if kind not in get_args(Kind) or not isinstance(things, Mapping) or not all(map(callable, things.values())):
            raise MashbillError(
                f"MASHBILL_PLUGINS of `{module_name}` has something under {kind!r} that is no plug-in",
                where="--plugin",
                help=f"it maps {', '.join(get_args(Kind))} to mappings from names to classes or functions",
            )
        _given.setdefault(kind, {}).update(things)
    _added.append(module_name)


def added() -> tuple[str, ...]:
    """Return the modules given so far: what another process has to add to know the same names."""
    return tuple(dict.fromkeys(_added))


def names(kind: Kind) -> list[str]:
    """Return the known names of one kind, sorted. Imports nothing."""
    return sorted(set(_given.get(kind, ())) | {point.name for point in _installed(kind)})


def resolve(kind: Kind, name: str) -> Callable[..., Any]:
    """Return what ``name`` stands for: a class or function to call with the recipe's options.

    Raises:
        MashbillError: No plug-in of that kind has that name, which the text lists; or its package cannot be imported.
    """
    if name in _given.get(kind, {}):
        return _given[kind][name]
    for point in _installed(kind):
        if point.name == name:
            return _load(point)
    known = names(kind)
    raise MashbillError(
        f"no {kind} plug-in named `{name}`{did_you_mean(name, known)}",
        why=f"installed: {', '.join(known) or 'none'}",
        help="install the package that provides it, or name its module with --plugin",
    )


def _load(point: EntryPoint) -> Callable[..., Any]:
    try:
        return point.load()
    except Exception as error:  # whatever the package's own code raises
        raise MashbillError(
            f"cannot import the plug-in `{point.name}`: {type(error).__name__}: {error}",
            where=f"{point.dist.name if point.dist else 'unknown package'}: {point.value}",
            help="repair or remove the package that provides it",
        ) from error


def provider(kind: Kind, name: str) -> str:
    """Return the package and version that a name comes from, e.g. ``mashbill-langid 0.1.0``; empty if none does."""
    for point in _installed(kind):
        if point.name == name and name not in _given.get(kind, {}) and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return ""


def options(kind: Kind, name: str) -> list[str] | None:
    """Return the names of a plug-in's options, or None if they cannot be known without importing its package.

    What ``--plugin`` brought is already imported. Our own classes are read as source text, so that checking a recipe
    does not import torch.
    """
    if name in _given.get(kind, {}):
        return accepted(_given[kind][name])
    for point in _installed(kind):
        if point.name == name and point.value.startswith("mashbill."):
            return _fields_in_source(point)
    return None


def accepted(factory: Callable[..., Any]) -> list[str] | None:
    """Return the names of the keyword arguments that a class or function takes; None if it takes any."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in by_name]


def _fields_in_source(point: EntryPoint) -> list[str] | None:
    spec = find_spec(point.module)
    if spec is None or spec.origin is None:
        return None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == point.attr]
    if not classes:
        return None
    inits = [node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if inits:
        arguments = inits[0].args
        named = [argument.arg for argument in (*arguments.args[1:], *arguments.kwonlyargs)]
        return None if arguments.kwarg else named
    fields = [node for node in classes[0].body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return [
        node.target.id
        for node in fields
        if isinstance(node.target, ast.Name) and "ClassVar" not in ast.unparse(node.annotation)
    ]


def _installed(kind: Kind) -> list[EntryPoint]:
    found = _entry_points(f"mashbill.{kind}")
    # Turning off other people's packages is how one finds out which of them is at fault.
    own_only = bool(os.environ.get("MASHBILL_NO_PLUGINS"))
    return [point for point in found if not own_only or point.value.startswith("mashbill.")]


@cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))  # reads a file of every installed package
