"""From what pydantic found wrong to what a user should read: the path, the value, the rule, and the way out."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mashbill.errors import did_you_mean
from mashbill.train.recipe import Recipe
from mashbill.train.strict_yaml import KeyPath

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "`true` or `false`",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_RANGES = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_FIXED = {
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


def explain(error: ValidationError, document: Any) -> list[tuple[KeyPath, str]]:
    """Return one ``(key path, message)`` for each thing wrong, in the order of the recipe's schema."""
    found: dict[KeyPath, list[dict[str, Any]]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_real_path(item, document), []).append(dict(item))
    return [
        (path, "; or it ".join(dict.fromkeys(_message(path, item) for item in items)))
        for path, items in found.items()
        if not (_is_about_type(items) and any(_is_below(other, path) for other in found))
    ]


def _real_path(item: Mapping[str, Any], document: Any) -> KeyPath:
    """Drop from pydantic's location what is no key of the document, such as the name of a union's member."""
    path: list[str | int] = []
    here = document
    location = item["loc"]
    for part in location:
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
            path.append(part)
        elif part is location[-1] and item["type"] == "missing":
            path.append(part)
    return tuple(path)


def _is_about_type(items: Sequence[Mapping[str, Any]]) -> bool:
    return all(item["type"].endswith("_type") or item["type"] == "literal_error" for item in items)


def _is_below(other: KeyPath, path: KeyPath) -> bool:
    return len(other) > len(path) and other[: len(path)] == path


def _message(path: KeyPath, item: Mapping[str, Any]) -> str:
    kind, value, limits = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        message = _unknown_key(path)
    elif kind == "missing":
        message = f"missing key `{path[-1]}`" if isinstance(path[-1], str) else "needs one value more"
    elif kind == "literal_error":
        message = _not_one_of(path, value, limits)
    elif kind in _TYPES:
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
        message = f"must be {_TYPES[kind]}, not {_described(value)}{quotes}"
    elif kind in _RANGES:
        name, words = _RANGES[kind]
        message = f"{_described(value)} must be {words} {limits[name]:g}"
    elif kind == "string_pattern_mismatch":
        message = f"the name {_described(value)} may hold only letters, digits, `_`, `-` and `.`"
    else:
        message = _FIXED.get(kind) or str(item["msg"]).removeprefix("Value error, ")
    return message


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    section = section_at(path[:-1])
    known = list(section.model_fields) if section else []
    elsewhere = [name for name, model in _sections().items() if key in model.model_fields and model is not section]
    guess = did_you_mean(key, known)
    if elsewhere:
        guess = f" — it belongs under `{elsewhere[0]}`"
    elif not guess and known:
        guess = f"; known here: {', '.join(known)}"
    return f"unknown key `{key}`{guess}"


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """Return the part of the schema that stands at a key path, or None where keys are free."""
    section: type[BaseModel] = Recipe
    for part in path:
        if part in section.model_fields:
            inner = _model_in(section.model_fields[str(part)].annotation)
            if inner is None:
                return None
            section = inner
    return section


def _sections() -> dict[str, type[BaseModel]]:
    inner = {name: _model_in(field.annotation) for name, field in Recipe.model_fields.items() if name != "teachers"}
    return {name: model for name, model in inner.items() if model is not None}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _not_one_of(path: KeyPath, value: Any, limits: Mapping[str, Any]) -> str:
    if path == ("version",):
        return f"{_described(value)} is not a recipe version that this mashbill reads; write `version: 1`"
    known = str(limits["expected"]).replace(" or ", ", ").replace("'", "")
    guess = did_you_mean(value, known.split(", ")) if isinstance(value, str) else ""
    return f"{_described(value)} is not one of: {known}{guess}"


def _described(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    shown = text if len(text) <= 60 else text[:60] + "..."
    return f"the text `{shown}`" if isinstance(value, str) else f"`{shown}`"
