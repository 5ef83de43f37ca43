"""What a mutant is, and the sound rule from which most are bred.

The sound rule is written here and not taken from the package, so that a fault of ours cannot hide in both.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from audit.situations import Shows

from mashbill.audit.axioms import require_axiom
from mashbill.audit.moods import Stage
from mashbill.weights.evidence import Declared, Evidence

Change = Callable[[torch.Tensor, Evidence], torch.Tensor]
"""From a tensor ``[K B #T]`` to another, looking at the evidence."""


@dataclass(frozen=True)
class Mutant:
    """An operator with one fault.

    Attributes:
        name: The fault in words.
        make: Returns a fresh one; some remember calls.
        breaks: Ids of the axioms that it breaks, the one to be blamed first.
        shows: How far it misses the first one at a known input, above 1e-6.
        kind: What sort of operator.
        stage: The names that it was made for.
        budget: The least budget that must find it.
    """

    name: str
    make: Callable[[], Any]
    breaks: tuple[str, ...]
    shows: Shows
    kind: Literal["weights", "pool", "softening", "recursion", "sequence"] = "weights"
    stage: Stage | None = None
    budget: Literal["quick", "standard"] = "quick"

    def __post_init__(self) -> None:
        for axiom in self.breaks:
            require_axiom(axiom)

    @property
    def axiom(self) -> str:
        """The one to be blamed."""
        return self.breaks[0]

    def violation(self) -> float:
        """How far a fresh one misses that axiom at the known input."""
        return self.shows(self.make())


_NEEDS = {
    "token": "margin",
    "task": "score:task:accuracy",
    "context": "score:context:accuracy",
    "features": "features",
}


@dataclass(frozen=True)
class Rule:
    """``softmax_k(steep max_(j no safer than k) g_j)``: without a fault, and declaring nothing.

    The signal ``g`` is within ``[0, 1]``: the lead of a teacher's first choice, its measured accuracy, or a wave over
    context features. A teacher takes the best signal of those that are certified less safe than it, so that it counts
    as much as they do; a maximum is continuous and moves no further than what it is of.

    Attributes:
        source: Where the signal comes from.
        steep: Log-odds for a signal higher by 1.
        twist: A fault in the signal.
        spoil: A fault in the log-weights.
        is_ordered: Whether certified orders are kept.
        more: What the faults read besides.
    """

    source: Literal["token", "task", "context", "features"] = "token"
    steep: float = 1.0
    twist: Change | None = None
    spoil: Change | None = None
    is_ordered: bool = True
    more: frozenset[str] = frozenset()

    @property
    def scale(self) -> str:
        return "context" if self.source == "features" else self.source

    @property
    def needs(self) -> frozenset[str]:
        return self.more | {_NEEDS[self.source]} | ({"orders"} if self.is_ordered else set())

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        signal = self._signal(evidence)
        if self.twist is not None:
            signal = self.twist(signal, evidence)
        if self.is_ordered:
            signal = best_of_those_below(signal, evidence)
        log_weights = torch.log_softmax(self.steep * signal, dim=0)
        return log_weights if self.spoil is None else self.spoil(log_weights, evidence)

    def _signal(self, evidence: Evidence) -> torch.Tensor:
        if self.source == "token":
            return evidence.statistics.margin
        if self.source == "features":
            return wave(evidence)
        index = evidence.task if self.source == "task" else evidence.context
        like = evidence.statistics.margin
        return evidence.score("accuracy", by=self.source)[:, index, None].to(like.dtype)


def wave(evidence: Evidence) -> torch.Tensor:
    """Return ``(1 + sin x_1)/2``, with ``x_1`` turned round for every second teacher; by name, not by place."""
    numbers = [int(name.removeprefix("t")) for name in evidence.teachers]
    first = evidence.features[:, 0].to(evidence.statistics.margin.dtype)
    waves = [torch.sin((-1) ** number * first) for number in numbers]
    return (1 + torch.stack(waves).unsqueeze(-1)) / 2


def best_of_those_below(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Return for each teacher the largest signal of itself and of all that are certified less safe in its row."""
    tables = torch.stack([_reach(evidence.n_teachers, evidence.orders.get(name, ())) for name in evidence.contexts])
    reach = tables[evidence.context].permute(1, 2, 0).unsqueeze(-1)  # [K K B 1]
    return torch.where(reach, signal.unsqueeze(0), -torch.inf).amax(dim=1)


def _reach(n_teachers: int, pairs: tuple[tuple[int, int], ...]) -> torch.Tensor:
    reach = torch.eye(n_teachers)
    for safer, less in pairs:
        reach[safer, less] = 1
    for _ in range(n_teachers.bit_length()):
        reach = (reach @ reach).clamp(max=1)
    return reach > 0


_METRICS = {
    "token": ("teacher logits, sup", 1.0),
    "task": ("measured accuracy, sup", 1.0),
    "context": ("measured accuracy, sup", 1.0),
    "features": ("context features, l2", 0.5),
}


@dataclass(frozen=True)
class Promising:
    """A rule with its promise, each number of which can be bent by a factor; 1 is the exact truth.

    Attributes:
        rule: The rule.
        low: Factor on the least weight, a lie above 1.
        high: Factor on the largest weight, a lie below 1.
        slope: Factor on the Lipschitz constant, a lie below 1; None promises none.
        reads_student: As declared.
        mixes_rows: As declared.
        metric: Of the Lipschitz constant, if another than the true one is named.
    """

    rule: Rule
    low: float = 1.0
    high: float = 1.0
    slope: float | None = 1.0
    reads_student: bool = False
    mixes_rows: bool = False
    metric: str = ""

    @property
    def scale(self) -> str:
        return self.rule.scale

    @property
    def needs(self) -> frozenset[str]:
        return self.rule.needs

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return self.rule(evidence)

    def declared(self, n_teachers: int) -> Declared:
        metric, signal_slope = _METRICS[self.rule.source]
        odds = math.exp(self.rule.steep)
        low, high = 1 / (1 + (n_teachers - 1) * odds), 1 / (1 + (n_teachers - 1) / odds)
        if n_teachers > 1:
            low, high = self.low * low, min(1.0, self.high * high)
        slope = None if self.slope is None else self.slope * self.rule.steep * signal_slope / 2
        return Declared(
            low,
            high,
            slope,
            self.metric or metric,
            "softmax of scores in a range",
            reads_student=self.reads_student,
            mixes_rows=self.mixes_rows,
        )


@dataclass(frozen=True)
class DeafIn:
    """Keeps certified orders, but not in one context, or only among few teachers, or only the first pair."""

    rule: Rule
    context: str = ""
    n_most: int = 0
    n_pairs: int = 0

    @property
    def scale(self) -> str:
        return self.rule.scale

    @property
    def needs(self) -> frozenset[str]:
        return self.rule.needs

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        orders = dict(evidence.orders)
        if self.context:
            orders[self.context] = ()
        if self.n_most and evidence.n_teachers > self.n_most:
            orders = {}
        if self.n_pairs:
            orders = {name: pairs[: self.n_pairs] for name, pairs in orders.items()}
        return self.rule(replace(evidence, orders=orders))


def changed(value: Any) -> Iterator[Any]:
    """Yield copies of JSON with one number changed, whole or not."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: other} for other in changed(inner))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in changed(inner))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from (value + 1, value - 0.01, math.nan, math.inf)
