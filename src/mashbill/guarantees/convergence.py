"""Stochastic gradient descent with steps ``eta_t = eta_0 / (gamma + t)``: when it reaches ``1/t``, with which constant.

The paper's schedule is ``gamma = 1``. On a quadratic everything here is exact. Not covered: Adam, momentum, and
students that are not strongly convex; no statement here is about those.
"""

import math
from dataclasses import dataclass

from mashbill.weights.shares import Number


def mean_square(
    n_steps: int,
    *,
    first_step: Number,
    curvature: Number,
    noise_variance: Number,
    start: Number,
    delay: Number = 1.0,
) -> float:
    """Mean squared distance after ``T`` steps on a quadratic, exact: ``e <- (1 - eta_t mu)^2 e + eta_t^2 sigma^2``.

    Args:
        n_steps: ``T``; steps are numbered from 0.
        first_step: ``eta_0``.
        curvature: ``mu``.
        noise_variance: ``sigma^2`` of the gradient's independent noise.
        start: Squared distance before the first step.
        delay: ``gamma``.

    >>> round(1000 * mean_square(1000, first_step=0.75, curvature=1, noise_variance=1, start=1), 6)
    1.110727
    """
    _require(first_step, curvature, delay)
    error = float(start)
    for t in range(n_steps):
        step = first_step / (delay + t)
        error = (1 - step * curvature) ** 2 * error + step**2 * noise_variance
    return error


def rate_exponent(first_step: Number, curvature: Number) -> float:
    """Return ``min(1, 2 mu eta_0)``: the mean squared distance falls like ``t`` to minus this.

    At exactly ``2 mu eta_0 = 1`` a factor ``log t`` comes on top.
    """
    _require(first_step, curvature)
    return min(1.0, 2.0 * curvature * first_step)


def asymptotic_constant(first_step: Number, *, curvature: Number, noise_variance: Number) -> float:
    """Limit of ``t`` times the mean squared distance: ``eta_0^2 sigma^2 / (2 mu eta_0 - 1)``.

    Exact for quadratics, so the ``O(1/t)`` of the theorem is tight. Least, ``sigma^2 / mu^2``, at ``eta_0 = 1/mu``.

    Args:
        first_step: ``eta_0``.
        curvature: ``mu``.
        noise_variance: ``sigma^2``.

    Raises:
        ValueError: ``eta_0 <= 1/(2 mu)``: there is no such limit, the rate is slower.

    Source:
        arXiv 2601.17910, Theorem VI.2 (iii), with its constant and the condition that it leaves out.

    >>> asymptotic_constant(0.75, curvature=1, noise_variance=1)
    1.125
    """
    _require(first_step, curvature)
    excess = 2 * curvature * first_step - 1
    if excess <= 0:
        raise ValueError(
            f"first_step={first_step!r} must exceed 1/(2 curvature) = {1 / (2 * curvature):.6g} for a rate of 1/t; "
            f"with this one errors fall like t^-{rate_exponent(first_step, curvature):.6g}"
        )
    return first_step**2 * noise_variance / excess


def transient_growth(first_step: Number, *, smoothness: Number, delay: Number = 1.0) -> float:
    """Return by which factor the steepest direction grows before it shrinks: ``prod |1 - eta_t L|`` while above 1.

    1 if ``eta_0 / gamma <= 2/L``.

    Args:
        first_step: ``eta_0``.
        smoothness: ``L``, the largest curvature.
        delay: ``gamma``.
    """
    _require(first_step, smoothness, delay)
    reach = first_step * smoothness
    n = math.ceil(reach / 2 - delay)  # how many t have eta_t L > 2
    if n <= 0:
        return 1.0
    # prod_(t<n) (reach - delay - t) / (delay + t), as quotients of gamma functions.
    log_growth = math.lgamma(reach - delay + 1) - math.lgamma(reach - delay - n + 1)
    log_growth += math.lgamma(delay) - math.lgamma(delay + n)
    return math.exp(log_growth) if log_growth < 700 else math.inf


