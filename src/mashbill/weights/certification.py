"""Which teacher is certainly safer: paired tests on rows that all teachers answered. Needs no torch.

Each pair of teachers is tested in each of the ``D`` contexts that have rows, in both directions, at the level
``delta / (K (K-1) D)``: all pairs that are certified are truly ordered, together, with probability at least
``1 - delta`` (Bonferroni). The rows of a context count as independent draws from it. Nothing is asymptotic.

**Sign test** (McNemar's, exact), for success of 0 or 1. Rows on which two teachers do alike say nothing about which is
better. Of ``m`` others, a teacher that is not better wins each with probability at most 1/2, so ``P(Bin(m, 1/2) >=
wins)`` is a p-value. Since ``P(Bin(m, 1/2) >= w) <= exp(-(2w-m)^2/(2m)) <= exp(-n gap^2/2)``, it certifies whatever
Hoeffding's bound does, and more the rarer the discordant rows.

**Hoeffding**, for success in between. Row differences lie in [-1, 1], so ``P(mean - E >= t) <= exp(-n t^2 / 2)``.

**No cycle can arise.** A certified pair has more wins than losses (with ``m`` even and half of it won the p-value is
above 1/2, the level below), or a positive gap; either way the larger mean over the same rows, and ``>`` on numbers has
no cycle. Pairs that follow from certified ones are as certain, all on the same event: they are marked implied.

Not covered: rows that are not a sample of what the student will meet, and drift of a teacher after the measurement.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ConfigDict
from scipy import special

from mashbill.weights.shares import Number

Decision = Literal["certified", "implied", "undecided"]
Method = Literal["sign", "hoeffding"]


@dataclass(frozen=True)
class PairTest:
    """What the sample says about two teachers in one context.

    Attributes:
        context: Where.
        safer: The teacher with the larger mean success in the sample; the first of two alike.
        less_safe: The other.
        decision: ``"certified"`` by its own test, ``"implied"`` by other certified pairs, or ``"undecided"``.
        test: ``"sign"`` (exact) or ``"hoeffding"``.
        n: Rows that both answered.
        wins: Rows on which ``safer`` did better.
        losses: Rows on which it did worse; with ``wins``, the discordant rows.
        gap: Difference of the two means.
        p_value: Chance of such a sample, at most, if ``safer`` were not safer.
        level: What the p-value must not exceed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    context: str
    safer: str
    less_safe: str
    decision: Decision
    test: Method
    n: int
    wins: int
    losses: int
    gap: float
    p_value: float
    level: float

    @property
    def n_discordant(self) -> int:
        """Rows on which the two differ."""
        return self.wins + self.losses


def certify_orders(
    success: ArrayLike,
    *,
    teachers: Sequence[str],
    context: ArrayLike,
    contexts: Sequence[str],
    confidence: Number,
    test: Method | Literal["auto"] = "auto",
) -> tuple[PairTest, ...]:
    """Test every pair of teachers in every context.

    Args:
        success: Success of each teacher on each row, in [0, 1], teachers by rows.
        teachers: Their ids.
        context: Index of each row's context.
        contexts: Their names.
        confidence: ``1 - delta``: the probability that every pair certified or implied is truly ordered.
        test: ``"auto"`` takes the sign test for pairs whose success is 0 or 1 throughout, else Hoeffding's bound.

    Returns:
        One test a pair and context; of each context, safest first. :func:`orders_of` gives the certified pairs.

    Raises:
        ValueError: ``success`` is not teachers by rows within [0, 1], ``confidence`` is not within (0, 1), or the sign
            test is asked for where success is not 0 or 1.

    Source:
        McNemar, *Psychometrika* 12 (1947), in its exact conditional form; Hoeffding, *JASA* 58 (1963).

    >>> found = certify_orders([[1] * 8, [0] * 8], teachers="ab", context=[0] * 8, contexts=["x"], confidence=0.95)
    >>> [(each.safer, each.decision, each.p_value) for each in found]
    [('a', 'certified', 0.00390625)]
    """
    table, where = np.asarray(success, dtype=float), np.asarray(context)
    if table.ndim != 2 or len(table) != len(teachers) or not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"success of shape {table.shape} must be {len(teachers)} teachers by rows, within [0, 1]")
    if where.shape != table.shape[1:]:
        raise ValueError(f"context of shape {where.shape} must name one context for each of {table.shape[1]} rows")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie strictly between 0 and 1")
    if len(teachers) < 2:
        return ()
    # How many rows a context has says nothing about who succeeds on them: the empty ones cost no confidence.
    n_tested = len(np.unique(where[(where >= 0) & (where < len(contexts))]))
    level = (1 - confidence) / _n_comparisons(len(teachers), max(1, n_tested))
    found: list[PairTest] = []
    for index, name in enumerate(contexts):
        found += _with_implied(_test_all(table[:, where == index], teachers, name, level, test))
    return tuple(found)


