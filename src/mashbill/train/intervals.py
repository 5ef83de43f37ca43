"""Confidence intervals of what an evaluation counts.

The unit of sampling is the row. Tokens of one text resemble one another, so an interval that took them for independent
would be too narrow by a factor of two or more; everything here groups positions by the row they come from.

Not covered: the spread between training seeds (:mod:`mashbill.train.compare`), and many comparisons made at once.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mashbill.weights.scorecard import Interval


def proportion(n_successes: int, n: int, *, confidence: float) -> Interval:
    """Exact binomial interval of a share (Clopper and Pearson): covers at least ``confidence`` whatever the truth.

    >>> round(proportion(0, 10, confidence=0.95).high or 0, 4)
    0.3085
    """
    exact = stats.binomtest(n_successes, n).proportion_ci(confidence, method="exact")
    return Interval(n_successes / n, float(exact.low), float(exact.high))


def clustered_mean(totals: ArrayLike, counts: ArrayLike, *, confidence: float) -> Interval:
    """Mean over positions, with rows as the sampled units: a ratio estimate with Student's t.

    ``m = sum S / sum N`` and ``Var m = R/(R-1) sum_r (S_r - m N_r)^2 / (sum N)^2`` for ``R`` rows, each with total
    ``S_r`` over ``N_r`` positions. Approximate: it rests on the central limit theorem over rows. Both ends are None
    with fewer than two rows.

    Args:
        totals: Sum over the positions of each row.
        counts: Positions of each row.
        confidence: Wanted coverage.

    Source:
        Cochran, *Sampling Techniques* (1977), section 6.3.
    """
    total, count = np.asarray(totals, dtype=float), np.asarray(counts, dtype=float)
    mean = float(total.sum() / count.sum())
    if total.size < 2:
        return Interval(mean, None, None)
    half = float(stats.t.ppf(0.5 + confidence / 2, total.size - 1)) * math.sqrt(_ratio_variance(total, count))
    return Interval(mean, mean - half, mean + half)


def mean_loss(totals: ArrayLike, counts: ArrayLike, *, confidence: float) -> Interval:
    """:func:`clustered_mean` of a loss: no end is below 0."""
    plain = clustered_mean(totals, counts, confidence=confidence)
    return plain if plain.low is None else Interval(plain.value, max(plain.low, 0.0), plain.high)


def clustered_proportion(n_successes: ArrayLike, counts: ArrayLike, *, confidence: float) -> Interval:
    """Share of successful positions, with rows as the sampled units.

    With one position a row this is :func:`proportion`. Otherwise the Clopper-Pearson formula is used with the number
    of independent trials that would have the observed variance between rows, ``m (1 - m) / Var m``, reduced by
    ``(z / t)^2`` for few rows and at most the number of positions. If all or no positions succeed, the variance
    says nothing and each row counts as one trial.

    Source:
        Korn and Graubard, *Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data*, Survey Methodology 24 (1998).
    """
    successes, count = np.asarray(n_successes, dtype=float), np.asarray(counts, dtype=float)
    if (count == 1).all() and (successes == successes.round()).all():
        return proportion(int(successes.sum()), count.size, confidence=confidence)
    share = float(min(successes.sum() / count.sum(), 1.0))
    return _beta_interval(share, _independent_trials(share, successes, count, confidence), confidence)


def mean_success(values: ArrayLike, *, confidence: float) -> Interval:
    """Mean of row successes in [0, 1], every row counting alike.

    Exact (Clopper and Pearson) if they are all 0 or 1. In between, the same formula at the fractional total: such
    values vary less than a coin of the same mean, so it is as a rule wider than need be; that is no proof of coverage.
    """
    success = np.asarray(values, dtype=float)
    if np.isin(success, (0.0, 1.0)).all():
        return proportion(int(success.sum()), success.size, confidence=confidence)
    return _beta_interval(float(success.mean()), float(success.size), confidence)


def exponential(interval: Interval) -> Interval | None:
    """Interval of ``exp``, e.g. perplexity from nats a token; an end, or the whole, is None where ``exp`` overflows."""
    value = _exp(interval.value)
    return None if value is None else Interval(value, _exp(interval.low), _exp(interval.high))


def paired_difference(first: ArrayLike, second: ArrayLike, counts: ArrayLike, *, confidence: float) -> Interval:
    """Difference of two means over the same positions, ``first - second``, with rows as the sampled units.

    Much narrower than two separate intervals suggest: what makes a row hard for both cancels.

    Args:
        first: Sum over the positions of each row, for one candidate.
        second: The same for the other.
        counts: Positions of each row.
        confidence: Wanted coverage.
    """
    return clustered_mean(
        np.asarray(first, dtype=float) - np.asarray(second, dtype=float), counts, confidence=confidence
    )


def paired_proportion(first: ArrayLike, second: ArrayLike, counts: ArrayLike, *, confidence: float) -> Interval:
    """Difference of two shares of successful positions, ``first - second``, on the same rows.

    With one position a row: the interval around ``sum d / (n + 2)`` with ``Var = (sum d^2 + 1 - (sum d)^2 / (n + 2)) /
    (n + 2)^2``, as if half a row of every kind of pair had been seen besides. Two rows that differ alike then prove
    nothing, where their variance of 0 would. Otherwise :func:`paired_difference`.

    Approximate, but for zero: of rows that differ, alike candidates win each with probability 1/2, so an interval
    around differences of -1, 0 and 1 leaves out zero only where the exact sign test does (McNemar). Between -1 and 1,
    it does so only with as many differing rows as could convince that test if all pointed the same way.

    Source:
        Agresti and Min, *Simple improved confidence intervals for comparing matched proportions*, Statistics in
        Medicine 24 (2005); row differences may here be fractions, such as means over seeds.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if not (np.asarray(counts) == 1).all():
        return clustered_mean(difference, counts, confidence=confidence)
    n, total = difference.size + 2, float(difference.sum())
    variance = (float(np.square(difference).sum()) + 1 - total**2 / n) / n**2
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt(variance)
    low, high = max(-1.0, total / n - half), min(1.0, total / n + half)
    if _sign_test(difference) > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(total / difference.size, low, high)


