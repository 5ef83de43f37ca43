"""Whether the models that a recipe names can be there at all; nothing of a model but its configuration is read.

Not covered: whether vocabularies agree, which needs the tokenizers; that is checked before the first step.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mashbill import plugins
from mashbill.errors import MashbillError, Problem, did_you_mean
from mashbill.teachers.folder import ModelFolder
from mashbill.train.endpoint_teachers import check_endpoint
from mashbill.train.label_list import read_labels
from mashbill.train.loading import Loaded
from mashbill.train.local_models import mistakes
from mashbill.train.recipe import Teacher

_HEADS = {"causal_lm": "ForCausalLM", "classifier": "ForSequenceClassification"}
TRACKERS = {
    "azure_ml": "azureml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Names for ``report_to`` that transformers knows, with the package that each one needs."""


def check_models(loaded: Loaded, labels: Sequence[str] | None, *, is_captured: bool) -> Iterator[Problem]:
    """Find what is wrong with the student, the teachers and the trackers.

    Args:
        loaded: The recipe.
        labels: The student's labels; None for a language model or where they could not be read.
        is_captured: Stores that the recipe names must be there.
    """
    yield from _student(loaded)
    counts = Counter(teacher.id for teacher in loaded.recipe.teachers)
    for i, teacher in enumerate(loaded.recipe.teachers):
        first = next(j for j, other in enumerate(loaded.recipe.teachers) if other.id == teacher.id)
        if counts[teacher.id] > 1 and i != first:
            yield loaded.problem(f"teachers[{i}].id", f"the id `{teacher.id}` is already that of teachers[{first}]")
        yield from _teacher(loaded, f"teachers[{i}]", teacher, labels)
        if teacher.endpoint is not None:
            is_asked = teacher.store is None or not is_captured
            key, has_store = f"teachers[{i}].endpoint", teacher.store is not None
            yield from check_endpoint(loaded, key, teacher.endpoint, has_store=has_store, is_asked=is_asked)
        if is_captured and teacher.store is not None:
            yield from _store(loaded, f"teachers[{i}].store", teacher.store)
    yield from _trackers(loaded)


def student_labels(loaded: Loaded) -> tuple[str, ...] | None:
    """Return the labels of a classifier student: the recipe's, or else those in its model's configuration.

    Raises:
        MashbillError: There are none, they cannot be read, or a label stands there twice.
    """
    student = loaded.recipe.student
    if student.kind != "classifier":
        return None
    given = student.labels
    if given is None:
        given = _labels_of(loaded.resolve(student.model)) if student.model is not None else ()
    return read_labels(loaded.resolve(given) if isinstance(given, Path) else given)


def _student(loaded: Loaded) -> Iterator[Problem]:
    student = loaded.recipe.student
    if student.architecture is not None:
        yield from _plugin(loaded, "students", "student.architecture", student.architecture)
        yield from unknown_options(
            loaded,
            "student.options",
            student.architecture,
            student.options,
            _without(plugins.options("students", student.architecture), "labels"),
        )
        if student.kind != "classifier":
            yield loaded.problem("student.architecture", "builds classifiers; a causal_lm needs `model` or `config`")
        if student.peft is not None:
            yield loaded.problem("student.peft", "adapters need a transformers model, not an architecture of our own")
    elif student.options:
        yield loaded.problem("student.options", "are those of an `architecture`, and none is given")
    if student.config is not None and not isinstance(student.config.get("model_type"), str):
        yield loaded.problem("student.config", "needs `model_type`, such as `llama`")
    if student.model is not None:
        yield from _folder(loaded, "student.model", student.model, student.gguf_file, student.kind)
    if student.tokenizer is not None:
        yield from _tokenizer(loaded, student.tokenizer)
    if student.peft is not None and find_spec("peft") is None:
        yield loaded.problem("student.peft", "the package `peft` is not installed", "pip install 'mashbill[peft]'")
    kinds = ("classification",) if student.kind == "classifier" else ("text", "messages", "prompt_completion")
    if loaded.recipe.data.format not in kinds:
        what = f"`{loaded.recipe.data.format}` does not fit a student of the kind {student.kind}"
        yield loaded.problem("data.format", what, f"use one of: {', '.join(kinds)}")


