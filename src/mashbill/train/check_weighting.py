"""Whether a recipe's weights can be what it asks for: rules, bounds, order, and the names they use."""

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mashbill import plugins
from mashbill.errors import MashbillError, Problem, did_you_mean
from mashbill.train.check_models import unknown_options
from mashbill.train.check_options import check_options
from mashbill.train.check_tables import Names, check_tables, no_teacher
from mashbill.train.loading import Loaded
from mashbill.train.recipe import Rule

SCALES = ("token", "task", "context")


READS_LABELS = ("bayes", "fixed_share", "camkd", "mtkdrl", "nemo_rl")
"""Our rules that weigh a teacher by what it says of a row's label; ``nemo_rl`` only with ``metric: ce``."""


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
        yield from check_options(loaded, key, rule, n_entries=len(names.labels) if names.labels else None)
        yield from check_tables(loaded, key, rule, names)
        yield from _features(loaded, key, rule)
        yield from _labels(loaded, key, rule, names)
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
    needs = [(key, f"the rule `{rule.rule}` needs") for key, rule in rules(loaded) if _reads_scores(rule)]
    if loaded.recipe.weighting.order == "scorecard":
        needs.append(("weighting.order", "`order: scorecard` needs"))
    return needs


def safety_needs(loaded: Loaded) -> list[str]:
    """Return the keys of everything in the weighting that reads measured safety."""
    default = {"hybrid": "safety", "ranked_safety": "safety"}
    keys = [
        key
        for key, rule in rules(loaded)
        if _reads_scores(rule) and rule.options.get("measure", default.get(rule.rule)) == "safety"
    ]
    return keys + (["weighting.order"] if loaded.recipe.weighting.order == "scorecard" else [])


def _reads_scores(rule: Rule) -> bool:
    if rule.rule == "kendall_optimum":
        return rule.options.get("losses", "measured") == "measured"
    unless = {"ranked_safety": "safety", "partition_of_unity": "weights", "hybrid": "scores"}.get(rule.rule)
    if unless is not None:
        return rule.options.get(unless) is None
    return rule.rule in ("performance", "inverse_loss")


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


def _features(loaded: Loaded, key: str, rule: Rule) -> Iterator[Problem]:
    """Check points in the space of the context features: anchors of contexts, and domains of teachers."""
    option = {"partition_of_unity": "anchors", "shift_distance": "domains"}.get(rule.rule, "")
    given = rule.options.get(option)
    if not isinstance(given, dict):
        return
    columns = loaded.recipe.data.feature_columns
    if not columns:
        what = f"{option} are points in the space of context features, and data.feature_columns is empty"
        yield loaded.problem(f"{key}.{option}", what, "name the numeric columns under data.feature_columns")
        return
    point_of = f"a list of {len(columns)} number(s), one for each of data.feature_columns"
    for name, value in given.items():
        where = f"{key}.{option}.{name}"
        if option == "anchors" and not _is_point(value, columns):
            yield loaded.problem(where, f"must be {point_of}")
        elif option == "domains" and not (
            isinstance(value, list) and value and all(_is_point(each, columns) for each in value)
        ):
            yield loaded.problem(where, f"must be a list of points, each {point_of}")


def _is_point(value: Any, columns: Sequence[str]) -> bool:
    return isinstance(value, list) and len(value) == len(columns)


def _labels(loaded: Loaded, key: str, rule: Rule, names: Names) -> Iterator[Problem]:
    reads = rule.rule in READS_LABELS and rule.options.get("metric", "ce") == "ce"
    if reads and names.has_labels is False:
        what = f"`{rule.rule}` weighs a teacher by what it says of a row's label, and no row of data.train has one"
        yield loaded.problem(key, what, "add labels to the rows, or take a rule that needs none")


def _variances(loaded: Loaded, teachers: list[str]) -> Iterator[Problem]:
    given = loaded.recipe.data.variance_columns
    for name in given:
        if name not in teachers:
            yield loaded.problem(f"data.variance_columns.{name}", no_teacher(name, teachers))
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
                yield loaded.problem(f"weighting.order[{i}][{j}]", no_teacher(name, teachers))
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