def _sign_test(difference: np.ndarray) -> float:
    """Return the exact two-sided p-value of as many wins for both; of unequal differences, the least it could be."""
    n_first, n_second = int((difference > 0).sum()), int((difference < 0).sum())
    n_fewer = min(n_first, n_second) if np.isin(difference, (-1.0, 0.0, 1.0)).all() else 0
    return min(1.0, 2 * float(stats.binom.cdf(n_fewer, n_first + n_second, 0.5)))


def _ratio_variance(total: np.ndarray, count: np.ndarray) -> float:
    residual = total - total.sum() / count.sum() * count
    return float(total.size / (total.size - 1) * np.square(residual).sum() / count.sum() ** 2)


def _independent_trials(share: float, successes: np.ndarray, count: np.ndarray, confidence: float) -> float:
    n_rows = successes.size
    if n_rows < 2 or share in (0.0, 1.0):
        return float(n_rows)
    variance = _ratio_variance(successes, count)
    most = float(count.sum())
    trials = share * (1 - share) / variance if variance > 0 else most
    quantile = 0.5 + confidence / 2
    few_rows = float(stats.norm.ppf(quantile) / stats.t.ppf(quantile, n_rows - 1)) ** 2
    return min(trials, most) * few_rows


def _beta_interval(share: float, n: float, confidence: float) -> Interval:
    successes, failures, outside = share * n, (1 - share) * n, (1 - confidence) / 2
    low = float(stats.beta.ppf(outside, successes, failures + 1)) if successes > 0 else 0.0
    high = float(stats.beta.ppf(1 - outside, successes + 1, failures)) if failures > 0 else 1.0
    return Interval(share, low, high)


def _exp(value: float | None) -> float | None:
    if value is None or value > 700:
        return None
    return math.exp(value)
