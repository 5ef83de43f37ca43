"""Whether the teachers' answers can be what the loss takes them for; nothing but files of samples is opened."""

from collections.abc import Iterator

from mashbill.errors import DataError, MashbillError, Problem
from mashbill.teachers.folder import ModelFolder
from mashbill.train.loading import Loaded
from mashbill.train.local_models import model_path
from mashbill.train.recipe import Teacher
from mashbill.train.sample_rows import read_samples


def check_teaching(loaded: Loaded) -> Iterator[Problem]:
    """Find teachers that are to be aligned, sampled or softened and cannot be."""
    for i, teacher in enumerate(loaded.recipe.teachers):
        key = f"teachers[{i}]"
        yield from _aligned(loaded, key, teacher)
        yield from _sampled(loaded, key, teacher)
        yield from _softened(loaded, key, teacher)
        if loaded.recipe.distill.tail == "even" and _may_say_nothing(loaded, teacher):
            what = f"teacher `{teacher.id}` says nothing at some positions, and an even tail would teach evenness there"
            yield loaded.problem("distill.tail", what, "leave it out: `student` teaches nothing where nothing is said")


def _may_say_nothing(loaded: Loaded, teacher: Teacher) -> bool:
    return teacher.align is not None or (teacher.samples is not None and loaded.recipe.student.kind == "causal_lm")


def _aligned(loaded: Loaded, key: str, teacher: Teacher) -> Iterator[Problem]:
    if teacher.align is None:
        return
    if loaded.recipe.student.kind != "causal_lm":
        yield loaded.problem(f"{key}.align", "aligns tokens, but the student reads labels", "map labels by `labels`")
    elif teacher.model is None and (teacher.store is None or teacher.can_be_asked):
        what = "aligns a local `model`, or a store that was captured from one"
        yield loaded.problem(f"{key}.align", what, "leave it out, or give the teacher a `model`")


def _sampled(loaded: Loaded, key: str, teacher: Teacher) -> Iterator[Problem]:
    if teacher.samples is None:
        if teacher.smoothing:
            yield loaded.problem(f"{key}.smoothing", "smooths `samples`, and this teacher has none")
        return
    if teacher.store is not None:
        yield loaded.problem(f"{key}.store", "keeps answers that cost something; samples are kept already")
    try:
        read_samples(loaded.resolve(teacher.samples), loaded.recipe.data)
    except DataError as error:
        for one in error.problems or [Problem(error.where, error.what, error.help)]:
            is_told = not one.where or one.where in one.what
            yield loaded.problem(f"{key}.samples", one.what if is_told else f"{one.where}: {one.what}", one.help)


def _softened(loaded: Loaded, key: str, teacher: Teacher) -> Iterator[Problem]:
    temperature = loaded.recipe.distill.divergence.temperature
    if temperature == 1:
        return
    if teacher.samples is not None:
        what = f"samples of teacher `{teacher.id}` say nothing of its distribution at temperature {temperature:g}"
        help = "set `distill.divergence.temperature: 1`; samples drawn at another temperature are of that one"
        yield loaded.problem(f"{key}.samples", what, help)
    elif teacher.at_temperature == "refuse" and _is_list(loaded, teacher):
        yield loaded.problem(f"{key}.at_temperature", not_identifiable(teacher.id, temperature), WAYS_OUT)


WAYS_OUT = (
    "set `distill.divergence.temperature: 1`; or keep every entry of a local model, `top_k: null`; or go on with the "
    "interval on the report, `at_temperature: bound`"
)


def not_identifiable(teacher_id: str, temperature: float) -> str:
    """Return the sentence for a list whose softened tail nobody knows."""
    return (
        f"the answers of teacher `{teacher_id}` are lists with a tail, and what a tail weighs at temperature "
        f"{temperature:g} does not follow from its mass"
    )


def _is_list(loaded: Loaded, teacher: Teacher) -> bool:
    """Say whether the teacher is known to answer with part of its distribution; stores are looked at when they open."""
    if loaded.recipe.student.kind != "causal_lm":
        return False
    if teacher.store is not None or teacher.endpoint is not None or teacher.align is not None:
        return teacher.store is None
    if teacher.model is None or teacher.top_k is None:
        return False
    try:
        path = model_path(teacher, loaded.path.parent, is_download_allowed=False)
        folder = None if path is None else ModelFolder(path, teacher.gguf_file, is_trusted=teacher.trust_remote_code)
        n_entries = None if folder is None else folder.config.get("vocab_size")
    except MashbillError:
        return True
    return not isinstance(n_entries, int) or n_entries > teacher.top_k
