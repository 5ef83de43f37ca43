"""Teachers that are models on this machine, made from what a recipe says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mashbill.teachers.bases import Bases
from mashbill.teachers.classifier import LocalClassifier
from mashbill.teachers.local import LocalCausalLM
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train import recipe
from mashbill.train.local_models import model_path


def local_teacher(
    spec: recipe.Teacher, vocabulary: Vocabulary, base: Path, *, labels: Sequence[str] | None, bases: Bases
) -> Teacher:
    """Return the teacher that a recipe describes.

    Args:
        spec: What the recipe says of it.
        vocabulary: The student's.
        base: Where relative paths begin.
        labels: The student's, if it is a classifier.
        bases: Open models that it may share.

    Raises:
        MashbillError: Something that it names is not there, or is not what a teacher can be.
        VocabularyError: Its ids or labels do not mean what the student's mean.
    """
    options = local_options(spec, base, bases)
    if labels is not None:
        return LocalClassifier(spec.id, student_labels=labels, mapping=spec.labels, outside=spec.outside, **options)
    return LocalCausalLM(spec.id, vocabulary=vocabulary, gguf_file=spec.gguf_file, top_k=spec.top_k, **options)


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
