"""Opening what lies in a model folder, through ``transformers``, without network.

Code that comes with a model runs only where the folder is trusted: see :mod:`mashbill.teachers.folder`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from mashbill.errors import MashbillError
from mashbill.shapes import Int, Tensor
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.placing import Place

DType = Literal["float32", "bfloat16", "float16"]


def open_tokenizer(folder: ModelFolder, *, teacher_id: str) -> Any:
    """Return the folder's tokenizer.

    Raises:
        MashbillError: It cannot be opened.
    """
    return _from_pretrained("AutoTokenizer", folder, teacher_id)


def open_model(auto_class: str, folder: ModelFolder, *, teacher_id: str, dtype: DType, place: Place) -> Any:
    """Return the folder's model, ready to answer: evaluation mode, no gradients.

    Raises:
        MashbillError: It cannot be opened, or its files lack some of its weights.
    """
    safely: dict[str, Any] = {} if folder.gguf_file else {"use_safetensors": True}
    safely |= place.options
    model, report = _from_pretrained(
        auto_class, folder, teacher_id, dtype=getattr(torch, dtype), output_loading_info=True, **safely
    )
    if missing := sorted(report["missing_keys"]):
        raise MashbillError(
            f"the weights of teacher `{teacher_id}` are incomplete: {len(missing)} tensors are missing "
            f"(first: {missing[0]})",
            where=f"teachers.{teacher_id} ({folder.path})",
            why="a teacher with random weights would teach noise",
            help=f"the folder must hold a whole model for {auto_class.removeprefix('Auto')}",
        )
    if place.device_map is None:
        model = model.to(place.device)
    return model.eval().requires_grad_(requires_grad=False)


def context_length(config: Any) -> int | None:
    """Return how many tokens a model of this configuration can read at once; None if nothing bounds it.

    Positions that are stretched after training count as far as the configuration stretches them.
    """
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    stretch = getattr(text, "rope_parameters", None) or {}
    trained = stretch.get("original_max_position_embeddings") or most
    return max(most, int(trained * float(stretch.get("factor") or 1))) if isinstance(stretch, dict) else most


def by_length(lengths: Int[Tensor, " B"], batch_size: int) -> Iterator[Int[Tensor, " b"]]:
    """Yield row indices in groups of similar length, longest first; rows of length 0 take no part.

    The longest go first so that memory runs out at once or not at all.
    """
    order = lengths.argsort(descending=True, stable=True)
    asked = order[: int((lengths > 0).sum())]
    if len(asked):  # split() gives one empty group of nothing
        yield from asked.split(batch_size)


def _from_pretrained(auto_class: str, folder: ModelFolder, teacher_id: str, **options: Any) -> Any:
    import transformers  # takes seconds, and only a local model needs it

    if folder.gguf_file is not None:
        options["gguf_file"] = folder.gguf_file
    try:
        with _quiet(transformers.utils.logging):
            return getattr(transformers, auto_class).from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=folder.is_trusted, **options
            )
    except Exception as error:  # transformers raises whatever its parts raise
        raise MashbillError(
            f"teacher `{teacher_id}` cannot be opened: {type(error).__name__}: {error}",
            where=f"teachers.{teacher_id} ({folder.path})",
            help=f"check that transformers.{auto_class}.from_pretrained opens this folder",
        ) from error


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Switch progress bars off for a while; the command draws its own."""
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
