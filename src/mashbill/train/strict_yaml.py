"""YAML as a recipe needs it: plain values, read the same way everywhere, with the line of every key.

Differences from PyYAML's ``safe_load``, each of which has cost somebody a run:

* a duplicate key is an error; there, the last one wins in silence;
* ``no``, ``on`` and ``12:30`` stay text, ``012`` is twelve and ``1e-4`` is a number (YAML 1.2);
* a tag other than the plain ones is an error before anything is constructed;
* size, depth and the number of values after expanding aliases are capped.

Keys are always text, whatever they look like.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mashbill.errors import Problem, RecipeError

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
MAX_DEPTH = 60

KeyPath = tuple[str | int, ...]

_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = re.compile(r"~|null|Null|NULL|")
_TAG = "tag:yaml.org,2002:"
_SCALARS = (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT))


class _Loader(yaml.SafeLoader):
    """Composes nodes; plain scalars get the tags of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - the parent class keeps its resolvers in this attribute


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML 1.1 or our reader would not read back as the same text."""


for _name, _pattern in _SCALARS:
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_TAG + _name, _whole, None)
    _Dumper.add_implicit_resolver(_TAG + _name, _whole, None)


@dataclass(frozen=True)
class Document:
    """Plain values and where each one stands.

    Attributes:
        value: Dicts, lists, text, numbers, booleans and None.
        lines: Line, from 1, of every key path.
    """

    value: Any
    lines: dict[KeyPath, int]


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        RecipeError: It is missing, no file, too large, not UTF-8, or not plain YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _missing(path, error) from error
    if len(raw) > MAX_BYTES:
        raise _error(str(path), f"is larger than {MAX_BYTES:,} bytes, too large for a recipe", "is this a data file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _error(f"{path}:{line}", f"byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    return parse(text, name=str(path))


def parse(text: str, *, name: str) -> Document:
    """Read YAML from text; ``name`` stands in messages where the file's name would.

    Raises:
        RecipeError: Not one document of plain values.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except RecursionError as error:
        raise _error(name, f"is nested more than {MAX_DEPTH} levels deep") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise _error(where, f"not valid YAML: {_said(error)}", _advice(text, mark)) from error
    except yaml.YAMLError as error:  # a character that no YAML file may hold
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position if isinstance(position, int) else 0) + 1
        raise _error(f"{name}:{line}", f"not valid YAML: {getattr(error, 'reason', error)}") from error
    building = _Building(name)
    return Document(None if root is None else building.value(root, (), ()), building.lines)


def dump(value: Any) -> str:
    """Return YAML that :func:`parse` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


@dataclass
class _Building:
    """Turns nodes into values while keeping count and lines."""

    name: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    n_values: int = 0

    def value(self, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        self.n_values += 1
        line = node.start_mark.line + 1
        if path not in self.lines:
            self.lines[path] = line
        if self.n_values > MAX_VALUES:
            raise _error(f"{self.name}:{line}", f"more than {MAX_VALUES:,} values after expanding aliases")
        if any(node is ancestor for ancestor in above):
            raise _error(f"{self.name}:{line}", "an alias refers to what it stands in")
        if len(above) >= MAX_DEPTH:
            raise _error(f"{self.name}:{line}", f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, i), (*above, node)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise self._refused(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                raise _error(f"{self.name}:{line}", "a key must be plain text")
            self._scalar(key_node)  # refuses tags on keys too
            key = key_node.value
            inner = (*path, key)
            if key in result:
                raise _error(
                    f"{self.name}:{line}: {spell(inner)}",
                    f"the key `{key}` is here twice, first on line {self.lines[inner]}",
                    "keep one of them",
                )
            self.lines[inner] = line
            result[key] = self.value(value_node, inner, above)
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        if tag == "str":
            return text
        for name, pattern in _SCALARS:
            if tag == name and pattern.fullmatch(text):
                return _CONVERT[name](text)
        if tag in dict(_SCALARS):
            raise _error(f"{self.name}:{node.start_mark.line + 1}", f"`{text[:80]}` is not of the type `!!{tag}`")
        raise self._refused(node)

    def _refused(self, node: yaml.Node) -> RecipeError:
        tag = node.tag.replace(_TAG, "!!")
        return _error(
            f"{self.name}:{node.start_mark.line + 1}",
            f"the tag `{tag[:80]}` is refused: a recipe holds plain values and never runs code",
            "write the value itself; your own code comes in with --plugin",
        )


def spell(path: KeyPath) -> str:
    """Write a key path the way messages show it.

    >>> spell(("teachers", 1, "model"))
    'teachers[1].model'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _int(text: str) -> int:
    if text.startswith(("0o", "0x")):
        return int(text, 0)
    if len(text) > 400:
        return 10**400  # longer than any limit of ours; int() itself refuses beyond 4,300 digits
    return int(text)


def _float(text: str) -> float:
    return float(
        text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").lower().replace(".nan", "nan")
    )


_CONVERT: dict[str, Any] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
}


def _said(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part)


def _advice(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line]:
        return "indent with spaces; YAML allows no tabs"
    return "look at this line and the one above: a missing colon, quote or bracket, or uneven indentation"


def _missing(path: Path, error: OSError) -> RecipeError:
    if isinstance(error, FileNotFoundError):
        near = sorted(str(other) for pattern in ("*.yaml", "*.yml") for other in path.parent.glob(pattern))[:5]
        listed = f"recipes here: {', '.join(near)}" if near else "write one with `mashbill init`"
        return _error(str(path), "no such file", listed)
    if isinstance(error, IsADirectoryError):
        return _error(str(path), "is a folder, not a recipe", f"name the file in it, such as {path / 'recipe.yaml'}")
    return _error(str(path), f"cannot be read: {error.strerror or error}")


def _error(where: str, what: str, help: str = "") -> RecipeError:
    return RecipeError([Problem(where, what, help)])
