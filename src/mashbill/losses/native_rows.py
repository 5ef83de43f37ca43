"""The dense loss of a few rows by the compiled loops of :mod:`mashbill.losses.native`."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits, Projected
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.losses import native
from mashbill.losses.objective import Objective
from mashbill.losses.rows import Answers
from mashbill.losses.triton_scope import END, KINDS, is_near_an_end
from mashbill.shapes import Float, Int, Tensor

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_BLOCK, _BLOCK_FLOATS, _ROW_BYTES, _N_MEASURED = 512, 5, 40, 5  # as in native.c
_ENTROPY, _GINI = 1, 2
_MOST_TEACHERS = 64
_HOTTEST = 50.0  # above it a Dense teacher's exp(LOG_ZERO / T) is mass that must be taken away again


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("rows", "entries", "teachers", "classes")]


class _Rows(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), ("stride", ctypes.c_int64), ("dtype", ctypes.c_int32)]


class _Objective(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        *[(name, ctypes.c_float) for name in ("beta", "rest", "inverse_t", "weight", "weight_ce")],
        ("wanted", ctypes.c_int32),
        ("slack", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Result:
    """What :meth:`Worker.mix` returns beside the gradient.

    Attributes:
        divergence: Nats.
        cross_entropy: Nats; 0 without a label.
        left: Rows that were not done, whose logits are as they were; None if all were.
        student: Statistics of the student, if they were asked for.
    """

    divergence: Float[Tensor, " R"]
    cross_entropy: Float[Tensor, " R"]
    left: Int[Tensor, " H"] | None
    student: Statistics | None


def covers(
    logits: Float[Tensor, "*batch V"],
    teachers: Sequence[Answers],
    labels: Int[Tensor, "B T"] | None,
    objective: Objective,
) -> bool:
    """Return whether the loops can do a loss, whose labels exist: what they cannot is left to PyTorch."""
    if logits.numel() == 0 or (labels is not None and labels.device.type != "cpu"):
        return False
    return why_not(logits, teachers, objective) is None and native.is_available()


def why_not(student: Tensor | Projected, teachers: Sequence[Answers], objective: Objective) -> str | None:
    """Return what of a loss the loops do not cover, wherever they are; None if nothing."""
    if objective.kind not in KINDS:
        return f"divergence={objective.divergence!r} is not compiled, only {', '.join(KINDS)} are"
    if is_near_an_end(objective):
        return f"beta={objective.beta!r} is not compiled, only {END:g} to {1 - END:g} is"
    if objective.pool != "linear":
        return f"pool={objective.pool!r} is not compiled, only 'linear' is"
    if not objective.reads_teachers:
        return f"cross_entropy={objective.cross_entropy!r} reads no teacher"
    if len(teachers) > _MOST_TEACHERS:
        return f"teachers has {len(teachers)}, and there is room for {_MOST_TEACHERS}"
    is_projected = isinstance(student, Projected)
    found = [_unreadable("student_logits", student.hidden if is_projected else student, is_product=is_projected)]
    for k, one in enumerate(teachers):
        name = f"teachers[{k}]"
        if isinstance(one, TopK) or (isinstance(one, Projected) and not is_projected):
            found.append(f"{name} is {type(one).__name__}, which is not compiled here")
        elif isinstance(one, Dense) and objective.temperature > _HOTTEST:
            found.append(f"temperature={objective.temperature!r} is above {_HOTTEST:g}, and {name} is Dense")
        else:
            is_product = isinstance(one, Projected)
            found.append(_unreadable(name, one.hidden if is_product else values_of(one), is_product=is_product))
    return next(filter(None, found), None)


def _unreadable(name: str, values: Tensor, *, is_product: bool) -> str | None:
    if values.device.type != "cpu":
        return f"{name} is on {values.device}"
    if values.dtype not in _DTYPES:
        return f"{name} is {values.dtype}"
    # Products of float16 are taken in float32.
    if values.dtype == torch.float16 and not is_product and native.is_available() and not native.has_float16():
        return f"{name} is torch.float16, which the C compiler does not know"
    return None


@dataclass(frozen=True)
class Numbers:
    """Memory for statistics, which may be filled again and again.

    Attributes:
        wide: As the loops write them.
        narrow: As they are read.
        statistics: Views of those.
    """

    wide: Float[Tensor, "*batch M"]
    narrow: Float[Tensor, "*batch M"]
    statistics: Statistics

    @classmethod
    def blank(cls, *batch: int, n_classes: int) -> "Numbers":
        """Return memory that holds nothing yet."""
        wide = _blank(*batch, _N_MEASURED + n_classes, dtype=torch.float64)
        narrow = torch.empty_like(wide, dtype=torch.float32)
        entropy, gini, margin, max_logprob, label_logprob, *_ = narrow.unbind(-1)
        classes = narrow[..., _N_MEASURED:]
        return cls(wide, narrow, Statistics(entropy, entropy, gini, margin, max_logprob, label_logprob, classes))


class Worker:
    """Buffers and calls of one thread.

    :meth:`read` reads the teachers of some rows, once; :meth:`mix` mixes what was read last.

    Args:
        n_rows: Most rows at a time.
        n_entries: ``V``.
        n_teachers: ``K``.
        objective: One that :func:`covers`.
        classes: A class id for each entry; ``-1`` for none.
        n_classes: How many classes there are.
        gini: Gini variances are measured too; NaN otherwise.
        slack: By how much the weights of a row may sum to less or more than 1: beyond it, all rows are left.
    """

    def __init__(
        self,
        n_rows: int,
        n_entries: int,
        n_teachers: int,
        objective: Objective,
        *,
        classes: Int[Tensor, " V"] | None = None,
        n_classes: int = 0,
        gini: bool = True,
        slack: float = math.inf,
    ) -> None:
        n_blocks = -(-n_entries // _BLOCK)
        self._library = native.library()
        self._sizes = _Sizes(n_rows, n_entries, n_teachers, 0 if classes is None else n_classes)
        self._how = _Objective(
            KINDS.index(objective.kind),
            objective.beta,
            1 - objective.beta,
            1 / objective.temperature,
            objective.divergence_weight / objective.temperature,  # the chain rule takes one 1/T of the T^2
            objective.cross_entropy_weight,
            _GINI if gini else _ENTROPY,
            slack,
        )
        self._classes = None if classes is None else classes.to("cpu", torch.int32).contiguous()
        # Exponentials, sums of blocks and of rows, of all teachers; then two rows of scratch and the student's blocks.
        kept = n_teachers * n_rows
        self._kept = _blank(kept * n_entries), _blank(kept * n_blocks, _BLOCK_FLOATS)
        self._read = _blank(kept, _ROW_BYTES, dtype=torch.uint8)
        self._scratch = _blank(2, n_entries), _blank(n_blocks, _BLOCK_FLOATS)
        # Pointers of what stays are made once: a call should cost little beside its rows.
        self._read_from = [_pointer(self._classes), *map(_pointer, (*self._kept, self._read))]
        self._mix_from = [*self._read_from, *map(_pointer, self._scratch)]

    def numbers(self, n_rows: int) -> Numbers:
        """Return memory for statistics of the teachers at so many rows."""
        return Numbers.blank(self._sizes.teachers, n_rows, n_classes=self._sizes.classes)

    def read(
        self,
        teachers: Sequence[Float[Tensor, "R V"]],
        labels: Int[Tensor, " R"] | None,
        *,
        into: Numbers | None = None,
    ) -> None:
        """Read the teachers' scores; their statistics are measured if there is memory for them."""
        self._sizes.rows = len(teachers[0])
        self._library.mashbill_read(
            ctypes.byref(self._sizes),
            ctypes.byref(self._how),
            (_Rows * len(teachers))(*[_rows(one) for one in teachers]),
            _pointer(labels),
            *self._read_from,
            None if into is None else _pointer(into.wide),
        )
        if into is not None:
            into.narrow.copy_(into.wide)

    def mix(
        self,
        logits: Float[Tensor, "R V"],
        log_weights: Float[Tensor, "K R"],
        labels: Int[Tensor, " R"] | None,
        *,
        out: Float[Tensor, "R V"],
        measures: bool = False,
    ) -> Result:
        """Return the loss of the student's rows against what was read; its gradient goes to ``out``, any dtype."""
        # What is pointed at must have a name until the call is over.
        weights = log_weights.detach().to(torch.float32).contiguous()
        values = _blank(2, len(logits), dtype=torch.float64)
        done = _blank(len(logits), dtype=torch.bool)
        measured = Numbers.blank(len(logits), n_classes=self._sizes.classes) if measures else None
        n_left = self._library.mashbill_mix(
            ctypes.byref(self._sizes),
            ctypes.byref(self._how),
            ctypes.byref(_rows(logits)),
            ctypes.byref(_rows(out)),
            _pointer(weights),
            _pointer(labels),
            *self._mix_from,
            _pointer(values),
            None if measured is None else _pointer(measured.wide),
            _pointer(done),
        )
        if measured is not None:
            measured.narrow.copy_(measured.wide)
        left = (~done).nonzero().squeeze(1) if n_left else None
        divergence, cross_entropy = values.float().unbind()
        return Result(divergence, cross_entropy, left, None if measured is None else measured.statistics)

    def add(self, q: Float[Tensor, "R V"], teacher: Float[Tensor, "R V"], log_weight: Float[Tensor, " R"]) -> None:
        """Add ``w softmax(z / T)`` of one teacher to ``q``, float32 and side by side; forgets what was read."""
        self._sizes.rows = len(q)
        weights = log_weight.to(torch.float32).contiguous()
        self._library.mashbill_add(
            ctypes.byref(self._sizes),
            ctypes.byref(self._how),
            ctypes.byref(_rows(teacher)),
            _pointer(weights),
            *map(_pointer, self._kept),
            _pointer(q),
        )


def values_of(teacher: Dense | Logits) -> Float[Tensor, "*batch V"]:
    """Return a teacher's scores."""
    return teacher.logprobs if isinstance(teacher, Dense) else teacher.values


def _rows(values: Float[Tensor, "R V"]) -> _Rows:
    """Say where some rows are; their entries must lie side by side."""
    return _Rows(values.data_ptr(), values.stride(0), _DTYPES[values.dtype])


def _blank(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return memory of the processor, wherever PyTorch would put a tensor by default."""
    return torch.empty(*sizes, dtype=dtype, device="cpu")


def _pointer(values: Tensor | None) -> ctypes.c_void_p | None:
    return None if values is None else ctypes.c_void_p(values.data_ptr())
