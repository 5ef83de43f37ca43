"""Following weights that move: how far behind a tracker lags, certified from its gain and the drift.

``D`` is the most that the true value moves between two steps. A tracker whose distance obeys ``e' <= rho e + D`` is in
the long run at most ``D/(1-rho)`` away, and exactly that far behind a steady drift. The certificates below are that
sentence for an exponential average, a contraction and gradient descent with a constant step.

Steps that shrink like ``1/(1+t)`` cannot follow a drift at all: solving ``e' = (1 - c/(1+t)) e + D`` gives a distance
that grows like ``D t / (1 + c)``. They are refused where a drift is declared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


class DriftError(ValueError):
    """Shrinking steps were asked to follow a drift: the distance grows without end.

    Attributes:
        drift: Declared movement of the target in one step.
        growth: Distance gained at each step in the long run, ``drift / (1 + step * curvature)``.
    """

    def __init__(self, message: str, *, drift: float, growth: float) -> None:
        super().__init__(message)
        self.drift, self.growth = drift, growth


@dataclass(frozen=True)
class Lag:
    """Certificate of a tracker: how far from its target it can be.

    Attributes:
        lag: Bound of the distance in the long run, in the unit and norm of the drift; attained by a steady drift.
        variance: Variance of the tracker's own noise in the long run, for independent noise in what it is shown.
        rate: Share of a distance that one step leaves.
        drift: Declared movement of the target in one step.
        formula: How it was worked out.
    """

    lag: float
    variance: float
    rate: float
    drift: float
    formula: str

    @property
    def mean_square(self) -> float:
        """``lag^2 + variance``: bound of the mean squared distance of one coordinate."""
        return self.lag**2 + self.variance

    def after(self, n_steps: int, *, start: Number) -> float:
        """Return the bound after a number of steps from a distance of ``start``: ``rho^n e_0 + lag (1 - rho^n)``."""
        left = self.rate**n_steps
        return left * start + self.lag * (1 - left)


def ema_lag(gain: Number, *, drift: Number, noise: Number = 0.0, decays: bool = False) -> Lag:
    """Certificate of ``m <- m + b (x - m)``: lag ``D (1-b)/b``, variance ``b s^2/(2-b)``.

    The distance after a step is ``(1-b)`` of that before it, to which the drift is added first.

    Args:
        gain: ``b``, in ``(0, 1]``.
        drift: ``D``, the most that the target moves between two steps.
        noise: ``s``, standard deviation of independent noise in each ``x``.
        decays: The gain of step ``t`` is ``b/(1+t)`` instead.

    Raises:
        ValueError: An argument is out of range.
        DriftError: The gain shrinks although there is a drift.

    >>> ema_lag(0.2, drift=0.01).lag
    0.04
    """
    _require_drift(drift, noise)
    if not 0 < gain <= 1:
        raise ValueError(f"gain={gain!r} must be above 0 and at most 1")
    if decays:
        _refuse_decay("gain", gain, 1.0, drift)
        return Lag(0.0, 0.0, 1.0, 0.0, "gain b/(1+t), no drift: the average converges")
    lag, variance = drift * (1 - gain) / gain, gain * noise**2 / (2 - gain)
    return Lag(lag, variance, 1 - gain, float(drift), "exponential average: D(1-b)/b, variance b s^2/(2-b)")


def contraction_lag(rate: Number, *, drift: Number) -> Lag:
    """Certificate of ``w <- T_n(w)`` with ``|T_n(w) - T_n(v)| <= rho |w - v|``: lag ``D/(1-rho)``, tight.

    Args:
        rate: ``rho``, in ``[0, 1)``.
        drift: ``D``, the most that the fixed point of ``T_n`` moves from one step to the next.

    Raises:
        ValueError: An argument is out of range.

    >>> round(contraction_lag(0.8, drift=0.01).lag, 12)
    0.05
    """
    _require_drift(drift, 0.0)
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate!r} must be at least 0 and below 1, or nothing pulls back to the target")
    return Lag(drift / (1 - rate), 0.0, float(rate), float(drift), "contraction: e' <= rho e + D, so D/(1-rho)")


def descent_lag(step: Number, *, curvature: Number, drift: Number, decays: bool = False) -> Lag:
    """Certificate of gradient descent after a moving minimum: lag ``D/(mu eta)``.

    Args:
        step: ``eta``; at most 1 over the largest curvature, which the caller sees to.
        curvature: ``mu``, the least curvature of the loss; positive.
        drift: ``D``, the most that the minimum moves between two steps.
        decays: Step ``t`` is ``eta/(1+t)`` instead.

    Raises:
        ValueError: An argument is out of range.
        DriftError: The steps shrink although there is a drift.

    >>> round(descent_lag(0.5, curvature=0.4, drift=0.01).lag, 12)
    0.05
    """
    _require_drift(drift, 0.0)
    if not (step > 0 and curvature > 0):
        raise ValueError(f"step={step!r} and curvature={curvature!r} must be positive")
    if decays:
        _refuse_decay("step", step, curvature, drift)
        return Lag(0.0, 0.0, 1.0, 0.0, "step eta/(1+t), no drift: descent converges")
    if step * curvature > 1:
        raise ValueError(f"step={step!r} times curvature={curvature!r} is above 1; take a step of at most 1/curvature")
    lag = drift / (curvature * step)
    return Lag(lag, 0.0, 1 - step * curvature, float(drift), "gradient descent: D/(mu eta)")


def best_gain(*, drift: Number, noise: Number) -> float:
    """Return the gain of least mean squared distance, ``argmin_b (D(1-b)/b)^2 + b s^2/(2-b)``.

    The derivative vanishes where ``D^2 (1-b)(2-b)^2 = s^2 b^3``; the left side falls and the right side rises, so
    there is one such gain, found by bisection to the last bit.

    Args:
        drift: ``D``, positive.
        noise: ``s``.

    Raises:
        ValueError: There is no drift, so that no gain above 0 is best: average everything (a gain of ``1/(1+t)``).

    >>> round(best_gain(drift=0.01, noise=0.1), 3)
    0.278
    """
    _require_drift(drift, noise)
    if drift == 0:
        raise ValueError("drift=0 has no best gain: the smaller the better; average everything (gain=1, decays=True)")
    low, high = 0.0, 1.0
    ratio = noise / drift
    while low < (middle := (low + high) / 2) < high:
        # Which side is larger is asked of square roots' ratio: no overflow for extreme ratios.
        is_below = math.sqrt(1 - middle) * (2 - middle) > ratio * middle**1.5
        low, high = (middle, high) if is_below else (low, middle)
    return high


@dataclass(frozen=True)
class EMATracker:
    """Exponential average ``m + b (x - m)`` of values that drift by at most ``drift`` a step.

    Attributes:
        gain: ``b``, in ``(0, 1]``.
        drift: Declared drift; with ``decays`` it must be 0.
        noise: Standard deviation of the noise in each value.
        decays: Step ``t`` uses ``b/(1+t)``: with ``b = 1`` the plain mean of all that was seen.

    Raises:
        ValueError: As :func:`ema_lag`.
        DriftError: The gain shrinks although there is a drift.
    """

    gain: Number
    drift: Number = 0.0
    noise: Number = 0.0
    decays: bool = False

    def __post_init__(self) -> None:
        _ = self.certificate

    @property
    def certificate(self) -> Lag:
        """How far behind it is."""
        return ema_lag(self.gain, drift=self.drift, noise=self.noise, decays=self.decays)

    def update(
        self, mean: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], *, step: int | Tensor = 0
    ) -> Tensor:
        """Return the next mean; convex, so bounds and orders that all values keep are kept.

        Args:
            mean: The mean so far.
            value: What is seen now.
            step: ``t``, from 0; read only if the gain decays.
        """
        return mean + (self.gain / (1 + step) if self.decays else self.gain) * (value - mean)


@dataclass(frozen=True)
class ContractionTracker:
    """Iterates of contractions whose fixed point drifts by at most ``drift`` a step.

    Attributes:
        rate: ``rho`` in ``[0, 1)``, a Lipschitz constant of every map.
        drift: Declared drift of the fixed point.

    Raises:
        ValueError: As :func:`contraction_lag`.
    """

    rate: Number
    drift: Number

    def __post_init__(self) -> None:
        _ = self.certificate

    @property
    def certificate(self) -> Lag:
        """How far behind it is."""
        return contraction_lag(self.rate, drift=self.drift)

    def update(self, state: Tensor, contraction: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the next state, ``contraction(state)``."""
        return contraction(state)


def _require_drift(drift: Number, noise: Number) -> None:
    for name, value in (("drift", drift), ("noise", noise)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} must be finite and not negative")


def _refuse_decay(name: str, step: Number, curvature: Number, drift: Number) -> None:
    if drift == 0:
        return
    growth = drift / (1 + step * curvature)
    raise DriftError(
        f"drift={drift!r} cannot be followed with {name} {step!r}/(1+t): the distance grows like "
        f"{growth:.6g} a step, D t/(1 + {step * curvature:g}); keep the {name} constant (its lag is bounded), or "
        "declare drift=0",
        drift=float(drift),
        growth=growth,
    )