def _teacher(loaded: Loaded, key: str, teacher: Teacher, labels: Sequence[str] | None) -> Iterator[Problem]:
    kind = loaded.recipe.student.kind
    if teacher.plugin is not None:
        yield from _plugin(loaded, "teachers", f"{key}.plugin", teacher.plugin)
        yield from unknown_options(
            loaded, f"{key}.options", teacher.plugin, teacher.options, plugins.options("teachers", teacher.plugin)
        )
        if kind == "causal_lm":
            what = "a plug-in teacher says labels, but the student is a causal_lm"
            yield loaded.problem(f"{key}.plugin", what, "give it a local `model` with the student's tokenizer")
    elif teacher.options and teacher.engine == "transformers":
        yield loaded.problem(f"{key}.options", "are those of a `plugin` or an `engine`, and this teacher has none")
    for name, what, help in mistakes(teacher, loaded.path.parent, kind):
        yield loaded.problem(f"{key}.{name}", what, help)
    if kind == "causal_lm" and teacher.labels:
        yield loaded.problem(f"{key}.labels", "maps labels, but the student is a causal_lm")
    if labels is None:
        return
    for native, label in teacher.labels.items():
        if label not in labels:
            what = f"`{label}` is none of the student's labels{did_you_mean(label, labels)}"
            yield loaded.problem(f"{key}.labels.{native}", what, f"the student's labels: {_some(labels)}")
    native = _labels_of(loaded.resolve(teacher.model)) if teacher.model is not None else ()
    if native and not any(teacher.labels.get(label, label) in labels for label in native):
        what = f"has no label in common with the student: it says {_some(native)}; the student says {_some(labels)}"
        yield loaded.problem(key, what, "map its labels: `labels: {its label: student's label}`")


def _store(loaded: Loaded, key: str, path: Path) -> Iterator[Problem]:
    folder = loaded.resolve(path)
    if not any(list(folder.glob(pattern)) for pattern in ("store.json", "*/store.json")):
        yield loaded.problem(key, f"no store at `{folder}`", f"capture it: mashbill capture {loaded.path.name}")


def _folder(loaded: Loaded, key: str, path: Path, gguf_file: str | None, kind: str) -> Iterator[Problem]:
    try:
        folder = ModelFolder(loaded.resolve(path), gguf_file)
        config = folder.config
    except MashbillError as error:
        yield loaded.problem(key, error.what + (f": {error.why}" if error.why else ""), error.help)
        return
    heads = [str(name) for name in config.get("architectures") or ()]
    others = [head for other, head in _HEADS.items() if other != kind]
    wrong = [name for name in heads if any(name.endswith(head) for head in others)]
    if wrong:
        yield loaded.problem(key, f"holds a {wrong[0]}, but the student is a {kind}")


def _tokenizer(loaded: Loaded, path: Path) -> Iterator[Problem]:
    folder = loaded.resolve(path)
    if not folder.is_dir():
        yield loaded.problem("student.tokenizer", f"no folder at `{folder}`", "give a folder with tokenizer.json")
    elif not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        yield loaded.problem("student.tokenizer", f"neither tokenizer.json nor tokenizer_config.json in `{folder}`")


def _plugin(loaded: Loaded, kind: plugins.Kind, key: str, name: str) -> Iterator[Problem]:
    known = plugins.names(kind)
    if name not in known:
        what = f"no {kind} plug-in named `{name}`{did_you_mean(name, known)}; installed: {', '.join(known) or 'none'}"
        yield loaded.problem(key, what, "install the package that provides it, or name its module with --plugin")


def unknown_options(
    loaded: Loaded, key: str, name: str, given: Mapping[str, Any], known: Collection[str] | None
) -> Iterator[Problem]:
    """Find options of the plug-in ``name`` that it does not take; ``known`` is None where it may take any."""
    for option in given:
        if known is not None and option not in known:
            guess = did_you_mean(option, known) or f"; it takes: {', '.join(known) or 'none'}"
            yield loaded.problem(f"{key}.{option}", f"`{name}` has no option `{option}`{guess}")


def _without(names: Sequence[str] | None, name: str) -> list[str] | None:
    return None if names is None else [other for other in names if other != name]


def _labels_of(folder: Path) -> tuple[str, ...]:
    """Return the labels in a model's configuration; none if there are none, or only ``LABEL_0`` and the like."""
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label") or {}
        labels = tuple(str(named[key]) for key in sorted(named, key=int))
    except (OSError, ValueError, AttributeError, TypeError):
        return ()
    return () if all(label.startswith("LABEL_") for label in labels) else labels


def _trackers(loaded: Loaded) -> Iterator[Problem]:
    for i, name in enumerate(loaded.recipe.report_to):
        if name not in TRACKERS:
            guess = did_you_mean(name, TRACKERS) or f"; known: {', '.join(TRACKERS)}"
            yield loaded.problem(f"report_to[{i}]", f"`{name}` is no tracker that transformers knows{guess}")
        elif TRACKERS[name] and find_spec(TRACKERS[name]) is None:
            what = f"the package `{TRACKERS[name]}` is not installed"
            yield loaded.problem(f"report_to[{i}]", what, f"pip install {TRACKERS[name]}, or take it out")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
