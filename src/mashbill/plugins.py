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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Option:
    """An option of one of our own classes, as its source declares it.

    Attributes:
        annotation: The type, as written.
        choices: What it may be, if the type is a ``Literal``.
        is_required: Whether it has no default.
    """

    annotation: str
    choices: tuple[Any, ...]
    is_required: bool


def options(kind: Kind, name: str) -> list[str] | None:
    """Return the names of a plug-in's options, or None if they cannot be known without importing its package.

    What ``--plugin`` brought is already imported. Our own classes are read as source text, so that checking a recipe
    does not import torch.
    """
    if name in _given.get(kind, {}):
        return accepted(_given[kind][name])
    declared = declared_options(kind, name)
    return None if declared is None else list(declared)


def declared_options(kind: Kind, name: str) -> dict[str, Option] | None:
    """Return the options of one of our own classes, read from its source text; None for what others provide."""
    if name in _given.get(kind, {}):
        return None
    for point in _installed(kind):
        if point.name == name and point.value.startswith("mashbill."):
            return _options_in_source(point)
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


def _options_in_source(point: EntryPoint) -> dict[str, Option] | None:
    body = _source_of(point.module)
    classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == point.attr]
    if not classes:
        return None
    inits = [node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if inits and inits[0].args.kwarg:
        return None
    found = _arguments(inits[0].args) if inits else _fields(classes[0])
    return {
        name: Option(ast.unparse(type_) if type_ else "Any", _choices(type_, body), is_required)
        for name, type_, is_required in found
    }


def _arguments(given: ast.arguments) -> Iterator[tuple[str, ast.expr | None, bool]]:
    first_default = len(given.args) - len(given.defaults)
    for place, argument in enumerate(given.args[1:], start=1):
        yield argument.arg, argument.annotation, place < first_default
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield argument.arg, argument.annotation, default is None


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr, bool]]:
    for each in node.body:
        if not isinstance(each, ast.AnnAssign) or not isinstance(each.target, ast.Name):
            continue
        if "ClassVar" not in ast.unparse(each.annotation):
            yield each.target.id, each.annotation, each.value is None


def _choices(type_: ast.expr | None, body: list[ast.stmt]) -> tuple[Any, ...]:
    """Return what a ``Literal`` allows, also where it has a name of its own, here or in one of our modules."""
    if isinstance(type_, ast.Subscript) and ast.unparse(type_.value) == "Literal":
        return ast.literal_eval(
            f"({ast.unparse(type_.slice)},)" if not isinstance(type_.slice, ast.Tuple) else type_.slice
        )
    if not isinstance(type_, ast.Name):
        return ()
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == type_.id:
            return _choices(node.value, body)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mashbill."):
            for alias in node.names:
                if (alias.asname or alias.name) == type_.id:
                    return _choices(ast.Name(alias.name), _source_of(str(node.module)))
    return ()


@cache
def _source_of(module: str) -> list[ast.stmt]:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return []
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body


def _installed(kind: Kind) -> list[EntryPoint]:
    found = _entry_points(f"mashbill.{kind}")
    # Turning off other people's packages is how one finds out which of them is at fault.
    own_only = bool(os.environ.get("MASHBILL_NO_PLUGINS"))
    return [point for point in found if not own_only or point.value.startswith("mashbill.")]


@cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))  # reads a file of every installed package
