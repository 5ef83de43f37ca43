"""Whether the options of our own rules are of the right kind and size, told from source text without torch.

Not covered: what only a rule's own code knows, such as an upper limit; rules are built before any work is done.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mashbill import plugins
from mashbill.errors import Problem, did_you_mean
from mashbill.plugins import Option
from mashbill.train.loading import Loaded
from mashbill.train.recipe import Rule


def check_options(loaded: Loaded, key: str, rule: Rule, *, n_entries: int | None) -> Iterator[Problem]:
    """Find options of one of our own rules that are missing, of the wrong kind, or do not fit the recipe.

    Args:
        loaded: The recipe.
        key: Where the rule stands.
        rule: The rule.
        n_entries: Number of the student's labels; None if it is not known.
    """
    declared = plugins.declared_options("weights", rule.rule) or {}
    sizes = _sizes(loaded, rule, n_entries)
    for name, option in declared.items():
        if name in rule.options:
            wrong = _wrong_kind(rule.options[name], option) or _wrong_size(rule.options[name], sizes.get(name))
            if wrong:
                yield loaded.problem(f"{key}.{name}", wrong)
        elif option.is_required:
            help = f"set it to {sizes[name][0]}, {sizes[name][1]}" if name in sizes else "see the page of the rules"
            yield loaded.problem(key, f"the rule `{rule.rule}` needs the option `{name}`", help)


def _sizes(loaded: Loaded, rule: Rule, n_entries: int | None) -> dict[str, tuple[int, str]]:
    """Return the sizes that learned rules have to be told, with what each one counts."""
    sizes = {"n_teachers": (len(loaded.recipe.teachers), "the number of teachers")}
    if n_entries is not None:
        sizes["n_entries"] = (n_entries, "the number of labels")
    if rule.options.get("reads", "features") == "features":
        sizes["n_features"] = (len(loaded.recipe.data.feature_columns), "the number of data.feature_columns")
    elif n_entries is not None:
        sizes["n_features"] = (n_entries, "the number of labels, because it reads the student")
    return sizes


def _wrong_size(value: Any, size: tuple[int, str] | None) -> str:
    if size is None or value == size[0]:
        return ""
    return f"is {value}, but must be {size[0]}, {size[1]}" + ("; name some there" if size[0] == 0 else "")


def _wrong_kind(value: Any, option: Option) -> str:
    """Say what is wrong with a value; nothing if its kind is one that the annotation allows."""
    if option.choices:
        if value in option.choices:
            return ""
        choices = [str(choice) for choice in option.choices]
        return f"must be one of {', '.join(choices)}, not {_shown(value)}{did_you_mean(str(value), choices)}"
    kinds = [kind.strip() for kind in _outer(option.annotation).split("|")]
    if value is None and "None" in kinds:
        return ""
    for kind in kinds:
        if kind in _KINDS and _KINDS[kind][0](value):
            return _not_allowed(value, kind)
    known = [_KINDS[kind][1] for kind in kinds if kind in _KINDS]
    return f"must be {' or '.join(known)}, not {_shown(value)}" if known else ""


def _not_allowed(value: Any, kind: str) -> str:
    if kind == "Number" and not math.isfinite(value):
        return f"must be a finite number, not {_shown(value)}"
    if kind in ("Number", "int") and value < 0:  # no option of our rules means anything below 0
        return f"must not be negative, and is {value}"
    return ""


def _outer(annotation: str) -> str:
    """Return a type without what stands in brackets: ``Mapping[str, int | None] | None`` is ``Mapping | None``."""
    text, depth = "", 0
    for character in annotation:
        depth += (character == "[") - (character == "]")
        text += character if depth == 0 and character != "]" else ""
    return text


def _shown(value: Any) -> str:
    """Return a value as a recipe writes it."""
    if value is None:
        return "`null`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS = {
    "Number": (_is_number, "a number"),
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "a word"),
    "Mapping": (lambda value: isinstance(value, Mapping), "a mapping of names to values"),
    "Shares": (lambda value: isinstance(value, Mapping), "a mapping of teachers to weights"),
    "Sequence": (lambda value: isinstance(value, Sequence) and not isinstance(value, str), "a list"),
}
