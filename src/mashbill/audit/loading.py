"""From what a command line names to an operator: ``module:Name`` with its options, or the name of an installed rule.

Importing a module runs its code, as it does for a test runner; options are plain values and never code. Recipes and
runs are read by the command, on a higher floor.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mashbill import plugins
from mashbill.audit.moods import Stage
from mashbill.errors import MashbillError, did_you_mean


@dataclass(frozen=True)
class Target:
    """Something to audit.

    Attributes:
        name: As it stands in tables: what the user wrote, with its options.
        operator: A rule, pool, softening or recursion.
        stage: The names that it was made for; None for any.
    """

    name: str
    operator: Callable[..., Any]
    stage: Stage | None = None


def load_operator(named: str, options: Mapping[str, Any] | None = None) -> Target:
    """Return what ``module:Name`` or the name of an installed weight rule stands for.

    A class, or a function that requires no argument, is called with the options and gives the operator. A function that
    requires one is the operator itself, with the options bound. Anything else callable is taken as it is.

    Args:
        named: ``package.module:Name``, where ``Name`` may have dots, or a plug-in's name.
        options: Keyword arguments, plain values.

    Raises:
        MashbillError: No such module or name, it cannot be imported, is not callable, or refuses its options.
    """
    module_name, colon, path = named.partition(":")
    if not colon:
        found = _plugin(named)
    elif not module_name or not path:
        raise MashbillError(f"`{named}` names no operator", help="write `package.module:Name`")
    else:
        found = _attribute(_module(module_name, named), path, named)
    operator = make_operator(found, options or {}, named)
    given = ", ".join(f"{name}={value!r}" for name, value in (options or {}).items())
    return Target(f"{named}({given})" if given else named, operator)


def make_operator(found: Any, options: Mapping[str, Any], named: str) -> Callable[..., Any]:
    """Return the operator that a name stands for, made with its options.

    Raises:
        MashbillError: It is not callable or refuses its options.
    """
    if not callable(found):
        raise MashbillError(
            f"`{named}` is of type {type(found).__name__} and cannot be called",
            help="name a rule, pool, softening or recursion: a class, a function, or an instance with `__call__`",
        )
    if inspect.isclass(found) or (inspect.isfunction(found) and not _requires_one(found)):
        _require_accepted(found, options, named, bind=True)
        operator = _called(found, options, named)
        if not callable(operator):
            raise MashbillError(
                f"`{named}` gives a {type(operator).__name__}, which cannot be called",
                help="give the class a `__call__(evidence)`, or the function its evidence as a required argument",
            )
        return operator
    _require_accepted(found, options, named, bind=False)
    return _bound(found, options) if options else found


def _plugin(name: str) -> Callable[..., Any]:
    try:
        return plugins.resolve("weights", name)
    except MashbillError as error:
        if error.where:  # it exists and cannot be imported
            raise
        raise MashbillError(
            f"`{name}` is no file, no folder and no installed rule{did_you_mean(name, plugins.names('weights'))}",
            help="write `package.module:Name`, the path of a recipe or of a run, or the name of a rule",
        ) from error


def _module(name: str, named: str) -> ModuleType:
    if os.getcwd() not in sys.path:  # the working folder counts, as it does for `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise _unimportable(name, named, error) from error
        raise MashbillError(
            f"there is no module `{missing}`{did_you_mean(name, _modules_near(name))}",
            where=named,
            help="install its package, or run from the folder that holds it",
        ) from error
    except Exception as error:  # whatever the module's own code raises
        raise _unimportable(name, named, error) from error


def _unimportable(name: str, named: str, error: Exception) -> MashbillError:
    return MashbillError(f"cannot import `{name}`: {type(error).__name__}: {error}", where=named)


def _modules_near(name: str) -> list[str]:
    """Return the modules beside the one that is not there: of its package as far as that exists, else of the path."""
    package, _, _ = name.rpartition(".")
    while package:
        try:
            folder = getattr(importlib.import_module(package), "__path__", ())
        except Exception:  # then the package is what is wrong
            package, _, _ = package.rpartition(".")
        else:
            return [f"{package}.{module.name}" for module in pkgutil.iter_modules(folder)]
    return [module.name for module in pkgutil.iter_modules() if not module.name.startswith("_")]


def _attribute(module: ModuleType, path: str, named: str) -> Any:
    found: Any = module
    where = module.__name__
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise MashbillError(
                f"`{where}` has no `{name}`{did_you_mean(name, _callables(found))}", where=named
            ) from error
        where = f"{where}.{name}"
    return found


def _callables(thing: Any) -> Iterable[str]:
    return (name for name in dir(thing) if not name.startswith("_") and callable(getattr(thing, name, None)))


def _requires_one(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return first is not None and first.kind in positional and first.default is inspect.Parameter.empty


def _require_accepted(found: Any, options: Mapping[str, Any], named: str, *, bind: bool) -> None:
    """Refuse options that do not exist, and with ``bind`` required ones that are missing."""
    known = plugins.accepted(found)
    for name in options:
        if known is not None and name not in known:
            listed = ", ".join(f"`{each}`" for each in known) or "none"
            raise MashbillError(
                f"`{named}` has no option `{name}`{did_you_mean(name, known)}", where="--set", why=f"options: {listed}"
            )
    if bind and known is not None:
        parameters = inspect.signature(found).parameters.values()
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        empty = inspect.Parameter.empty
        missing = [
            p.name for p in parameters if p.default is empty and p.kind not in variadic and p.name not in options
        ]
        if missing:
            raise MashbillError(f"`{named}` needs `{missing[0]}`", help=f"give it with --set {missing[0]}=VALUE")


def _called(make: Callable[..., Any], options: Mapping[str, Any], named: str) -> Any:
    try:
        return make(**options)
    except Exception as error:  # whatever the constructor's own code raises
        said = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise MashbillError(f"`{named}` cannot be made: {said}", help="correct the options given with --set") from error


def _bound(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function with its options bound; what it says about itself, such as ``needs``, goes along."""
    bound = functools.partial(function, **options)
    for name, value in getattr(function, "__dict__", {}).items():
        setattr(bound, name, value)
    return bound
