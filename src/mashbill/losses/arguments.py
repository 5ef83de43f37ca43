"""What a loss asks of its arguments, and the sentences for what does not fit.

All of it is looked at before anything is computed or overwritten. Where numbers lie on another device than the
processor's, only kinds and sizes are: a look at the numbers would stop the device.
"""

from collections.abc import Sequence

import torch

from mashbill.distributions.scores import Projected
from mashbill.losses import sums
from mashbill.losses.asking import Weigh
from mashbill.losses.rows import Answers
from mashbill.shapes import Bool, Float, Int, Tensor

NO_LABEL = -100


def check(
    student_logits: Tensor | Projected,
    teachers: Sequence[Answers],
    log_weights: Tensor | Weigh,
    *,
    mask: Tensor,
    labels: Tensor | None = None,
    classes: Tensor | None = None,
) -> None:
    """Raise unless all arguments are what they should be, and about the same ``B``, ``T``, ``V`` and ``K``.

    Raises:
        TypeError: One is of another kind.
        ValueError: Sizes do not fit together, weights do not sum to 1, or a label does not exist.
    """
    _check_kinds(student_logits, teachers, log_weights, mask)
    is_projected = isinstance(student_logits, Projected)
    n_rows, n_positions = student_logits.positions if is_projected else student_logits.shape[:2]
    n_entries = student_logits.n_entries if is_projected else student_logits.shape[2]
    place = (n_rows, n_positions)
    if n_entries == 0:
        raise ValueError(f"student_logits is [{_sizes(place)} V=0], but there must be at least one entry to tell apart")
    for k, teacher in enumerate(teachers):
        of_position = teacher.positions
        if of_position != place or teacher.n_entries != n_entries:
            raise ValueError(
                f"teachers[{k}] is [{_sizes(of_position)} V={teacher.n_entries}], "
                f"but student_logits is [{_sizes(place)} V={n_entries}]"
            )
    about = getattr(log_weights, "about", None)
    if about is not None and tuple(about) != (len(teachers), *place):
        raise ValueError(
            f"log_weights is a rule about evidence [K B T] = [{_sizes(about)}], but {len(teachers)} teachers and "
            f"student_logits [{_sizes(place)} ...] make [{len(teachers)} {_sizes(place)}]; make one for this batch"
        )
    if isinstance(log_weights, Tensor):
        _check_weights(log_weights, len(teachers), place, classes)
    if classes is not None and classes.shape != (n_entries,):
        raise ValueError(f"classes is [{_sizes(classes.shape)}], but student_logits is [{_sizes(place)} V={n_entries}]")
    for name, values in (("mask", mask), ("labels", labels)):
        if values is not None and values.shape != place:
            raise ValueError(f"{name} is [{_sizes(values.shape)}], but student_logits is [{_sizes(place)} ...]")
    _check_devices(
        student_logits=student_logits,
        **{f"teachers[{k}]": teacher for k, teacher in enumerate(teachers)},
        log_weights=log_weights,
        mask=mask,
        labels=labels,
        classes=classes,
    )
    if labels is not None:
        _check_labels(labels, mask, n_entries)
    if isinstance(log_weights, Tensor):
        _check_sums(log_weights, mask)


def _check_kinds(student_logits: object, teachers: object, log_weights: object, mask: Tensor) -> None:
    if not isinstance(student_logits, Tensor | Projected) or (
        isinstance(student_logits, Tensor) and student_logits.ndim != 3
    ):
        raise ValueError(f"student_logits is {_named(student_logits)}, but must be [B T V], or Projected")
    if not isinstance(teachers, Sequence):
        raise TypeError(f"teachers is {_named(teachers)}, but must be a list of teachers; pass a single one as [it]")
    if not teachers:
        raise ValueError("teachers=() must hold at least one teacher")
    for k, teacher in enumerate(teachers):
        if not isinstance(teacher, Answers):
            raise TypeError(f"teachers[{k}] is {_named(teacher)}, but must be Logits, Dense, Projected or TopK")
    if not isinstance(log_weights, Tensor) and not callable(log_weights):
        raise TypeError(f"log_weights is {_named(log_weights)}, but must be a tensor [K B T], or a rule to ask")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}, but must be torch.bool; pass mask.bool()")


def _check_weights(log_weights: Tensor, n_teachers: int, place: tuple[int, int], classes: Tensor | None) -> None:
    legal = ((n_teachers, *place), (n_teachers, place[0], 1))
    if log_weights.shape[-3:] not in legal or log_weights.ndim not in (3, 4):
        raise ValueError(
            f"log_weights is [{_sizes(log_weights.shape)}], but {n_teachers} teachers and student_logits "
            f"[{_sizes(place)} ...] need [{n_teachers} {_sizes(place)}] or [{n_teachers} {place[0]} 1], or that for "
            "each class of entries"
        )
    if log_weights.ndim == 4:
        if classes is None:
            raise ValueError(f"log_weights is [{_sizes(log_weights.shape)}], weights by class, which need classes=")
        low, high = int(classes.min()), int(classes.max())
        if low < -1 or high >= len(log_weights):
            raise ValueError(
                f"classes has ids from {low} to {high}, but log_weights is [{_sizes(log_weights.shape)}], "
                f"for classes 0 to {len(log_weights) - 1}"
            )


def _check_devices(**given: object) -> None:
    for name, value in given.items():
        parts = [value] if isinstance(value, Tensor) else vars(value).values() if isinstance(value, Answers) else ()
        if any(isinstance(part, Tensor) and part.is_meta for part in parts):
            raise ValueError(f"{name} is on the meta device, which holds no numbers; move it to another")


def _check_labels(labels: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], n_entries: int) -> None:
    if labels.device.type != "cpu" or labels.numel() == 0:
        return
    counted = labels.masked_fill(~mask, 0)
    low, high = (int(one) for one in counted.aminmax())
    if high >= n_entries:
        raise ValueError(f"labels has {high}, but student_logits has the entries 0 to {n_entries - 1}")
    if low < 0 and len(odd := counted[(counted < 0) & (counted != NO_LABEL)]) > 0:
        raise ValueError(f"labels has {int(odd[0])}, which is no entry; pass {NO_LABEL} where there is no label")


def _check_sums(log_weights: Float[Tensor, "*classes K B #T"], mask: Bool[Tensor, "B T"]) -> None:
    if (off := sums.off(log_weights, axis=-3)) is None:
        return
    counts = mask if log_weights.shape[-1] == mask.shape[-1] else mask.any(dim=-1, keepdim=True)
    off = (off & counts.to(off.device)).nonzero()
    if len(off) > 0:
        *of_class, row, position = off[0].tolist()
        place = ", ".join(map(str, [*of_class, ":", row, position]))
        sums.refuse(
            f"log_weights[{place}] are", log_weights[(*of_class, slice(None), row, position)], axis=log_weights.ndim - 3
        )


def _named(value: object) -> str:
    return f"[{_sizes(value.shape)}]" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _sizes(shape: Sequence[int]) -> str:
    return " ".join(str(n) for n in shape)
