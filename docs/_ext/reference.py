"""Writes the reference pages from the code itself, so that they cannot say something else than the code.

Before Sphinx reads any page this fills ``docs/_generated``:

* ``recipe.md``: every key of a recipe, from the pydantic models; the descriptions are in ``recipe_keys.yaml``, and a
  key without a description, or a description without a key, is an error;
* ``rules.md``: every installed weight rule, from the entry points;
* ``errors.md``: every error and its exit code;
* ``command_line.md``: every command and its options;
* ``api/*.rst``: one page for each package.
"""

import dataclasses
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from typer.main import get_command

from mashbill import errors
from mashbill.cli.app import app
from mashbill.train.recipe import Recipe

API_PACKAGES = (
    "distributions",
    "teachers",
    "weights",
    "pools",
    "losses",
    "audit",
    "guarantees",
    "train",
    "report",
    "cli",
)


def setup(sphinx: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    sphinx.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(sphinx: Sphinx) -> None:
    """Write every generated page; those that did not change keep their date."""
    source = Path(sphinx.srcdir)
    descriptions = yaml.safe_load((source / "recipe_keys.yaml").read_text(encoding="utf-8"))
    pages = {
        "recipe.md": "".join(recipe_page(Recipe.model_json_schema(), descriptions)),
        "rules.md": "".join(rules_page()),
        "errors.md": "".join(errors_page()),
        "command_line.md": "".join(command_page()),
        "api/top.rst": api_page("mashbill", ["errors", "numerics", "plugins", "shapes"]),
    }
    pages |= {f"api/{name}.rst": api_page(f"mashbill.{name}", None) for name in API_PACKAGES}
    for name, text in pages.items():
        file = source / "_generated" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


# The recipe


def recipe_page(schema: Mapping[str, Any], descriptions: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield one table a section of the recipe, in the order in which a recipe has them."""
    sections = {"Recipe": schema, **schema["$defs"]}
    if set(sections) != set(descriptions):
        raise ExtensionError(
            f"recipe_keys.yaml describes {set(sections) ^ set(descriptions)} differently from the code"
        )
    order = list(dict.fromkeys(["Recipe", *walk("Recipe", sections)]))
    for name in order:
        section, told = sections[name], descriptions[name]
        keys = section.get("properties", {})
        if set(keys) != set(told) - {"_where"}:
            raise ExtensionError(
                f"recipe_keys.yaml, {name}: {set(keys) ^ (set(told) - {'_where'})} differ from the code"
            )
        yield f"\n## {told['_where']}\n\n{section.get('description', '').strip()}\n\n"
        yield "| key | value | default | meaning |\n|---|---|---|---|\n"
        for key, value in keys.items():
            default = "**required**" if key in section.get("required", []) else shown_default(value.get("default"))
            yield f"| `{key}` | {kind_of(value, sections)} | {default} | {escape(told[key])} |\n"


def walk(name: str, sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the sections below one, depth first."""
    for value in sections[name].get("properties", {}).values():
        for below in references(value):
            yield below
            yield from walk(below, sections)


def references(value: Any) -> Iterator[str]:
    """Yield the section names that a piece of schema points to."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield value["$ref"].rsplit("/", 1)[-1]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def kind_of(value: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """Return what a key takes, in words: type, allowed values, range."""
    if "$ref" in value:
        return "section"
    if "anyOf" in value:
        kinds = [kind_of(part, sections) for part in value["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if value.get("type") in ("array", "object"):
        return collection(value, sections)
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    word = "path" if value.get("format") == "path" else words.get(value.get("type", ""), "anything")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[limit]:g}" for limit, sign in signs.items() if limit in value]
    return " ".join([word, ", ".join(limits)]).strip()


def collection(value: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """Return what a list, a pair or a mapping holds."""
    if "prefixItems" in value:
        return "pair of " + kind_of(value["prefixItems"][0], sections)
    if value["type"] == "array":
        return "list of " + kind_of(value.get("items", {}), sections)
    patterns = value.get("patternProperties", {})
    inner = next(iter(patterns.values()), value.get("additionalProperties"))
    return f"mapping name: {kind_of(inner, sections)}" if isinstance(inner, Mapping) else "mapping"


def shown_default(value: Any) -> str:
    """Return a default as YAML would say it; a section's default is the defaults of its keys."""
    if value is None:
        return "none"
    if isinstance(value, Mapping) and value:
        return "see there"
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


# Rules


def rules_page() -> Iterator[str]:
    """Yield a summary of the rules that come with the package, then each rule's own documentation."""
    own = [point for point in entry_points(group="mashbill.weights") if point.value.startswith("mashbill.")]
    rules = [(point, point.load()) for point in sorted(own, key=lambda point: point.name)]
    yield "| `rule:` | scale | reads | options |\n|---|---|---|---|\n"
    for point, rule in rules:
        yield f"| `{point.name}` | {told(rule, 'scale', 'any')} | {told(rule, 'needs', '')} | {options_of(rule)} |\n"
    for point, rule in rules:
        directive = f".. autoclass:: {path_of(point, rule)}\n   :no-index:\n   :no-members:"
        yield f"\n## {point.name}\n\n```{{eval-rst}}\n{directive}\n```\n"


def told(rule: Any, name: str, default: str) -> str:
    """Return what a rule says about itself; where that depends on its options, the property's own words."""
    value = getattr(rule, name, default)
    if isinstance(value, property):
        return escape((value.__doc__ or "").replace("``", "`"))
    if isinstance(value, frozenset):
        return ", ".join(f"`{need}`" for need in sorted(value)) or "nothing"
    return str(value)


def options_of(rule: Any) -> str:
    """Return the constructor's options with their defaults."""
    if not dataclasses.is_dataclass(rule):
        return f"`{inspect.signature(rule)}`"
    fields = [field for field in dataclasses.fields(rule) if field.init]
    required = dataclasses.MISSING
    shown = [f"`{f.name}`" if f.default is required else f"`{f.name}={f.default!r}`" for f in fields]
    return escape(", ".join(shown)) or "none"


def path_of(point: EntryPoint, rule: Any) -> str:
    """Return the dotted path of what an entry point loads."""
    return f"{point.module}.{rule.__qualname__}"


# Errors and commands


def errors_page() -> Iterator[str]:
    """Yield every error class with its exit code and first line."""
    yield "| error | exit code | meaning |\n|---|---|---|\n"
    found = [
        thing for thing in vars(errors).values() if inspect.isclass(thing) and issubclass(thing, errors.MashbillError)
    ]
    for error in sorted(found, key=lambda error: error.exit_code):
        first = inspect.cleandoc(error.__doc__ or "").splitlines()[0]
        yield f"| `{error.__name__}` | {error.exit_code} | {escape(first)} |\n"


def command_page() -> Iterator[str]:
    """Yield every command with its arguments and options, as the command line itself declares them."""
    group: Any = get_command(app)
    yield "\n## mashbill\n\nBefore the command's name:\n\n" + "".join(options_table(group.params))
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"\n## mashbill {name}\n\n{inspect.cleandoc(command.help or '')}\n\n"
            yield from options_table(command.params)


def options_table(parameters: list[Any]) -> Iterator[str]:
    """Yield one row for each argument and option, or nothing if there is none."""
    shown = [parameter for parameter in parameters if not getattr(parameter, "hidden", False)]
    if shown:
        yield "| | meaning | |\n|---|---|---|\n"
    for parameter in shown:
        words = parameter.opts + parameter.secondary_opts
        name = ", ".join(f"`{word}`" for word in words) if words[0].startswith("-") else f"`{words[0].upper()}`"
        allowed = parameter.type_descriptor.annotation
        choices = ", ".join(f"`{choice}`" for choice in get_args(allowed)) if get_origin(allowed) is Literal else ""
        yield f"| {name} | {escape(getattr(parameter, 'help', None) or '')} | {choices} |\n"


# Modules


def api_page(package: str, modules: list[str] | None) -> str:
    """Return a page of ``automodule`` directives for the modules below a package, or for those named."""
    names = modules if modules is not None else sorted(below(package))
    described = [f"{package}.{name}" for name in names]
    lines = [package, "=" * len(package), ""]
    if modules is None:
        lines += [f".. automodule:: {package}", "   :no-members:", ""]
    for name in described:
        lines += [name, "-" * len(name), "", f".. automodule:: {name}", ""]
    return "\n".join(lines)


def below(package: str) -> Iterator[str]:
    """Yield the public modules below a package, dotted, those of inner packages too."""
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if module.name.startswith("_"):
            continue
        yield module.name
        if module.ispkg:
            yield from (f"{module.name}.{inner}" for inner in below(f"{package}.{module.name}"))


def escape(text: str) -> str:
    """Return text that stays in its table cell."""
    return " ".join(text.split()).replace("|", "\\|")