@dataclass(frozen=True)
class StepCondition:
    """Whether a schedule ``eta_0 / (gamma + t)`` reaches ``1/t`` without blowing up first.

    Attributes:
        is_fast: ``eta_0 > 1/(2 mu)``.
        is_stable: ``eta_0 / gamma <= 2/L``: no direction grows in any step.
        exponent: Errors fall like ``t`` to minus this.
        constant: Limit of ``t`` times the mean squared distance in the flattest direction; None if not fast.
        growth: Largest factor by which a direction grows before it shrinks.
        delay_needed: A ``gamma`` from which on no step overshoots: ``eta_0 L``.
        can_both: With this ``gamma`` some ``eta_0`` is both fast and stable: ``L/mu < 4 gamma``.
    """

    is_fast: bool
    is_stable: bool
    exponent: float
    constant: float | None
    growth: float
    delay_needed: float
    can_both: bool


def step_condition(
    first_step: Number,
    *,
    curvature: Number,
    smoothness: Number,
    noise_variance: Number = 1.0,
    delay: Number = 1.0,
) -> StepCondition:
    """Check a schedule against both conditions that Theorem VI.2 (iii) leaves out.

    With the paper's ``gamma = 1`` they exclude each other for condition numbers of 4 and more.

    Args:
        first_step: ``eta_0``.
        curvature: ``mu``, the least curvature.
        smoothness: ``L``, the largest.
        noise_variance: ``sigma^2``.
        delay: ``gamma``.

    Raises:
        ValueError: A number is not positive, or ``mu > L``.

    >>> step_condition(0.6, curvature=1, smoothness=100.5).is_stable
    False
    """
    _require(first_step, curvature, delay)
    if smoothness < curvature:
        raise ValueError(f"smoothness={smoothness!r} must be at least curvature={curvature!r}")
    is_fast = 2 * curvature * first_step > 1
    return StepCondition(
        is_fast=is_fast,
        is_stable=first_step * smoothness <= 2 * delay,
        exponent=rate_exponent(first_step, curvature),
        constant=asymptotic_constant(first_step, curvature=curvature, noise_variance=noise_variance)
        if is_fast
        else None,
        growth=transient_growth(first_step, smoothness=smoothness, delay=delay),
        delay_needed=float(first_step * smoothness),
        can_both=smoothness < 4 * delay * curvature,
    )


def loss_bound(
    n_steps: int,
    *,
    first_step: Number,
    curvature: Number,
    smoothness: Number,
    noise_variance: Number,
    start_gap: Number,
    delay: Number,
) -> float:
    """Bound of the mean loss above its minimum after ``T`` steps of any strongly convex, smooth loss.

    ``nu / (gamma + T)`` with ``nu = max(eta_0^2 L sigma^2 / (2 (eta_0 mu - 1)), gamma (F_0 - F*))``, for
    ``eta_0 > 1/mu`` and ``gamma >= eta_0 L``. By induction on ``e' <= (1 - eta mu) e + eta^2 L sigma^2 / 2``.

    Args:
        n_steps: ``T``; steps are numbered from 0.
        first_step: ``eta_0``.
        curvature: ``mu``.
        smoothness: ``L``.
        noise_variance: ``sigma^2``, a bound of the gradient's variance.
        start_gap: ``F_0 - F*``.
        delay: ``gamma``.

    Raises:
        ValueError: A condition does not hold.

    Source:
        Bottou, Curtis, Nocedal, SIAM Review 60(2), 2018, Theorem 4.7; repairs arXiv 2601.17910, Theorem VI.2 (iii).
    """
    _require(first_step, curvature, delay)
    if first_step * curvature <= 1:
        raise ValueError(f"first_step={first_step!r} must exceed 1/curvature = {1 / curvature:.6g} for this bound")
    if delay < first_step * smoothness:
        raise ValueError(f"delay={delay!r} must be at least first_step * smoothness = {first_step * smoothness:.6g}")
    noise = first_step**2 * smoothness * noise_variance / (2 * (first_step * curvature - 1))
    return max(noise, delay * start_gap) / (delay + n_steps)


def _require(first_step: Number, curvature: Number, delay: Number = 1.0) -> None:
    for name, value in (("first_step", first_step), ("curvature", curvature), ("delay", delay)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} must be positive and finite")
