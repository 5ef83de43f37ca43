"""A weight operator asked at a few places of a batch: between reading the teachers there and mixing them.

The loss knows the statistics of a few positions at a time, while the teachers' scores are in the cache; an operator
answers for a whole batch of evidence. :func:`between` puts one into the other.

Not covered: operators that look at other positions than the one that they weigh, at whole distributions, or at the
student. They need the statistics of the whole batch first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics, measure
from mashbill.shapes import Float, Int, Tensor
from mashbill.weights.compose import require_rule
from mashbill.weights.evidence import Evidence, WeightOperator, needs_of
from mashbill.weights.share_scan import accumulator_dtype

_TOLERANCE = 1e-6
_N_POSITIONS, _N_ENTRIES = 3, 5
_FEW = 64
# Places whose rows are looked at one by one, which costs less than taking rows out of tensors.


def between(operator: WeightOperator, evidence: Evidence) -> Callable[[Statistics, Tensor], Tensor]:
    """Return a function for ``distillation_loss(..., log_weights=)`` from an operator and what is known beforehand.

    ``(statistics [K R], places [R]) -> log-weights [K R]``: what ``operator(evidence)`` says at the places ``b T + t``
    of a batch with these statistics. It keeps no state and may be called from several threads; a call costs about 10
    microseconds beside the operator's own, and next to nothing from the compiled loops. Making one costs up to nine
    calls of the operator, which is tried on random statistics. Statistics that its ``needs`` do not name may be NaN, if
    trying shows that it does without them.

    Rules that read ``label_logprob`` or ``class_mass`` find them where the loss has ``labels`` or ``classes``.

    Args:
        operator: A rule, or a product of rules with order and bounds. It may read the statistics at the place, all that
            is known of the row, scores and orders, and a supplied variance. If it learns, it may go on learning;
            what it keeps of the statistics it must copy, since their memory is filled again.
        evidence: Of the rows that the loss is about, in its order and with its ``T``. Statistics and mask are not
            looked at, so that :meth:`Evidence.unread` will do.

    Raises:
        TypeError: ``operator`` is no rule.
        ValueError: The operator reads what no statistics tell, or its weights at a position depend on other positions
            or rows of this batch. As the operator, if it does not fit the evidence.

    >>> from mashbill.weights import EntropySoftmax
    >>> mask = torch.ones(1, 2, dtype=torch.bool)
    >>> rule = between(EntropySoftmax(), Evidence.unread(("large", "small"), mask, n_entries=3))
    >>> sure, unsure = (Dense.from_probs(torch.tensor([p])) for p in ([0.80, 0.15, 0.05], [0.40, 0.35, 0.25]))
    >>> statistics = Statistics.stack([measure(sure), measure(unsure)])
    >>> [round(w, 4) for w in rule(statistics, torch.tensor([1])).exp().flatten().tolist()]
    [0.6048, 0.3952]
    """
    require_rule(operator, argument="operator")
    _require_statistics_alone(operator, evidence)
    _require_single_positions(operator, evidence)
    return _Rule(operator, evidence, _statistics_read(operator, evidence))


@dataclass(frozen=True)
class _Rule:
    operator: WeightOperator
    evidence: Evidence
    reads: frozenset[str] | None
    """Names of the statistics that it looks at; None if that is not known."""
    known: dict[tuple[int, int], "_Known"] = field(default_factory=dict, repr=False, compare=False)
    """Of so many positions of one row, by row and number: a loss asks about little else, and about many of them."""

    @property
    def about(self) -> tuple[int, ...]:
        """``K``, ``B`` and ``T``, which the loss compares: places of one batch mean nothing in another."""
        return (len(self.evidence.teachers), *self.evidence.mask.shape)

    def __call__(self, statistics: Statistics, places: Int[Tensor, " R"]) -> Float[Tensor, "K R"]:
        """Return log-weights."""
        return self.operator(_evidence(self._known(places), statistics, self.reads)).squeeze(-1)

    def over(self, statistics: Statistics) -> Callable[[Int[Tensor, " R"]], Float[Tensor, "K R"]]:
        """Return what answers, as a call does, for what the statistics' memory holds when it is asked.

        Places must ascend. The evidence is put together once for each row of the batch, not at each call.
        """
        n_positions = self.evidence.mask.shape[1]
        is_by_place = n_positions == 1 or self.evidence.variance is not None
        if is_by_place or statistics.entropy.device.type != "cpu":
            return lambda places: self(statistics, places)
        by_row: dict[int, Evidence] = {}

        def ask(places: Tensor) -> Tensor:
            listed = places.tolist()
            row = listed[0] // n_positions
            if row != listed[-1] // n_positions:
                return self(statistics, places)
            if row not in by_row:
                by_row[row] = _evidence(self._known(places), statistics, self.reads)
            return self.operator(by_row[row]).squeeze(-1)

        return ask

    def _known(self, places: Int[Tensor, " R"]) -> "_Known":
        n_positions = self.evidence.mask.shape[1]
        if places.device.type != "cpu" or len(places) > _FEW or self.evidence.variance is not None:
            return _known_at(self.evidence, places)
        rows = {place // n_positions for place in places.tolist()}
        if len(rows) != 1 or n_positions == 1:
            return _known_at(self.evidence, places)
        key = rows.pop(), len(places)
        if key not in self.known:
            self.known[key] = _known_at(self.evidence, places)
        return self.known[key]


@dataclass(frozen=True)
class _Known:
    """What is known of single places before their statistics: fields of an Evidence, and NaN for what is not read."""

    fields: Mapping[str, Any]
    unread: Float[Tensor, "K R 1"]
    unread_classes: Float[Tensor, "K R 1 C"]


def _known_at(evidence: Evidence, places: Int[Tensor, " R"]) -> _Known:
    n_positions = evidence.mask.shape[1]
    rows = (places if n_positions == 1 else places // n_positions).to(evidence.task.device)
    here = {
        "teachers": evidence.teachers,
        "mask": evidence.mask.new_ones(len(places), 1),
        "n_entries": evidence.n_entries,
        "tasks": evidence.tasks,
        "task": evidence.task.index_select(0, rows),
        "contexts": evidence.contexts,
        "context": evidence.context.index_select(0, rows),
        "features": evidence.features.index_select(0, rows),
        "route": evidence.route.index_select(0, rows),
        "scores": evidence.scores,
        "orders": evidence.orders,
        "variance": None if evidence.variance is None else _at(evidence.variance, rows, places),
    }
    unread = torch.full((), torch.nan, device=places.device).expand(evidence.n_teachers, len(places), 1)
    n_classes = evidence.statistics.class_mass.shape[-1]
    return _Known(here, unread, unread.unsqueeze(-1).expand(*unread.shape, n_classes))


def _evidence(known: _Known, statistics: Statistics, reads: frozenset[str] | None) -> Evidence:
    def read(name: str, values: Tensor) -> Tensor:
        return values.unsqueeze(-1) if reads is None or name in reads else known.unread

    has_classes = reads is None or "class_mass" in reads
    # Written out: a loop over fields, as in `replace`, would take longer than all the rest.
    single = Statistics(
        entropy=statistics.entropy.unsqueeze(-1),
        entropy_low=read("entropy_low", statistics.entropy_low),
        gini=read("gini", statistics.gini),
        margin=read("margin", statistics.margin),
        max_logprob=read("max_logprob", statistics.max_logprob),
        label_logprob=read("label_logprob", statistics.label_logprob),
        class_mass=statistics.class_mass.unsqueeze(-2) if has_classes else known.unread_classes,
    )
    return Evidence(statistics=single, **known.fields)


def _at(
    variance: Float[Tensor, "K B #T"], rows: Int[Tensor, " R"], places: Int[Tensor, " R"]
) -> Float[Tensor, "K R 1"]:
    if variance.shape[-1] == 1:
        return variance.index_select(1, rows.to(variance.device))
    return variance.flatten(1).index_select(1, places.to(variance.device)).unsqueeze(-1)


def _require_statistics_alone(operator: WeightOperator, evidence: Evidence) -> None:
    needs = needs_of(operator)
    costly = sorted(n for n in needs if n in ("gram", "logprobs", "student_logprobs") or n.startswith("divergence:"))
    if costly:
        raise ValueError(
            f"operator={_name(operator)} needs {', '.join(costly)}, and between reading the teachers and mixing them "
            "only statistics are known; gather the evidence first and pass log_weights=operator(evidence)"
        )
    if "variance" in needs and evidence.variance is None:
        raise ValueError(
            f"operator={_name(operator)} needs variance, and the evidence has none; give it to Evidence(variance=...)"
        )


@torch.no_grad()
def _statistics_read(operator: WeightOperator, evidence: Evidence) -> frozenset[str] | None:
    """Return the statistics that an operator needs, if it names some and does as well without the others."""
    names = {entry.name for entry in fields(Statistics)}
    read = needs_of(operator) & names
    if not read:
        return None
    probe = _probe(evidence)
    given = vars(probe.statistics)
    without = {name: values if name in read else torch.full_like(values, torch.nan) for name, values in given.items()}
    # The entropy, which carries shape and dtype, is always there.
    fewer = replace(probe, statistics=Statistics(**without | {"entropy": given["entropy"]}))
    return read if torch.equal(operator(fewer), operator(probe)) else None


@torch.no_grad()
def _require_single_positions(operator: WeightOperator, evidence: Evidence) -> None:
    """Raise unless the operator says the same of a position whoever else is asked about."""
    probe = _probe(evidence)
    n_rows, n_positions = probe.mask.shape
    whole = operator(probe).expand(-1, n_rows, n_positions).flatten(1)
    given = probe.statistics
    by_place = Statistics(**{name: values.flatten(1, 2) for name, values in vars(given).items()})
    # Two halves of the rows, each position alone: what mixes rows, or positions, is not the same in any of these.
    for start in range(min(2, n_rows)):
        rows = torch.arange(start, n_rows, 2, device=probe.mask.device)
        for position in range(n_positions):
            places = rows * n_positions + position
            here = Statistics(**{name: values[:, places] for name, values in vars(by_place).items()})
            found = operator(_evidence(_known_at(probe, places), here, None)).squeeze(-1)
            expected = whole[:, places.to(whole.device)]
            if not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
                raise ValueError(
                    f"operator={_name(operator)} gives a position weights that depend on others, as rules do that "
                    "learn inside a sequence or average over a row or a batch, and the loss asks about a few "
                    f"positions at a time (log-weights differ by {float((found - expected).abs().max()):.2g}); measure "
                    "the teachers first and pass log_weights=operator(evidence)"
                )


def _probe(evidence: Evidence) -> Evidence:
    """Return the evidence with a few positions of random distributions over the first entries."""
    n_rows, n_positions = len(evidence.mask), min(_N_POSITIONS, evidence.mask.shape[1])
    n_entries, n_classes = min(_N_ENTRIES, evidence.n_entries), evidence.statistics.class_mass.shape[-1]
    device, generator = evidence.mask.device, torch.Generator().manual_seed(0)
    shape = (evidence.n_teachers, n_rows, n_positions)
    logits = 2 * torch.randn(*shape, n_entries, generator=generator)
    labels = torch.randint(n_entries, shape[1:], generator=generator).to(device)
    statistics = measure(
        Dense.from_logits(logits.to(device, accumulator_dtype(device))),
        labels=labels.expand(shape),
        classes=torch.arange(n_entries, device=device) % max(1, n_classes),
        n_classes=n_classes,
    )
    variance = None if evidence.variance is None else evidence.variance[..., :n_positions]
    mask = evidence.mask.new_ones(n_rows, n_positions)
    nothing: dict[str, Any] = {"divergences": {}, "gram": None, "logprobs": None, "student_logprobs": None}
    return replace(evidence, statistics=statistics, mask=mask, variance=variance, **nothing)


def _name(operator: WeightOperator) -> str:
    return getattr(operator, "__name__", type(operator).__name__)
