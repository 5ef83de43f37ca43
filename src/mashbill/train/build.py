"""From the names in a recipe to the things they stand for: the weight operator and the teachers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mashbill import plugins
from mashbill.errors import MashbillError, VocabularyError
from mashbill.teachers.bases import Bases
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.labelled import LabelledTeacher
from mashbill.teachers.protocol import CallableTeacher, Teacher
from mashbill.train import recipe
from mashbill.train.endpoint_teachers import endpoint_teacher
from mashbill.train.local_teachers import local_teacher
from mashbill.train.protocol import Student
from mashbill.train.sample_files import sampled_teacher
from mashbill.train.stores import open_store
from mashbill.weights import simplex
from mashbill.weights.compose import product
from mashbill.weights.evidence import WeightOperator
from mashbill.weights.functions import make_rule
from mashbill.weights.order import SafetyOrder


def build_operator(weighting: recipe.Weighting, teachers: Sequence[str]) -> WeightOperator:
    """Return the product of a recipe's rules.

    Args:
        weighting: The recipe's section.
        teachers: Ids, in the order of the recipe.

    Raises:
        MashbillError: A rule does not exist, does not take its options, or the bounds or the order are impossible.
    """
    rules = {scale: _rule(scale, getattr(weighting, scale)) for scale in ("token", "task", "context")}
    if weighting.bounds is not None:
        low, high = weighting.bounds
        _called("weighting.bounds", simplex.effective_bounds, len(teachers), w_min=low, w_max=high)
    return _called(
        "weighting",
        product,
        **rules,
        temperatures=weighting.temperatures.model_dump(),
        order=_order(weighting, teachers),
        bounds=weighting.bounds,
        guard=weighting.guard,
    )


def needs_scorecard(operator: WeightOperator, weighting: recipe.Weighting) -> bool:
    """Say whether some rule, or the order, reads measured skill."""
    needs = getattr(operator, "needs", frozenset())
    return weighting.order == "scorecard" or any(need.startswith(("score:", "order")) for need in needs)


def build_teachers(
    given: Sequence[recipe.Teacher],
    student: Student,
    base: Path,
    *,
    data: recipe.Data | None = None,
    classes: EntryClasses = NO_CLASSES,
) -> list[Teacher]:
    """Return the recipe's teachers, each speaking the student's vocabulary.

    Args:
        given: What the recipe says of them.
        student: Whose vocabulary they have to speak.
        base: Where relative paths begin.
        data: What the columns of files of samples mean.
        classes: Of the student's entries, whose mass each of them measures.

    Raises:
        MashbillError: A plug-in does not exist or does not take its options, or a model cannot be loaded.
        VocabularyError: A teacher's entries do not mean what the student's mean.
    """
    bases = Bases()  # teachers that are adapters of one model share it
    shared = {"bases": bases, "data": data, "classes": classes}
    return [build_teacher(number, spec, student, base, **shared) for number, spec in enumerate(given)]


def build_teacher(
    number: int,
    spec: recipe.Teacher,
    student: Student,
    base: Path,
    *,
    bases: Bases | None = None,
    data: recipe.Data | None = None,
    classes: EntryClasses = NO_CLASSES,
) -> Teacher:
    """Return one of the recipe's teachers, the ``number``-th; one with a store answers from it.

    Args:
        number: Its place.
        spec: What the recipe says of it.
        student: Whose vocabulary it has to speak.
        base: Where relative paths begin.
        bases: Open models that it may share with others.
        data: What the columns of a file of samples mean.
        classes: Of the student's entries, whose mass it measures.
    """
    where = f"teachers[{number}]"
    if spec.store is not None:
        asked = spec.model_copy(update={"store": None})
        live = partial(build_teacher, number, asked, student, base, bases=bases, data=data, classes=classes)
        opened = live if spec.can_be_asked else None
        return open_store(spec, base / spec.store, student.vocabulary, opened, classes=classes)
    if spec.plugin is not None:
        return _plugin_teacher(where, spec, student, classes)
    if spec.endpoint is not None:
        return endpoint_teacher(spec, student, classes=classes)
    if spec.samples is not None:
        return sampled_teacher(spec, student, base, data, classes=classes)
    labels = student_labels(student) if student.kind == "classifier" else None
    tokenizer = getattr(student, "tokenizer", None)
    return local_teacher(
        spec, student.vocabulary, base, labels=labels, bases=bases or Bases(), tokenizer=tokenizer, classes=classes
    )


def _plugin_teacher(where: str, spec: recipe.Teacher, student: Student, classes: EntryClasses) -> Teacher:
    assert spec.plugin is not None, "the caller looked"
    if student.kind != "classifier":
        raise VocabularyError(
            f"teacher `{spec.id}` is a plug-in, which names labels, but the student predicts tokens",
            where=f"{where}.plugin",
            help="give it a `model`, or train a classifier",
        )
    predictor = _predictor(where, spec.plugin, spec.options)
    return LabelledTeacher(
        id=spec.id,
        predictor=predictor,
        student_labels=student_labels(student),
        mapping=spec.labels,
        outside=spec.outside,
        source=spec.plugin,
        options=spec.options,
        classes=classes,
    )


def _predictor(where: str, plugin: str, options: Mapping[str, Any]) -> CallableTeacher:
    try:
        predictor = _called(f"{where}.options", plugins.resolve("teachers", plugin), **options)
    except MashbillError:
        raise
    except Exception as error:  # whatever the plug-in's own code raises
        raise MashbillError(
            f"the plug-in `{plugin}` cannot start: {type(error).__name__}: {error}", where=f"{where}.plugin"
        ) from error
    missing = [name for name in ("labels", "predict") if not hasattr(predictor, name)]
    if missing:
        raise MashbillError(
            f"the plug-in `{plugin}` has no `{missing[0]}`",
            where=f"{where}.plugin",
            help="a teacher names its `labels` and has `predict(texts)`",
        )
    return predictor


def student_labels(student: Student) -> tuple[str, ...]:
    """Return a classifier's labels in the order of axis ``V``."""
    return tuple(student.vocabulary.tokens[index] for index in range(student.n_entries))


def _rule(scale: str, rule: recipe.Rule | None) -> WeightOperator | None:
    if rule is None:
        return None
    return _called(f"weighting.{scale}", make_rule, plugins.resolve("weights", rule.rule), rule.options)


def _order(weighting: recipe.Weighting, teachers: Sequence[str]) -> SafetyOrder | Literal["scorecard"] | None:
    if weighting.order is None:
        return None
    if isinstance(weighting.order, str):
        return "scorecard"
    place = {teacher: n for n, teacher in enumerate(teachers)}
    pairs = []
    for number, pair in enumerate(weighting.order):
        for name in pair:
            if name not in place:
                raise MashbillError(
                    f"no teacher `{name}`", where=f"weighting.order[{number}]", why=f"teachers: {', '.join(teachers)}"
                )
        pairs.append((place[pair[0]], place[pair[1]]))
    return _called("weighting.order", SafetyOrder, len(teachers), tuple(pairs))


def _called(where: str, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call something that a recipe names; what it says about its options becomes an error at that place."""
    try:
        return make(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise MashbillError(
            str(error), where=where, help="correct the value, or leave it out for its default"
        ) from error
