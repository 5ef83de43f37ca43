"""How good predictions are: loss, accuracy, perplexity, calibration and safety, from one mark a position.

A whole evaluation is boiled down to four numbers a position (:class:`Marks`) while distributions stream by; every
measure, grouping and comparison is then arithmetic on those. Needs no torch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mashbill.train import intervals
from mashbill.weights.scorecard import Interval

N_BINS = 15
"""Equal-width confidence bins of the calibration error, as in arXiv 1706.04599."""


@dataclass(frozen=True)
class Marks:
    """What one candidate scored at each labelled position; all arrays have one entry a position.

    Attributes:
        row: The row that the position belongs to, the unit of sampling. Blocks cut from one text are one row.
        nll: Negative log-probability of the label, in nats.
        is_correct: The most probable entry is the label.
        confidence: Probability of the most probable entry.
    """

    row: NDArray[np.int64]
    nll: NDArray[np.float64]
    is_correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]

    @classmethod
    def join(cls, parts: Sequence["Marks"]) -> "Marks":
        """Put the marks of consecutive batches together; none at all gives marks of no position."""
        if not parts:
            nothing = np.zeros(0)
            return cls(nothing.astype(np.int64), nothing, nothing.astype(bool), nothing)
        names = ("row", "nll", "is_correct", "confidence")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def of_rows(self, is_wanted: NDArray[np.bool_]) -> "Marks":
        """Keep the positions of some rows; ``is_wanted`` has one entry a row."""
        keep = is_wanted[self.row]
        return Marks(self.row[keep], self.nll[keep], self.is_correct[keep], self.confidence[keep])


@dataclass(frozen=True)
class RowTotals:
    """Marks added up by row, for the rows that have labelled positions.

    Attributes:
        row: Row indices, ascending.
        n: Labelled positions.
        nll: Sum of negative log-probabilities, in nats.
        n_correct: Positions whose most probable entry is the label.
    """

    row: NDArray[np.int64]
    n: NDArray[np.float64]
    nll: NDArray[np.float64]
    n_correct: NDArray[np.float64]

    @classmethod
    def of(cls, marks: Marks) -> "RowTotals":
        """Add up by row."""
        row, place = np.unique(marks.row, return_inverse=True)

        def add(values: NDArray) -> NDArray[np.float64]:
            return np.bincount(place, weights=values, minlength=row.size).astype(np.float64)

        return cls(row, add(np.ones(place.size)), add(marks.nll), add(marks.is_correct.astype(np.float64)))

    @property
    def success(self) -> NDArray[np.float64]:
        """Share of each row's positions that are right: 0 or 1 for a classifier."""
        return self.n_correct / self.n


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram: positions whose confidence lies in ``(low, high]``, never empty."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Summary:
    """All measures on one set of positions.

    Attributes:
        n: Labelled positions.
        n_rows: Rows they come from, the unit of sampling.
        loss: Nats a position.
        accuracy: Share of right positions.
        perplexity: ``exp(loss)``; None for a classifier, and where it overflows.
        calibration_error: :func:`calibration_error`.
        reliability: The bins behind it.
        safety: Mean success on the critical rows; None if there are none.
        n_critical: How many those are.
    """

    n: int
    n_rows: int
    loss: Interval
    accuracy: Interval
    perplexity: Interval | None
    calibration_error: float
    reliability: tuple[Bin, ...]
    safety: Interval | None
    n_critical: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as JSON gives them back."""
        return {**asdict(self), "reliability": [asdict(each) for each in self.reliability]}


def summarise(
    marks: Marks, *, confidence: float, is_critical: NDArray[np.bool_] | None = None, has_perplexity: bool = False
) -> Summary | None:
    """Compute every measure; None if there is no position.

    Args:
        marks: Labelled positions.
        confidence: Coverage of each interval.
        is_critical: Which rows are critical, one entry a row; None if none were declared.
        has_perplexity: Whether ``exp(loss)`` means something, as it does for language models.
    """
    if marks.row.size == 0:
        return None
    totals = RowTotals.of(marks)
    loss = intervals.mean_loss(totals.nll, totals.n, confidence=confidence)
    reliability = reliability_bins(marks)
    critical = np.zeros(0) if is_critical is None else totals.success[is_critical[totals.row]]
    return Summary(
        n=marks.row.size,
        n_rows=totals.row.size,
        loss=loss,
        accuracy=intervals.clustered_proportion(totals.n_correct, totals.n, confidence=confidence),
        perplexity=intervals.exponential(loss) if has_perplexity else None,
        calibration_error=calibration_error(reliability),
        reliability=reliability,
        safety=intervals.mean_success(critical, confidence=confidence) if critical.size else None,
        n_critical=critical.size,
    )


def reliability_bins(marks: Marks) -> tuple[Bin, ...]:
    """Sort positions into ``N_BINS`` equal bins of confidence and compare confidence with accuracy in each."""
    place = np.clip(np.ceil(marks.confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    counts = np.bincount(place, minlength=N_BINS)
    confidences = np.bincount(place, weights=marks.confidence, minlength=N_BINS)
    correct = np.bincount(place, weights=marks.is_correct.astype(float), minlength=N_BINS)
    return tuple(
        Bin(
            low=index / N_BINS,
            high=(index + 1) / N_BINS,
            n=int(counts[index]),
            confidence=float(confidences[index] / counts[index]),
            accuracy=float(correct[index] / counts[index]),
        )
        for index in range(N_BINS)
        if counts[index]
    )


def calibration_error(reliability: Sequence[Bin]) -> float:
    """Expected calibration error ``sum_b n_b/n |accuracy_b - confidence_b|``, a probability.

    Biased upwards on small samples: a perfectly calibrated candidate has up to about ``0.4 sum_b sqrt(n_b) / n``, less
    where its confidence is near 0 or 1.
    """
    total = sum(each.n for each in reliability)
    return sum(each.n * abs(each.accuracy - each.confidence) for each in reliability) / total


def paired(first: Marks, second: Marks, *, confidence: float) -> tuple[Interval, Interval]:
    """Return ``first - second`` in accuracy and in loss (nats), on the positions that both were marked at.

    Raises:
        ValueError: The two were not marked at the same positions.
    """
    if not np.array_equal(first.row, second.row):
        raise ValueError(
            f"first has {first.row.size} positions and second {second.row.size}: they must be the same ones"
        )
    one, other = RowTotals.of(first), RowTotals.of(second)
    return (
        intervals.paired_proportion(one.n_correct, other.n_correct, one.n, confidence=confidence),
        intervals.paired_difference(one.nll, other.nll, one.n, confidence=confidence),
    )
