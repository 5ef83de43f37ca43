"""Teachers that are models on this machine, made from what a recipe says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mashbill.errors import VocabularyError
from mashbill.teachers.aligned import aligned
from mashbill.teachers.bases import Bases, model_folder
from mashbill.teachers.classifier import LocalClassifier
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.local import LocalCausalLM
from mashbill.teachers.opening import open_tokenizer
from mashbill.teachers.positions import Reading
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train import recipe
from mashbill.train.local_models import model_path


def local_teacher(
    spec: recipe.Teacher,
    vocabulary: Vocabulary,
    base: Path,
    *,
    labels: Sequence[str] | None,
    bases: Bases,
    tokenizer: Any = None,
    classes: EntryClasses = NO_CLASSES,
) -> Teacher:
    """Return the teacher that a recipe describes.

    Args:
        spec: What the recipe says of it.
        vocabulary: The student's.
        base: Where relative paths begin.
        labels: The student's, if it is a classifier.
        bases: Open models that it may share.
        tokenizer: The student's; for teachers that have another one.
        classes: Of the student's entries, whose mass it measures.

    Raises:
        MashbillError: Something that it names is not there, or is not what a teacher can be.
        VocabularyError: Its ids or labels do not mean what the student's mean.
    """
    options = {**local_options(spec, base, bases), "classes": classes}
    if spec.engine == "vllm":
        return _on_vllm(spec, vocabulary, options)
    if spec.align is not None:
        return _aligned(spec, vocabulary, tokenizer, options)
    if labels is not None:
        return LocalClassifier(spec.id, student_labels=labels, mapping=spec.labels, outside=spec.outside, **options)
    return LocalCausalLM(spec.id, vocabulary=vocabulary, gguf_file=spec.gguf_file, top_k=spec.top_k, **options)


def _aligned(spec: recipe.Teacher, vocabulary: Vocabulary, tokenizer: Any, options: dict[str, Any]) -> Teacher:
    if tokenizer is None:
        raise VocabularyError(
            f"teacher `{spec.id}` is to be aligned, but the student reads no tokens",
            where=f"teachers.{spec.id}.align",
            help="leave `align` out: labels are mapped by `labels`",
        )
    folder = model_folder(options["path"], spec.gguf_file, is_trusted=spec.trust_remote_code)
    own = open_tokenizer(folder, teacher_id=spec.id)

    def opened(columns: Reading) -> LocalCausalLM:
        return LocalCausalLM(
            spec.id, vocabulary=vocabulary, gguf_file=spec.gguf_file, top_k=spec.top_k, columns=columns, **options
        )

    return aligned(spec.id, tokenizer, own, len(vocabulary), opened, classes=options["classes"])


def _on_vllm(spec: recipe.Teacher, vocabulary: Vocabulary, options: dict[str, Any]) -> Teacher:
    from mashbill.teachers.vllm_offline import OfflineVllm

    shared = {name: options[name] for name in ("path", "source", "dtype", "is_trusted", "classes")}
    return OfflineVllm(spec.id, vocabulary=vocabulary, top_k=spec.top_k, options=spec.options, **shared)


def local_options(spec: recipe.Teacher, base: Path, bases: Bases) -> dict[str, Any]:
    """Return what every teacher with a model of its own is told, a model of the hub downloaded.

    Raises:
        MashbillError: The model cannot be had.
    """
    return {
        "path": model_path(spec, base, is_download_allowed=True),
        "source": None if spec.revision is None else str(spec.model),
        "adapter": None if spec.adapter is None else base / spec.adapter,
        "is_trusted": spec.trust_remote_code,
        "dtype": spec.dtype,
        "batch_size": spec.batch_size,
        "device": spec.device,
        "device_map": spec.device_map,
        "off_load": spec.off_load,
        "bases": bases,
    }
