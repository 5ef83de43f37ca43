"""The metrics in which rules state Lipschitz constants: which the audit can move, and what each covers of what is read.

A constant says nothing of an input that its metric does not see: in the discrete metric on texts every bounded rule is
Lipschitz, and jumps as it likes. So regularity follows from a constant only if the metric is one of those below, and
the metrics named together cover everything that the rule asks for.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mashbill.shapes import Tensor


@dataclass(frozen=True)
class Metric:
    """A cause that a world can move, and how far two worlds are apart in it.

    Attributes:
        cause: The field of the world.
        is_by_row: Whether each row has its own, so that many steps fit into one batch.
        distance: One number for each row, or for all of them together.
    """

    cause: str
    is_by_row: bool
    distance: Callable[[Tensor, Tensor], Tensor]


def _logits_sup(here: Tensor, there: Tensor) -> Tensor:
    return (here - there).abs().amax(dim=(0, 2, 3))


def _probabilities_l1(here: Tensor, there: Tensor) -> Tensor:
    return (here.softmax(dim=-1) - there.softmax(dim=-1)).abs().sum(dim=-1).amax(dim=(0, 2))


def _table_sup(here: Tensor, there: Tensor) -> Tensor:
    return (here - there).abs().max()


METRICS = {
    "teacher logits, sup": Metric("logits", True, _logits_sup),
    "teacher probabilities, l1": Metric("logits", True, _probabilities_l1),
    "student logits, sup": Metric("student", True, lambda here, there: (here - there).abs().amax(dim=(1, 2))),
    "context features, l2": Metric("features", True, lambda here, there: (here - there).norm(dim=-1)),
    "supplied variances, sup": Metric("variance", True, lambda here, there: (here - there).abs().amax(dim=(0, 2))),
    "measured accuracy, sup": Metric("skill", False, lambda here, there: _table_sup(here[0], there[0])),
    "measured safety, sup": Metric("skill", False, lambda here, there: _table_sup(here[1], there[1])),
    "measured loss, sup": Metric("losses", False, _table_sup),
}
"""Those that a world can move, by the words in which rules name them."""

EVERYTHING = ("any input", "any continuous input")
"""What rules say whose weights do not move at all."""

_SAID = frozenset({"entropy", "entropy_low", "gini", "margin", "max_logprob", "label_logprob", "class_mass"})
_DISCRETE = frozenset({"orders", "route"})
_COVERED: dict[str, Collection[str]] = {
    "teacher logits, sup": _SAID | {"logprobs", "divergence:mean"},
    "teacher probabilities, l1": _SAID - {"max_logprob", "label_logprob"} | {"divergence:mean"},
    "student logits, sup": {"student_logprobs"},
    "context features, l2": {"features"},
    "supplied variances, sup": {"variance"},
    "measured accuracy, sup": {"score:task:accuracy", "score:context:accuracy"},
    "measured safety, sup": {"score:task:safety", "score:context:safety"},
    "measured loss, sup": {"score:task:loss", "score:context:loss"},
    "label log-probabilities, sup": {"label_logprob"},
    "cumulative label log-loss, sup": {"label_logprob"},
    "Gram matrix of gradients by the student's logits, spectral norm": {"gram"},
    "teachers' gradients by the student's logits, or the labels', largest l2": {"gram"},
}
"""What a rule may read and be held by the metric. The last ones no search moves."""


def parts_of(text: str) -> list[str]:
    """Return the metrics that a declaration names: semicolons between, or ``a and measured b, sup``."""
    return [part.strip() for part in text.replace(" and measured ", ", sup; measured ").split(";") if part.strip()]


def metrics_in(text: str) -> list[Metric]:
    """Return the metrics of a declaration that a world can move; all of them where no input moves the weights."""
    parts = parts_of(text)
    if any(part in EVERYTHING for part in parts):
        return list(METRICS.values())
    return [METRICS[part] for part in parts if part in METRICS]


def unattacked(text: str) -> list[str]:
    """Return the metrics of a declaration that no search can move."""
    return [part for part in parts_of(text) if part not in METRICS and part not in EVERYTHING]


def covers(text: str, needs: Collection[str]) -> bool:
    """Whether the metrics of a declaration are known and see all that a rule asks for, what is discrete left out."""
    parts = parts_of(text)
    if any(part in EVERYTHING for part in parts):
        return True
    seen = {need for part in parts for need in _COVERED.get(part, ())}
    return all(part in _COVERED for part in parts) and set(needs) - _DISCRETE <= seen
