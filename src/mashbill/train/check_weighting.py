"""Whether a recipe's weights can be what it asks for: rules, bounds, order, and the names they use."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mashbill import plugins
from mashbill.errors import MashbillError, Problem, did_you_mean
from mashbill.train.check_models import unknown_options
from mashbill.train.loading import Loaded
from mashbill.train.recipe import Rule

SCALES = ("token", "task", "context")


@dataclass(frozen=True)
class Names:
    """What the training rows name; None where they could not be read in full."""

    tasks: tuple[str, ...] | None = None
    contexts: tuple[str, ...] | None = None


def rules(loaded: Loaded) -> Iterator[tuple[str, Rule]]:
    """Yield ``(key, rule)`` for each scale that has a rule."""
    for scale in SCALES:
        rule = getattr(loaded.recipe.weighting, scale)
        if rule is not None:
            yield f"weighting.{scale}", rule


def check_weighting(loaded: Loaded, names: Names) -> Iterator[Problem]:
    """Find what is wrong with the ``weighting`` and ``sampling`` sections without importing any rule."""
    teachers = [teacher.id for teacher in loaded.recipe.teachers]
    for key, rule in rules(loaded):
        yield from _rule(loaded, key, rule)
        yield from _named_teachers(loaded, key, rule, teachers, names)
        yield from _features(loaded, key, rule)
    yield from _variances(loaded, teachers)
    yield from _bounds(loaded, len(teachers))
    yield from _order(loaded, teachers)
    if loaded.recipe.data.scorecard is None:
        for key, reason in scorecard_needs(loaded):
            help = "add `scorecard:` under data, a file of labelled rows that is neither trained nor tested on"
            yield loaded.problem(key, f"{reason} measured scores, and data.scorecard is missing", help)
    yield from _sampling(loaded, "task", loaded.recipe.sampling.task, names.tasks)
    yield from _sampling(loaded, "context", loaded.recipe.sampling.context, names.contexts)


def scorecard_needs(loaded: Loaded) -> list[tuple[str, str]]:
    """Return ``(key, who needs it)`` for everything in the weighting that reads measured scores."""
    needs = []
    for key, rule in rules(loaded):
        always = rule.rule in ("performance", "inverse_loss")
        unless = {"ranked_safety": "safety", "partition_of_unity": "weights"}.get(rule.rule)
        if always or (unless is not None and rule.options.get(unless) is None):
            needs.append((key, f"the rule `{rule.rule}` needs"))
    if loaded.recipe.weighting.order == "scorecard":
        needs.append(("weighting.order", "`order: scorecard` needs"))
    return needs


def check_constructible(loaded: Loaded) -> Iterator[Problem]:
    """Build every rule once and hold other plug-ins' options against their signatures. Imports the plug-ins."""
    from mashbill.weights.functions import make_rule  # imports torch, which the plug-ins need anyway

    for key, rule in rules(loaded):
        try:
            factory = plugins.resolve("weights", rule.rule)
            yield from unknown_options(loaded, key, rule.rule, rule.options, plugins.accepted(factory))
            make_rule(factory, rule.options)
        except (MashbillError, ValueError, TypeError) as error:
            yield loaded.problem(key, f"`{rule.rule}`: {getattr(error, 'what', None) or error}")
    for i, teacher in enumerate(loaded.recipe.teachers):
        if teacher.plugin is not None:
            known = plugins.accepted(plugins.resolve("teachers", teacher.plugin))
            yield from unknown_options(loaded, f"teachers[{i}].options", teacher.plugin, teacher.options, known)


def _rule(loaded: Loaded, key: str, rule: Rule) -> Iterator[Problem]:
    known = plugins.names("weights")
    if rule.rule not in known:
        what = f"no rule named `{rule.rule}`{did_you_mean(rule.rule, known)}; installed: {', '.join(known)}"
        yield loaded.problem(f"{key}.rule", what, "for a rule of your own, name its module with --plugin")
    else:
        yield from unknown_options(loaded, key, rule.rule, rule.options, plugins.options("weights", rule.rule))
    if rule.rule == "route" and loaded.recipe.data.teacher_column is None:
        what = "the rule `route` needs to know which teacher each row names"
        yield loaded.problem(f"{key}.rule", what, "set data.teacher_column, such as teacher_id")


def _named_teachers(loaded: Loaded, key: str, rule: Rule, teachers: list[str], names: Names) -> Iterator[Problem]:
    """Check the tables of our own rules, ``{teacher: w}`` or ``{task or context: {teacher: w}}``."""
    for option in {"static": ["weights"], "ranked_safety": ["safety"], "partition_of_unity": ["weights"]}.get(
        rule.rule, []
    ):
        table = rule.options.get(option)
        if not isinstance(table, dict):
            continue
        by = {"static": rule.options.get("by", "all"), "partition_of_unity": "context"}.get(rule.rule, "all")
        if by == "all":
            yield from _teacher_table(loaded, f"{key}.{option}", table, teachers)
            continue
        known = names.tasks if by == "task" else names.contexts
        for name, inner in table.items():
            if known is not None and name not in known:
                what = f"no row of data.train has the {by} `{name}`{did_you_mean(name, known)}"
                yield loaded.problem(f"{key}.{option}.{name}", what, f"they have: {', '.join(known[:12])}")
            if isinstance(inner, dict):
                yield from _teacher_table(loaded, f"{key}.{option}.{name}", inner, teachers)
            else:
                yield loaded.problem(f"{key}.{option}.{name}", f"must map teachers to numbers, because `by` is {by}")


