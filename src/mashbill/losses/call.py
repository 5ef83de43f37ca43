"""The one call behind which the implementations of the loss stand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast, get_args

import torch

from mashbill import numerics
from mashbill.distributions.scores import Projected
from mashbill.losses import arguments, chunked, linear, native, native_rows, reference, sums, triton, triton_scope
from mashbill.losses.asking import Asked, Weigh
from mashbill.losses.objective import DivergenceName, LossOutput, Objective, PoolName, Tail
from mashbill.losses.rows import Answers
from mashbill.losses.weighing import Report, Weighing
from mashbill.shapes import Bool, Float, Int, Tensor

Impl = Literal["auto", "reference", "chunked", "native", "triton"]


# Sizes are compared by hand in arguments.check, which says which of the arguments does not fit.
def distillation_loss(
    student_logits: Float[Tensor, "B T V"] | Projected,
    teachers: Sequence[Answers],
    log_weights: Float[Tensor, "..."] | Weigh,
    *,
    mask: Bool[Tensor, "_ _"],
    labels: Int[Tensor, "_ _"] | None = None,
    classes: Int[Tensor, " _"] | None = None,
    divergence: DivergenceName = "forward_kl",
    beta: float = 0.5,
    skew: float = 0.1,
    alpha: float = 0.5,
    temperature: float = 1.0,
    pool: PoolName = "linear",
    tail: Tail = "student",
    cross_entropy: float = 0.0,
    scale: float = 1.0,
    impl: Impl = "auto",
    in_place: bool = False,
    look: bool = False,
) -> LossOutput:
    """Loss of a student against the pool of its teachers, summed over the positions that count.

    ``sum (1 - c) T^2 D(q, p_S) + c CE``, with ``q`` the pool of the softened teachers under the weights, ``p_S`` the
    softened student, ``D`` the divergence and ``CE`` the cross-entropy of the label at temperature 1. Reduced in
    float32 at least, whatever the dtype of the logits. Rows outside the mask are never read: their gradient is 0
    even if they hold NaN. ``T^2`` keeps the gradient of about the same size at temperatures above 1.

    Args:
        student_logits: ``logits[:, t]`` is about ``labels[:, t]``; ``-inf`` masks an entry. Hidden states and a head as
            :class:`mashbill.distributions.Projected` do as well: then the logits never exist in full, and gradients
            reach hidden states, head and bias.
        teachers: One distribution a position from each teacher, ``[B T ...]``, over the student's entries:
            log-probabilities, logits of any dtype as they come, hidden states and a head, or top-k lists.
        log_weights: ``[K B T]`` or ``[K B 1]``, nats, exp-summing to 1 over ``K``: on the CPU, anything else is refused
            where positions count. ``-inf`` switches a teacher off, whose NaN would still show.
            ``[C K B T]`` are weights for each class of entries; the mixture is then divided by its sum, as
            :func:`mashbill.pools.token_renormalise` does. A function is a rule that is asked between reading the
            teachers and mixing them, see :data:`mashbill.losses.Weigh`: nearly free where statistics apart cost every
            teacher a second time; :func:`mashbill.weights.between` makes one of a weight operator.
        mask: Positions that count, ``[B T]``.
        labels: ``[B T]``; ``-100`` means none, and such a position has only its divergence. On the CPU, others that are
            no entries are refused where positions count.
        classes: A class id for each entry, ``[V]``; ``-1`` means the last class of ``log_weights`` and none in the
            statistics, whose class masses it also decides.
        divergence: ``forward_kl`` is ``KL(q || p_S)``, ``reverse_kl`` is ``KL(p_S || q)``; all of them, with their
            options, are in :mod:`mashbill.losses.divergence`.
        beta: For ``js``: 0 is the forward KL, 1 the reverse KL, as in TRL.
        skew: For ``skew_kl``, ``KL(q || skew q + (1 - skew) p_S)``, and ``reverse_skew_kl``, as in DistiLLM.
        alpha: For ``alpha``: 1 is the forward KL, 0 the reverse KL, 1/2 four times the squared Hellinger distance.
        temperature: ``T``, of teachers and student alike; from 0.001 to 1000.
        pool: ``linear`` is ``sum w_k p_k``; ``log_linear`` the normalised geometric mean.
        tail: How the mass that a top-k teacher did not store lies: as the student's own, or evenly.
        cross_entropy: ``c``.
        scale: Factor on the total. ``scale=1/n`` and ``total.backward()`` need less memory than
            ``(total / n).backward()``, and are the same for float16.
        impl: ``chunked`` is fast and small; ``native`` is the same with its loops compiled, by a C compiler that must
            be there, and refuses calls that they do not cover; ``reference`` is plain and gives ``log_weights`` a
            gradient; ``triton`` has kernels for NVIDIA GPUs. ``auto`` is the fastest of those that can do it.
        in_place: Write the gradient over ``student_logits``, whose values are then lost: the loss needs next to no
            memory above its inputs. For one backward pass, and for logits that nobody else reads; those that a
            nonlinearity made, such as a soft cap, are read by its own backward pass, and PyTorch refuses then.
        look: Also return what was read on the way, as :attr:`LossOutput.seen`: statistics of teachers and student, and
            the weights.

    Raises:
        ValueError: Sizes do not fit together, weights do not sum to 1, or an option is outside its range.

    >>> import torch
    >>> from mashbill.distributions import Dense
    >>> student = torch.zeros(1, 1, 2, requires_grad=True)
    >>> teacher = Dense.from_probs(torch.tensor([[[0.75, 0.25]]]))
    >>> mask = torch.ones(1, 1, dtype=torch.bool)
    >>> loss = distillation_loss(student, [teacher], torch.zeros(1, 1, 1), mask=mask)
    >>> loss.total.backward()
    >>> round(loss.total.item(), 4), [round(x, 4) for x in student.grad.flatten().tolist()]
    (0.1308, [-0.25, 0.25])
    """
    objective = Objective(divergence, beta, temperature, pool, tail, cross_entropy, scale, skew=skew, alpha=alpha)
    arguments.check(student_logits, teachers, log_weights, mask=mask, labels=labels, classes=classes)
    if isinstance(log_weights, Tensor):
        log_weights = sums.whole(log_weights, numerics.reduction_dtype(_values(student_logits).dtype))
    # Gradients are made unscaled in float16, which has no room for small ones; the backward pass scales them.
    is_scaled_late = scale != 1 and torch.float16 in _dtypes(student_logits)
    if is_scaled_late:
        objective = replace(objective, scale=1.0)
    if not torch.is_grad_enabled():
        student_logits, log_weights = _detached(student_logits), _detached(log_weights)
    if cross_entropy > 0 and labels is None:
        raise ValueError(f"cross_entropy={cross_entropy!r} needs labels; pass labels=, or cross_entropy=0")
    run = _implementation(student_logits, teachers, log_weights, objective, impl=impl, in_place=in_place)
    weighing = _weighing(log_weights, classes, mask, len(teachers), look=look, like=_values(student_logits))
    if torch.compiler.is_compiling():
        # Fast as it is, and not all of it is PyTorch.
        run = cast(Callable[..., LossOutput], torch.compiler.disable(run))
    # Autocast would narrow products here and, being each thread's own, none in other threads.
    with torch.autocast(mask.device.type, enabled=False):
        output = run(student_logits, teachers, weighing, mask=mask, labels=labels, objective=objective)
    if is_scaled_late:
        output = replace(output, total=output.total * scale)
    return output if weighing.report is None else replace(output, seen=weighing.report.seen(mask.shape))


def _dtypes(student: Tensor | Projected) -> tuple[torch.dtype, ...]:
    return (student.hidden.dtype, student.weight.dtype) if isinstance(student, Projected) else (student.dtype,)


def _detached(value: Any) -> Any:
    """Return a value that asks for no gradient: nobody will, and making one costs as much as the loss."""
    if isinstance(value, Projected):
        return replace(value, **{name: _detached(getattr(value, name)) for name in ("hidden", "weight", "bias")})
    return value.detach() if isinstance(value, Tensor) else value


def _implementation(
    student: Tensor | Projected,
    teachers: Sequence[Answers],
    log_weights: Tensor | Weigh,
    objective: Objective,
    *,
    impl: Impl,
    in_place: bool,
) -> Callable[..., LossOutput]:
    """Choose who does it, or say who cannot."""
    if impl not in get_args(Impl):
        raise ValueError(f"impl={impl!r} must be one of {', '.join(get_args(Impl))}")
    wants_gradient = isinstance(log_weights, Tensor) and log_weights.requires_grad
    if wants_gradient and impl not in ("auto", "reference"):
        raise ValueError(
            f"impl={impl!r} gives log_weights no gradient; use impl='auto' or 'reference', or detach the weights"
        )
    if impl == "native" and (why := native.why_not()) is not None:
        raise ValueError(f"impl='native' cannot run here: {why}; use impl='auto'")
    if impl == "native" and (why := _why_not_native(student, teachers, log_weights, objective)) is not None:
        raise ValueError(f"impl='native' cannot do this: {why}; use impl='auto'")
    plain, allows_native = impl == "reference" or wants_gradient, impl in ("auto", "native")
    if isinstance(student, Projected):
        if in_place:
            raise ValueError("in_place=True needs student_logits, and hidden states with a head have none")
        if impl == "triton":
            raise ValueError("impl='triton' needs student_logits, and hidden states with a head have none")
        return _of_full_logits if plain else partial(linear.distillation_loss, native=allows_native)
    if in_place and (plain or not student.is_contiguous()):
        raise ValueError("in_place=True needs contiguous student_logits and an implementation other than the reference")
    if plain:
        return reference.distillation_loss
    has_kernels = impl in ("auto", "triton") and triton.is_available(student.device)
    if impl == "triton" and not has_kernels:
        raise ValueError(
            f"impl='triton' needs an NVIDIA GPU and Triton, and student_logits is on {student.device}; use "
            "impl='auto', or pip install 'mashbill[triton]' there"
        )
    by_class = isinstance(log_weights, Tensor) and log_weights.ndim == 4
    if has_kernels and (impl == "triton" or (not by_class and triton_scope.covers(student, teachers, objective))):
        return partial(triton.distillation_loss, in_place=in_place)
    return partial(chunked.distillation_loss, in_place=in_place, native=allows_native)


def _why_not_native(
    student: Tensor | Projected, teachers: Sequence[Answers], log_weights: Tensor | Weigh, objective: Objective
) -> str | None:
    if isinstance(log_weights, Tensor) and log_weights.ndim == 4:
        return "log_weights by class are not compiled"
    return native_rows.why_not(student, teachers, objective)


def _of_full_logits(student: Projected, *arguments: Any, **options: Any) -> LossOutput:
    return reference.distillation_loss(student.logits(), *arguments, **options)


def _weighing(
    log_weights: Tensor | Weigh, classes: Tensor | None, mask: Tensor, n_teachers: int, *, look: bool, like: Tensor
) -> Weighing:
    """Gather what decides the weights, and a blank report if one is wanted."""
    is_given = isinstance(log_weights, Tensor)
    weighing = Weighing.by(log_weights, mask) if is_given else Weighing(None, Asked(log_weights))
    n_classes = int(classes.max()) + 1 if classes is not None and (look or not is_given) else 0
    report = None
    if look:
        report = Report.blank(
            mask.numel(), n_teachers=n_teachers, n_classes=n_classes, n_kinds=weighing.n_kinds, like=like
        )
    return replace(weighing, classes=classes, n_classes=n_classes, report=report)


def _values(student: Tensor | Projected) -> Tensor:
    return student.hidden if isinstance(student, Projected) else student
