"""From what a command line names to an operator: ``module:Name``, ``file.py:Name``, or the name of an installed rule.

Importing a module runs its code, as it does for a test runner; options are plain values and never code. Recipes and
runs are read by the command, on a higher floor.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mashbill import plugins
from mashbill.audit.calling import inputs_of, missing_options, signature_of
from mashbill.audit.leaving import no_exit
from mashbill.audit.legible import legible
from mashbill.audit.moods import Stage
from mashbill.errors import MashbillError, did_you_mean


@dataclass(frozen=True)
class Target:
    """Something to audit.

    Attributes:
        name: As it stands in tables: what the user wrote, with its options.
        operator: A rule, pool, softening or recursion.
        stage: The names that it was made for; None for any.
        is_made: Whether the options went to a class or function that made it, and not to the operator itself.
    """

    name: str
    operator: Callable[..., Any]
    stage: Stage | None = None
    is_made: bool = False


def load_operator(named: str, options: Mapping[str, Any] | None = None) -> Target:
    """Return what ``module:Name`` or the name of an installed weight rule stands for.

    A class, or a function that requires no argument, is called with the options and gives the operator. A function that
    requires one is the operator itself, with the options bound. Anything else callable is taken as it is.

    Args:
        named: ``package.module:Name`` or ``path/to/file.py:Name``, where ``Name`` may have dots, or a plug-in's name.
        options: Keyword arguments, plain values.

    Raises:
        MashbillError: No such module or name, it cannot be imported, is not callable, or refuses its options.
    """
    module_name, colon, path = named.rpartition(":")
    if not colon:
        found = _plugin(named)
    elif not module_name or not path:
        raise MashbillError(f"`{named}` names no operator", help="write `package.module:Name` or `file.py:Name`")
    elif "/" in module_name and not module_name.endswith(".py"):
        raise MashbillError(f"`{module_name}` names no module and no file", help=f"write `{module_name}.py:{path}`")
    else:
        module = _file(Path(module_name), named) if module_name.endswith(".py") else _module(module_name, named)
        found = _attribute(module, path, named)
    operator = make_operator(found, options or {}, named)
    given = ", ".join(f"{name}={value!r}" for name, value in (options or {}).items())
    return Target(legible(f"{named}({given})" if given else named), operator, is_made=_makes(found))


def require_options(target: Target, kind: str) -> None:
    """Refuse an operator that requires more than an audit of its kind gives.

    Raises:
        MashbillError: Names what is missing, and how to give it.
    """
    for name in missing_options(target.operator, kind):
        if target.is_made:
            help = f"it is asked with its evidence alone: give `{name}` a default, or make it an option of the class"
            raise MashbillError(f"`__call__` of `{target.name}` needs `{name}`", help=help)
        raise MashbillError(f"`{target.name}` needs `{name}`", help=f"give it with --set {name}=VALUE")


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
    if _makes(found):
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


def _makes(found: Any) -> bool:
    """Whether something is called to make the operator, and is not the operator itself."""
    return inspect.isclass(found) or (inspect.isfunction(found) and not _requires_one(found))


def _plugin(name: str) -> Callable[..., Any]:
    try:
        with no_exit(f"cannot import the plug-in `{name}`", name):
            return plugins.resolve("weights", name)
    except MashbillError as error:
        if error.where:  # it exists and cannot be imported
            raise
        raise MashbillError(
            f"`{name}` is no file, no folder and no installed rule{did_you_mean(name, plugins.names('weights'))}",
            help="write `package.module:Name`, `file.py:Name`, the path of a recipe or of a run, or the name of a rule",
        ) from error


def _module(name: str, named: str) -> ModuleType:
    if os.getcwd() not in sys.path:  # the working folder counts, as it does for `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        with no_exit(f"cannot import `{name}`", named):
            return importlib.import_module(name)
    except MashbillError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise _unimportable(name, named, error) from error
        raise MashbillError(
            f"there is no module `{missing}`{did_you_mean(name, _modules_near(name))}",
            where=named,
            help="install its package, run from the folder that holds it, or give the path of the file: `file.py:Name`",
        ) from error
    except Exception as error:  # whatever the module's own code raises
        raise _unimportable(name, named, error) from error


def _file(path: Path, named: str) -> ModuleType:
    """Return the module in a file, its folder being a place for modules as it is for ``python file.py``."""
    if not path.is_file():
        near = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise MashbillError(f"there is no file `{path}`{did_you_mean(path.name, near)}", where=named)
    whole = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or os.devnull).resolve() == whole:
        return loaded
    if str(whole.parent) not in sys.path:
        sys.path.append(str(whole.parent))  # last: a file called as a library is must not take its place
    # A module of that name may be another one, which stays.
    name = path.stem if loaded is None else f"{path.stem} ({whole})"
    spec = importlib.util.spec_from_file_location(name, whole)
    assert spec is not None, "a file that ends in .py has a loader"
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with no_exit(f"cannot import `{path}`", named):
            spec.loader.exec_module(module)
    except Exception as error:  # whatever the module's own code raises
        del sys.modules[name]
        raise error if isinstance(error, MashbillError) else _unimportable(str(path), named, error) from error
    return module


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
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if first is None or first.kind is first.VAR_POSITIONAL:
        return first is not None
    return first.kind in by_place and first.default is inspect.Parameter.empty


def _require_accepted(found: Any, options: Mapping[str, Any], named: str, *, bind: bool) -> None:
    """Refuse options that do not exist, and with ``bind`` required ones that are missing."""
    known = _accepted(found)
    inputs = () if bind else inputs_of(found)
    for name in options:
        if name in inputs:
            raise MashbillError(f"`{name}` of `{named}` is what it is asked, and no option", where="--set")
        if known is not None and name not in known:
            free = [each for each in known if each not in inputs]
            listed = ", ".join(f"`{each}`" for each in free) or "none"
            raise MashbillError(
                f"`{named}` has no option `{name}`{did_you_mean(name, free)}", where="--set", why=f"options: {listed}"
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


def _accepted(found: Any) -> list[str] | None:
    """Return the names of what may be given by name, of a module that of its ``forward``; None if anything may."""
    if inspect.isclass(found):
        return plugins.accepted(found)
    try:
        parameters = signature_of(found).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _called(make: Callable[..., Any], options: Mapping[str, Any], named: str) -> Any:
    try:
        with no_exit(f"`{named}` cannot be made", named):
            return make(**options)
    except MashbillError:
        raise
    except Exception as error:  # whatever the constructor's own code raises
        said = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise MashbillError(f"`{named}` cannot be made: {said}", help="correct the options given with --set") from error


def _bound(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function with its options bound; what it says about itself, such as ``needs``, goes along."""
    bound = functools.partial(function, **options)
    for name, value in getattr(function, "__dict__", {}).items():
        setattr(bound, name, value)
    for name in _SAID:
        if hasattr(function, name):
            setattr(bound, name, getattr(function, name))
    return bound


_SAID = ("needs", "scale", "declared", "structure", "form", "anchor")
"""What an operator may say about itself, also by its class."""