def _teacher_table(loaded: Loaded, key: str, table: dict[str, Any], teachers: list[str]) -> Iterator[Problem]:
    for name, value in table.items():
        if name not in teachers:
            yield loaded.problem(f"{key}.{name}", _no_teacher(name, teachers))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield loaded.problem(f"{key}.{name}", f"must be a finite number, not `{value}`")


def _no_teacher(name: str, teachers: list[str]) -> str:
    return f"there is no teacher `{name}`{did_you_mean(name, teachers)}; teachers: {', '.join(teachers)}"


def _features(loaded: Loaded, key: str, rule: Rule) -> Iterator[Problem]:
    anchors = rule.options.get("anchors") if rule.rule == "partition_of_unity" else None
    if not isinstance(anchors, dict):
        return
    columns = loaded.recipe.data.feature_columns
    if not columns:
        what = "anchors are points in the space of context features, and data.feature_columns is empty"
        yield loaded.problem(f"{key}.anchors", what, "name the numeric columns under data.feature_columns")
        return
    for name, point in anchors.items():
        if not isinstance(point, list) or len(point) != len(columns):
            what = f"must be a list of {len(columns)} number(s), one for each of data.feature_columns"
            yield loaded.problem(f"{key}.anchors.{name}", what)


def _variances(loaded: Loaded, teachers: list[str]) -> Iterator[Problem]:
    given = loaded.recipe.data.variance_columns
    for name in given:
        if name not in teachers:
            yield loaded.problem(f"data.variance_columns.{name}", _no_teacher(name, teachers))
    missing = [name for name in teachers if given and name not in given]
    if missing:
        what = f"says nothing about teacher `{missing[0]}`"
        yield loaded.problem("data.variance_columns", what, "name a column for each teacher")
    for key, rule in rules(loaded):
        if rule.options.get("source") == "supplied" and rule.rule == "inverse_variance" and not given:
            what = "variances are to be supplied, and data.variance_columns is empty"
            yield loaded.problem(f"{key}.source", what, "name each teacher's column under data.variance_columns")


def _bounds(loaded: Loaded, n_teachers: int) -> Iterator[Problem]:
    if loaded.recipe.weighting.bounds is None:
        return
    low, high = loaded.recipe.weighting.bounds
    key = "weighting.bounds"
    if low > high:
        yield loaded.problem(key, f"the lower bound {low:g} is above the upper bound {high:g}")
    elif n_teachers * low > 1 + 1e-12:
        what = f"{n_teachers} teachers with at least {low:g} each need {n_teachers * low:g}, more than the 1 there is"
        yield loaded.problem(key, what, f"a lower bound of at most {1 / n_teachers:.4g} is possible")
    elif n_teachers * high < 1 - 1e-12:
        what = f"{n_teachers} teachers with at most {high:g} each reach {n_teachers * high:g}, less than the 1 needed"
        yield loaded.problem(key, what, f"an upper bound of at least {1 / n_teachers:.4g} is possible")


def _order(loaded: Loaded, teachers: list[str]) -> Iterator[Problem]:
    pairs = loaded.recipe.weighting.order
    if pairs is None or pairs == "scorecard":
        return
    graph = TopologicalSorter()
    for i, (safer, less_safe) in enumerate(pairs):
        graph.add(less_safe, safer)
        for j, name in enumerate((safer, less_safe)):
            if name not in teachers:
                yield loaded.problem(f"weighting.order[{i}][{j}]", _no_teacher(name, teachers))
    try:
        graph.prepare()
    except CycleError as error:
        what = f"the pairs (safer, less safe) run in a circle: {' > '.join(error.args[1])}"
        yield loaded.problem("weighting.order", what, "take one of these pairs out")


def _sampling(
    loaded: Loaded, axis: str, shares: Mapping[str, float], known: tuple[str, ...] | None
) -> Iterator[Problem]:
    for name in shares:
        if known is not None and name not in known:
            what = f"no row of data.train has the {axis} `{name}`{did_you_mean(name, known)}"
            yield loaded.problem(f"sampling.{axis}.{name}", what, f"they have: {', '.join(known[:12])}")
    total = sum(shares.values())
    is_full = known is not None and set(known) <= set(shares)
    if total > 1 + 1e-6 or (shares and is_full and total < 1 - 1e-6):
        help = "make them add up to 1, or to less with some name left out"
        yield loaded.problem(f"sampling.{axis}", f"the shares of {axis}s add up to {total:.6g}", help)
