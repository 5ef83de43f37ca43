"""Reading a recipe file: strict YAML, then the schema, every problem with its line.

Not covered here: whether files exist and fit together (:mod:`mashbill.train.checks`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mashbill.errors import Problem, RecipeError, did_you_mean
from mashbill.train.explain import explain
from mashbill.train.recipe import Recipe
from mashbill.train.strict_yaml import KeyPath, dump, parse, read_document, spell

_PART = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_SECRET_KEY = re.compile(
    r"(^|_)(api_?key|secret(_key)?|password|passwd|(auth|access|api|hf|bearer)_token|access_key|credentials?)$", re.I
)
_SECRET_VALUE = re.compile(
    r"(sk|pk)-[\w\-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|-----BEGIN |Bearer \S+|"
    r"\w+://[^/\s:@]+:[^/\s@]+@"
)


@dataclass(frozen=True)
class Loaded:
    """A recipe together with where it came from.

    Attributes:
        recipe: The checked values.
        path: The file; paths in the recipe are relative to its folder.
        text: YAML that gives this recipe: the file's own text, or with ``--set`` the changed values written anew.
        lines: Line of each key, ``"teachers[0].model" -> 7``.
        document: The plain values, before defaults were filled in.
        changed: Keys that the file does not decide, and what does: ``{"train.seed": "--set"}``.
    """

    recipe: Recipe
    path: Path
    text: str
    lines: Mapping[str, int]
    document: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, path: Path | str) -> Path:
        """Return a path of the recipe as seen from here: relative ones start in the recipe's folder."""
        return self.path.parent / Path(path).expanduser()

    def where(self, key: str) -> str:
        """Return ``file:line: key`` for messages; the nearest key above stands in for one that is not in the file."""
        return _where(self.path, self.lines, self.changed, key)

    def problem(self, key: str, what: str, help: str = "") -> Problem:
        """Return a problem with the value at ``key``."""
        return Problem(self.where(key), what, help)

    def with_changes(self, changes: Mapping[str, Any], *, source: str) -> "Loaded":
        """Return this recipe with some values replaced, checked again.

        Each key is a dotted path and its value replaces all that stands there: ``{"weighting": {}}`` takes away every
        rule, ``{"weighting.task": {"rule": "uniform"}}`` only one.

        Args:
            changes: New values by dotted key.
            source: What asks for the change, for messages, e.g. ``"compare.arms.uniform"``.

        Raises:
            RecipeError: The result is no valid recipe.
        """
        document = deepcopy(dict(self.document))
        for key, value in changes.items():
            _put(document, _key_path(key, source), deepcopy(value), source)
        changed = {**self.changed, **dict.fromkeys(changes, source)}
        text = dump(document) if changes else self.text
        return replace(self, recipe=_checked(document, self.path, self.lines, changed), text=text,
                       document=document, changed=changed)  # fmt: skip


def load_recipe(path: Path | str, *, overrides: Iterable[str] = ()) -> Loaded:
    """Read and check a recipe.

    Args:
        path: A YAML file.
        overrides: Changes to single values, ``"train.learning_rate=1e-4"``; the part after ``=`` is YAML.

    Raises:
        RecipeError: Lists everything wrong, each with file, line, key and way out.
    """
    path = Path(path)
    source = read_document(path)
    if source.value is None:
        raise RecipeError([Problem(str(path), "the recipe is empty", "write one with `mashbill init`")])
    if not isinstance(source.value, dict):
        raise RecipeError([Problem(f"{path}:1", "a recipe is a mapping of keys to values, such as `version: 1`")])
    lines = {spell(key): line for key, line in source.lines.items()}
    document = deepcopy(source.value)
    changed: dict[str, str] = {}
    for override in overrides:
        key, value = _override(override)
        _put(document, key, value, "--set")
        changed[spell(key)] = "--set"
    recipe = _checked(document, path, lines, changed)
    text = dump(document) if changed else path.read_text(encoding="utf-8-sig")
    return Loaded(recipe, path, text, lines, document, changed)


def _checked(document: Mapping[str, Any], path: Path, lines: Mapping[str, int], changed: Mapping[str, str]) -> Recipe:
    found = list(_secrets(document, ()))
    if not found:
        try:
            return Recipe.model_validate(document)
        except ValidationError as error:
            found = explain(error, document)
    problems = [(lines.get(_nearest(lines, spell(key)), 0), key, what) for key, what in found]
    problems.sort(key=lambda problem: problem[0])
    raise RecipeError(Problem(_where(path, lines, changed, spell(key)), what) for _, key, what in problems)


def _secrets(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Find what looks like a secret. A recipe is copied into every run, so none may stand in it."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    elif isinstance(value, str) and _SECRET_VALUE.match(value):
        yield path, "looks like a secret; put it into an environment variable, a recipe is copied into every run"
    for key, inner in items:
        if isinstance(key, str) and _SECRET_KEY.search(key):
            yield (*path, key), f"secrets do not belong in a recipe; set an environment variable instead of `{key}`"
        else:
            yield from _secrets(inner, (*path, key))


def _where(path: Path, lines: Mapping[str, int], changed: Mapping[str, str], key: str) -> str:
    for name, source in changed.items():
        if key == name or key.startswith((f"{name}.", f"{name}[")):
            return f"{source} {key}" if source.startswith("--") else f"{path}:{_line(lines, source)}: {source}: {key}"
    return f"{path}:{_line(lines, key)}: {key}" if key else str(path)


def _line(lines: Mapping[str, int], key: str) -> int:
    return lines.get(_nearest(lines, key), 1)


def _nearest(lines: Mapping[str, int], key: str) -> str:
    while key and key not in lines:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return key


def _override(text: str) -> tuple[KeyPath, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        # The text is not repeated: it may hold what should not be printed.
        raise RecipeError([Problem("--set", "needs `key=value`", "for example --set train.learning_rate=1e-4")])
    return _key_path(key.strip(), "--set"), parse(value, name=f"--set {key.strip()}").value


def _key_path(key: str, source: str) -> KeyPath:
    path = tuple(_index_or_name(part[1] or part[2]) for part in _PART.finditer(key))
    if not path or not isinstance(path[0], str) or spell(path) != re.sub(r"\.([0-9]+)(?=\.|\[|$)", r"[\1]", key):
        raise RecipeError([Problem(f"{source} {key}", "is not a key", "write it like train.seed or teachers[0].top_k")])
    return path


def _index_or_name(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() else text


def _put(document: dict[str, Any], path: KeyPath, value: Any, source: str) -> None:
    here: Any = document
    for depth, part in enumerate(path):
        is_last = depth == len(path) - 1
        if isinstance(here, dict) and isinstance(part, str):
            if is_last or here.get(part) is None:
                here[part] = value if is_last else {}
            here = here[part]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            if is_last:
                here[part] = value
            here = here[part]
        else:
            names = list(here) if isinstance(here, dict) else []
            what = f"there is no `{spell(path[: depth + 1])}` to change{did_you_mean(str(part), names)}"
            raise RecipeError([Problem(f"{source} {spell(path)}", what)])