def orders_of(tests: Sequence[PairTest], *, contexts: Sequence[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return for each context the pairs ``(safer, less safe)`` that are certified or implied."""
    return {
        name: tuple((t.safer, t.less_safe) for t in tests if t.context == name and t.decision != "undecided")
        for name in contexts
    }


def sign_p_value(wins: int, losses: int) -> float:
    """Return ``P(Bin(wins + losses, 1/2) >= wins)``, exactly.

    >>> sign_p_value(9, 1)
    0.0107421875
    """
    return float(_sign_p_values(np.asarray(wins), np.asarray(losses)))


def rows_to_certify(
    gap: Number,
    *,
    confidence: Number = 0.95,
    n_teachers: int = 2,
    n_contexts: int = 1,
    discordant: Number | None = None,
) -> int:
    """Return how many rows of one context certify a gap of that size in the sample.

    By Hoeffding's bound ``2 ln(K (K-1) D / delta) / gap^2``; with ``discordant`` the least number of rows whose exact
    sign test certifies, if ``(discordant + gap)/2`` of them are won and ``(discordant - gap)/2`` lost.

    A true gap of that size shows smaller in about half of all samples, so plan with a smaller one.

    Args:
        gap: Difference of the two means.
        confidence: ``1 - delta``.
        n_teachers: ``K``.
        n_contexts: ``D``, those with rows.
        discordant: Share of rows on which the two teachers differ, at least ``gap``; None for Hoeffding's bound.

    Raises:
        ValueError: ``gap`` is not within (0, 1], ``discordant`` not within [gap, 1], or there are fewer than two
            teachers.

    >>> rows_to_certify(0.05), rows_to_certify(0.05, discordant=0.1)
    (2952, 200)
    """
    if not 0 < gap <= 1:
        raise ValueError(f"gap={gap!r} must lie in (0, 1]")
    if n_teachers < 2:
        raise ValueError(f"n_teachers={n_teachers} must be at least 2: an order needs two teachers")
    level = (1 - confidence) / _n_comparisons(n_teachers, n_contexts)
    most = math.ceil(2 * math.log(1 / level) / gap**2)
    if discordant is None:
        return most
    if not gap <= discordant <= 1:
        raise ValueError(f"discordant={discordant!r} must lie in [{gap!r}, 1]: rows that differ make the gap")
    # The sign test needs no more rows than Hoeffding's bound but for the rounding of wins and losses.
    n = np.arange(1, most + math.ceil(8 / gap))
    wins = np.floor(n * (discordant + gap) / 2 + 1e-9)
    losses = np.ceil(n * (discordant - gap) / 2 - 1e-9)
    return int(n[np.argmax(_sign_p_values(wins, losses) <= level)])


def _test_all(
    success: np.ndarray, teachers: Sequence[str], context: str, level: float, test: str
) -> dict[tuple[int, int], PairTest]:
    mean = success.mean(axis=1) if success.shape[1] else np.zeros(len(teachers))
    ranked = [int(k) for k in np.argsort(-mean, kind="stable")]
    found = {}
    for place, k in enumerate(ranked):
        for j in ranked[place + 1 :]:
            p_value, name, wins, losses = _compare(success[k], success[j], test)
            gap = float((success[k] - success[j]).mean()) if success.shape[1] else 0.0
            decision = "certified" if p_value <= level and gap > 0 else "undecided"
            found[k, j] = PairTest(
                context, teachers[k], teachers[j], decision, name, success.shape[1], wins, losses, gap, p_value, level
            )
    return found


def _compare(better: np.ndarray, worse: np.ndarray, test: str) -> tuple[float, Method, int, int]:
    difference = better - worse
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    is_binary = bool(np.isin(better, (0.0, 1.0)).all() and np.isin(worse, (0.0, 1.0)).all())
    if test == "sign" and not is_binary:
        raise ValueError("test='sign' compares means only where success is 0 or 1; leave it at 'auto' or 'hoeffding'")
    if test == "hoeffding" or not is_binary:
        gap = max(0.0, float(difference.mean()))
        return math.exp(-difference.size * gap**2 / 2), "hoeffding", wins, losses
    return sign_p_value(wins, losses), "sign", wins, losses


def _with_implied(tests: Mapping[tuple[int, int], PairTest]) -> list[PairTest]:
    """Mark undecided pairs that follow from certified ones: the transitive closure, one middle after another."""
    held = {pair for pair, each in tests.items() if each.decision == "certified"}
    teachers = {k for pair in tests for k in pair}
    for middle in teachers:
        held |= {(k, j) for k, i in held if i == middle for i2, j in held if i2 == middle}
    return [
        replace(each, decision="implied") if pair in held and each.decision == "undecided" else each
        for pair, each in tests.items()
    ]


def _sign_p_values(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    # P(Bin(m, 1/2) >= w) as a regularised incomplete beta function, right to 13 digits for any m.
    return np.where(wins > 0, special.betainc(np.maximum(wins, 1), losses + 1, 0.5), 1.0)


def _n_comparisons(n_teachers: int, n_contexts: int) -> int:
    return n_teachers * (n_teachers - 1) * n_contexts
