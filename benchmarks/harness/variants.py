"""Who takes part: our loss, the plain ones, and floors that no loss can go below."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch

from harness.forms import Form, Inputs, naive
from mashbill.distributions.scores import Logits, Projected
from mashbill.losses.asking import Weigh
from mashbill.losses.call import distillation_loss

Kind = Literal["ours", "plain", "peer", "floor"]


class AbsentError(Exception):
    """A competitor is not installed, or cannot run here."""


@dataclass(frozen=True)
class Variant:
    """One way to compute the loss.

    Attributes:
        name: In the tables.
        kind: ``floor`` is work that every loss must do, and no loss; it is timed and not checked.
        forms: Where it can take part.
        load: Returns the function of the inputs; imports happen here. Raises :class:`AbsentError`.
        sums_teachers: The value is ``sum_k w_k D(p_k, p_S)``, not ``D(sum_k w_k p_k, p_S)``. For the forward KL the two
            differ by a constant and have the same gradient; for other divergences they are two losses.
        compiled: The first calls compile.
        in_place: Writes over the student's logits.
        dtype: The only one in which this takes part, if any.
        most: Logits of all teachers together, ``K N V``, above which nobody wants to wait for it.
    """

    name: str
    kind: Kind
    forms: tuple[Form, ...]
    load: Callable[[], Callable[[Inputs], Any]]
    sums_teachers: bool = False
    compiled: bool = False
    in_place: bool = False
    dtype: str | None = None
    most: float = math.inf


ALL: tuple[Form, ...] = ("logits", "hidden", "topk", "stored")


def run(function: Callable[[Inputs], Any], inputs: Inputs, *, floor: bool = False) -> Any:
    """Compute a loss and its gradients by everything that the form gives the student."""
    if floor:
        return function(inputs)
    return torch.autograd.grad(function(inputs), inputs.leaves)


def student_of(inputs: Inputs) -> Any:
    """Return the student as our loss takes it."""
    if inputs.hidden is None:
        return inputs.logits
    assert inputs.head is not None
    return Projected(inputs.hidden, inputs.head)


def teachers_of(inputs: Inputs) -> list[Any]:
    """Return the teachers as our loss takes them."""
    if inputs.stored:
        return list(inputs.stored)
    if inputs.teacher_logits:
        return [Logits(values) for values in inputs.teacher_logits]
    return [Projected(*pair) for pair in zip(inputs.teacher_hidden, inputs.teacher_heads, strict=True)]


def ours(
    inputs: Inputs, *, impl: str = "auto", in_place: bool = False, log_weights: torch.Tensor | Weigh | None = None
) -> torch.Tensor:
    """Call the library as a user would."""
    options: dict[str, Any] = {"impl": impl, "divergence": inputs.divergence, "scale": 1 / inputs.rows}
    if in_place:
        options["in_place"] = True
    weights = inputs.log_weights if log_weights is None else log_weights
    return distillation_loss(student_of(inputs), teachers_of(inputs), weights, mask=inputs.mask, **options).total


def _in_place() -> Callable[[Inputs], Any]:
    return partial(ours, in_place=True)


@cache
def _compiled() -> Callable[[Inputs], Any]:
    # One graph for each shape: sizes that change would be compiled as unknowns, which is slower.
    return torch.compile(naive, dynamic=False)


def products(inputs: Inputs, *, dtype: torch.dtype | None = None) -> Callable[[], None]:
    """Return the products alone: three of the student's head (logits, and both gradients), one a teacher.

    Results go to tensors that exist, and another ``dtype`` is converted to beforehand: fresh memory would cost more
    than some of the products.
    """
    assert inputs.hidden is not None
    assert inputs.head is not None
    hidden, head = inputs.hidden.detach()[0].to(dtype), inputs.head.detach().to(dtype)
    scores = torch.empty(len(hidden), len(head), dtype=hidden.dtype, device=hidden.device)
    grad_hidden, grad_head = torch.empty_like(hidden), torch.empty_like(head)
    pairs = zip(inputs.teacher_hidden, inputs.teacher_heads, strict=True)
    teachers = [(one[0].to(dtype), weight.to(dtype)) for one, weight in pairs]

    def multiply() -> None:
        for one, weight in teachers:
            torch.mm(one, weight.T, out=scores)
        torch.mm(hidden, head.T, out=scores)
        torch.mm(scores, head, out=grad_hidden)
        torch.mm(scores.T, hidden, out=grad_head)

    return multiply


def softmax_pass(inputs: Inputs) -> Callable[[], None]:
    """Return one log-sum-exp and softmax over the student's logits, into a tensor that exists."""
    assert inputs.logits is not None
    rows = inputs.logits.detach()[0]
    out = torch.empty_like(rows)

    def normalise() -> None:
        torch.softmax(rows, dim=-1, out=out)

    return normalise


def two_passes(inputs: Inputs, *, new: bool = False) -> Callable[[], None]:
    """Return what a cross-entropy does in plain PyTorch: a log-sum-exp, then the softmax that is its gradient.

    The softmax goes to a tensor that exists, as in place, or to a ``new`` one.
    """
    assert inputs.logits is not None
    rows = inputs.logits.detach()[0]
    normalise = partial(torch.softmax, rows, dim=-1) if new else softmax_pass(inputs)

    def work() -> None:
        torch.logsumexp(rows, dim=-1)
        normalise()

    return work


def _floor(build: Callable[[Inputs], Callable[[], None]]) -> Callable[[Inputs], Any]:
    kept: list[tuple[Inputs, Callable[[], None]]] = []

    def work(inputs: Inputs) -> None:
        if not kept or kept[0][0] is not inputs:
            kept[:] = [(inputs, build(inputs))]
        kept[0][1]()

    return work


OWN = (
    Variant("mashbill, in place", "ours", ("logits", "topk"), _in_place, in_place=True),
    Variant("mashbill", "ours", ALL, lambda: ours),
    Variant("mashbill, chunked", "ours", ALL, lambda: partial(ours, impl="chunked")),
    Variant("mashbill, reference", "ours", ALL, lambda: partial(ours, impl="reference"), most=2**24),
    Variant("naive PyTorch", "plain", ALL, lambda: naive),
    Variant("torch.compile(naive)", "plain", ("logits", "hidden"), _compiled, compiled=True),
    Variant("matrix products alone", "floor", ("hidden", "stored"), lambda: _floor(products)),
    # Processors without bfloat16 units multiply float32 several times faster.
    Variant(
        "matrix products alone, float32",
        "floor",
        ("hidden", "stored"),
        lambda: _floor(partial(products, dtype=torch.float32)),
        dtype="bfloat16",
    ),
    Variant("softmax of the student alone", "floor", ("logits", "topk"), lambda: _floor(softmax_pass)),
    Variant("logsumexp, then softmax, of the student alone", "floor", ("topk",), lambda: _floor(two_passes)),
    Variant(
        "logsumexp, then new softmax, of the student alone",
        "floor",
        ("topk",),
        lambda: _floor(partial(two_passes, new=True)),
    ),
)
