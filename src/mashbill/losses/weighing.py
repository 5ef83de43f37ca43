"""Weights that are decided between reading the teachers and mixing them, and what is reported of that.

A rule that looks at what each teacher says needs the teachers' statistics before the mixture. Read apart, they cost
every teacher a second time; asked here, a rule sees the statistics of a few positions while those are in the cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.distributions.statistics import Statistics, measure
from mashbill.distributions.topk import TopK
from mashbill.losses import union
from mashbill.losses.asking import Asked, require_whole
from mashbill.losses.objective import Seen
from mashbill.losses.rows import Answers, Rows, counted
from mashbill.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Report:
    """What was seen on the way, filled a few rows at a time.

    Attributes:
        teachers: Statistics of each teacher, ``[N K]``.
        student: Of the student, ``[N]``.
        log_weights: As used, ``[N K]`` or ``[N C K]``.
    """

    teachers: Statistics
    student: Statistics
    log_weights: Float[Tensor, "N *classes K"]

    @classmethod
    def blank(cls, n: int, *, n_teachers: int, n_classes: int, n_kinds: int | None, like: Tensor) -> "Report":
        """Return a report on ``n`` positions with nothing in it."""

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(n, *sizes, dtype=numerics.reduction_dtype(like.dtype), device=like.device)

        def statistics(*sizes: int) -> Statistics:
            names = [field.name for field in fields(Statistics) if field.name != "class_mass"]
            return Statistics(class_mass=zeros(*sizes, n_classes), **{name: zeros(*sizes) for name in names})

        by_class = [] if n_kinds is None else [n_kinds]
        return cls(statistics(n_teachers), statistics(), zeros(*by_class, n_teachers))

    def store(self, rows: Rows, *, teachers: Statistics, student: Statistics, log_weights: Tensor) -> None:
        """Write what some rows gave: statistics ``[K R]`` and ``[R]``, log-weights ``[K R]`` or ``[C K R]``."""
        rows.store(log_weights.movedim(-1, 0), into=self.log_weights)
        for name in (one.name for one in fields(Statistics)):
            rows.store(getattr(teachers, name).transpose(0, 1), into=getattr(self.teachers, name))
            rows.store(getattr(student, name), into=getattr(self.student, name))

    def seen(self, shape: Sequence[int]) -> Seen:
        """Return it by position, ``shape = [B T]``."""

        def each(statistics: Statistics) -> dict[str, Tensor]:
            return {f.name: getattr(statistics, f.name).unflatten(0, tuple(shape)) for f in fields(Statistics)}

        teachers = {name: values.movedim(2, 0) for name, values in each(self.teachers).items()}
        log_weights = self.log_weights.unflatten(0, tuple(shape)).movedim((0, 1), (-2, -1))
        return Seen(Statistics(**teachers), Statistics(**each(self.student)), log_weights)


@dataclass(frozen=True)
class Weighing:
    """Weights at the positions of a batch, given or decided on the way.

    Attributes:
        given: ``[K N]`` or, by class, ``[C K N]``; None if a rule decides.
        rule: Asked otherwise.
        classes: A class id for each entry, ``-1`` for the last row of weights by class.
        n_classes: Of how many classes the mass is measured.
        report: To be filled, if somebody wants one.
        places: Which positions ``b T + t`` of the whole batch these are; None if they are all.
    """

    given: Float[Tensor, "*classes K N"] | None
    rule: Asked | None = None
    classes: Int[Tensor, " V"] | None = None
    n_classes: int = 0
    report: Report | None = None
    places: Int[Tensor, " N"] | None = None

    @classmethod
    def by(cls, log_weights: Tensor, mask: Bool[Tensor, "B T"]) -> "Weighing":
        """Return given weights, ``[K B #T]`` or ``[C K B #T]``, laid out over all positions."""
        return cls(log_weights.expand(*log_weights.shape[:-2], *mask.shape).flatten(-2))

    @property
    def n_kinds(self) -> int | None:
        """``C`` of weights by class of entries; None of weights that are the same for all of them."""
        return None if self.given is None or self.given.ndim == 2 else len(self.given)

    @property
    def needs_statistics(self) -> bool:
        """Whether teachers must be measured."""
        return self.rule is not None or self.report is not None

    def reads(self, name: str) -> bool:
        """Whether anybody looks at a statistic, so that it must be measured."""
        read = None if self.rule is None else self.rule.read
        return read is None or name in read or self.report is not None

    def measure(self, here: Dense | Logits | TopK, labels: Int[Tensor, " R"] | None) -> Statistics:
        """Return the statistics of one teacher, or of the student, at some rows."""
        if not isinstance(here, TopK):
            # Normalised again: storage in few bits rounds.
            here = Dense.from_logits(here.logprobs if isinstance(here, Dense) else here.values)
        return measure(here, labels=labels, classes=self.classes, n_classes=self.n_classes)

    def measure_all(self, here: Sequence[Dense | Logits | TopK], labels: Int[Tensor, " R"] | None) -> Statistics:
        """Return the statistics of all teachers at some rows, ``[K R]``."""
        lists = [one for one in here if isinstance(one, TopK)]
        if len(lists) < len(here):
            return Statistics.stack([self.measure(one, labels) for one in here])
        # Together: small operations cost by the call.
        n_slots = max(one.ids.shape[-1] for one in lists)
        ids = torch.stack([union.filled(one.ids, n_slots, -1) for one in lists])
        logprobs = torch.stack([union.filled(one.logprobs, n_slots, numerics.LOG_ZERO) for one in lists])
        together = TopK(ids, logprobs, torch.stack([one.log_tail for one in lists]), lists[0].n_entries)
        wanted = None if labels is None else labels.expand(ids.shape[:2])
        return measure(together, labels=wanted, classes=self.classes, n_classes=self.n_classes)

    def at(self, rows: Rows, statistics: Statistics | None, *, dtype: torch.dtype) -> Tensor:
        """Return the log-weights of some rows, ``[K R]`` or ``[C K R]``, without gradient."""
        if self.rule is None:
            return self._given(rows).to(rows.index.device, dtype)
        assert statistics is not None, "a rule is asked about statistics"
        return self.rule(statistics, self._places(rows)).to(rows.index.device, dtype)

    def over(self, statistics: Statistics | None, *, dtype: torch.dtype) -> Callable[[Rows], Tensor]:
        """Return what does as :meth:`at` for statistics in memory that is filled before it is asked, and less often.

        Whether a rule's weights sum to 1 is left to who mixes, with :meth:`require_whole`.
        """
        if self.rule is None or statistics is None:
            return lambda rows: self.at(rows, statistics, dtype=dtype)
        ask = self.rule.over(statistics)
        return lambda rows: ask(self._places(rows)).to(rows.index.device, dtype)

    def require_whole(self, rows: Rows, log_weights: Float[Tensor, "K R"]) -> None:
        """Raise ``ValueError`` unless the weights at some rows, which a rule gave, sum to 1."""
        require_whole(log_weights, self._places(rows))

    def decide(
        self,
        rows: Rows,
        logits: Float[Tensor, "R V"] | None,
        teachers: Sequence[Dense | Logits | TopK],
        labels: Int[Tensor, " R"] | None,
        *,
        dtype: torch.dtype,
    ) -> Float[Tensor, "*classes K R"]:
        """Return the log-weights of some rows; teachers and student are measured and reported if somebody asks.

        ``logits`` are the student's, which only a report looks at.
        """
        statistics = self.measure_all(teachers, labels).to(dtype) if self.needs_statistics else None
        log_weights = self.at(rows, statistics, dtype=dtype)
        own = None if self.report is None or logits is None else self.measure(Logits(logits), labels)
        self.tell(rows, teachers=statistics, student=own, log_weights=log_weights)
        return log_weights

    def part(self, rows: Rows) -> "Weighing":
        """Return the weighing of some rows, as a batch of their own."""
        return replace(self, given=None if self.given is None else self._given(rows), places=rows.index)

    def tell(self, rows: Rows, *, teachers: Statistics | None, student: Statistics | None, log_weights: Tensor) -> None:
        """Report what some rows gave, if somebody wants it: statistics ``[K R]`` and ``[R]``, and the weights used."""
        if self.report is not None:
            assert teachers is not None
            assert student is not None
            here = Rows(self._places(rows), None, rows.n_positions)
            self.report.store(here, teachers=teachers, student=student, log_weights=log_weights)

    def _given(self, rows: Rows) -> Tensor:
        assert self.given is not None, "weights are given or ruled"
        if rows.span is not None:
            return self.given[..., rows.span[0] : rows.span[1]]
        return self.given.index_select(-1, rows.index.to(self.given.device))

    def _places(self, rows: Rows) -> Tensor:
        return rows.index if self.places is None else self.places.index_select(0, rows.index)

    @torch.no_grad()
    def settled(
        self,
        student: Float[Tensor, "B T V"],
        teachers: Sequence[Answers],
        labels: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T"],
        *,
        n_each: int,
    ) -> Float[Tensor, "*classes K N"]:
        """Return the weights of all positions, for a loss that is not made a few rows at a time; fills the report."""
        if not self.needs_statistics:
            assert self.given is not None, "weights are given or ruled"
            return self.given
        wide = numerics.reduction_dtype(student.dtype)
        shape = (len(teachers), mask.numel()) if self.given is None else self.given.shape
        found = torch.zeros(shape, dtype=wide, device=student.device)
        for rows in counted(mask, n_each=n_each):
            here = None if self.report is None else rows.select(student.detach())
            wanted = None if labels is None else rows.select(labels)
            like = student.new_empty(0, dtype=wide)  # a list would be rounded to the logits' dtype
            log_weights = self.decide(rows, here, [rows.take(one, like=like) for one in teachers], wanted, dtype=wide)
            found.index_copy_(-1, rows.index, log_weights)
        # Given weights may want a gradient.
        return found if self.given is None else self.given
