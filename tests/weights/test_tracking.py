import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from mashbill.weights.tracking import (
    ContractionTracker,
    DriftError,
    EMATracker,
    best_gain,
    contraction_lag,
    descent_lag,
    ema_lag,
)

DOUBLE = torch.float64


def test_certificates_agree_with_the_golden_values(golden) -> None:
    value = golden("F71")
    average = ema_lag(0.2, drift=0.01, noise=0.1)
    found = [contraction_lag(0.8, drift=0.01).lag, average.lag, average.variance]
    assert found == pytest.approx(value["expected"], abs=value["tol"])


@pytest.mark.parametrize(("gain", "drift"), [(0.2, 0.01), (0.05, 0.3), (1.0, 2.0)])
def test_the_lag_of_an_average_is_attained_by_a_steady_drift_and_never_exceeded(gain, drift) -> None:
    tracker = EMATracker(gain, drift=drift)
    generator = torch.Generator().manual_seed(0)
    # 64 targets that move by at most the drift, and one that always moves by all of it.
    moves = drift * (2 * torch.rand(600, 65, generator=generator, dtype=DOUBLE) - 1)
    moves[:, -1] = drift
    mean, target = torch.zeros(65, dtype=DOUBLE), torch.zeros(65, dtype=DOUBLE) + 0.5
    for n, move in enumerate(moves, start=1):
        target = target + move
        mean = tracker.update(mean, target)
        assert float((target - mean).abs().max()) <= tracker.certificate.after(n, start=0.5) + 1e-9
    assert float(target[-1] - mean[-1]) == pytest.approx(tracker.certificate.lag, rel=1e-9, abs=1e-9)


def test_the_lag_of_a_contraction_is_attained() -> None:
    tracker, state = ContractionTracker(0.8, drift=0.01), torch.tensor([3.0, 0.0], dtype=DOUBLE)
    fixed = torch.zeros(2, dtype=DOUBLE)
    for n in range(1, 301):
        # The map is that of the fixed point so far; then the point moves on.
        state = tracker.update(state, lambda w, to=fixed: to + 0.8 * (w - to))
        fixed = fixed - torch.tensor([0.01, 0.0], dtype=DOUBLE)
        assert float((state - fixed).norm()) <= tracker.certificate.after(n, start=3.0) + 1e-12
    assert float((state - fixed).norm()) == pytest.approx(tracker.certificate.lag, rel=1e-9)


def test_the_variance_of_an_average_is_that_of_its_noise() -> None:
    tracker = EMATracker(0.3, noise=0.5)
    generator, mean = torch.Generator().manual_seed(1), torch.zeros(20_000, dtype=DOUBLE)
    for _ in range(60):
        mean = tracker.update(mean, 0.5 * torch.randn(20_000, generator=generator, dtype=DOUBLE))
    assert float(mean.var()) == pytest.approx(tracker.certificate.variance, rel=0.04)


def test_the_best_gain_minimises_the_squared_lag_plus_the_variance() -> None:
    assert round(best_gain(drift=0.01, noise=0.1), 3) == 0.278
    for drift, noise in [(0.01, 0.1), (0.3, 0.2), (1e-4, 5.0), (2.0, 1e-3)]:
        found = best_gain(drift=drift, noise=noise)
        mean_square = lambda b, d=drift, s=noise: ema_lag(float(b), drift=d, noise=s).mean_square  # noqa: E731
        oracle = minimize_scalar(mean_square, bounds=(1e-6, 1.0), method="bounded", options={"xatol": 1e-12})
        assert mean_square(found) <= oracle.fun * (1 + 1e-12)
        assert found == pytest.approx(oracle.x, rel=1e-4)
        assert drift**2 * (1 - found) * (2 - found) ** 2 == pytest.approx(noise**2 * found**3, rel=1e-6)
    # The plain sum of lag and variance, the other reading, has its minimum elsewhere.
    other = minimize_scalar(lambda b: 0.01 * (1 - b) / b + b * 0.01 / (2 - b), bounds=(1e-3, 1), method="bounded")
    assert other.x == pytest.approx(2 / (1 + math.sqrt(2)), abs=1e-4)


def test_the_best_gain_at_its_ends() -> None:
    assert best_gain(drift=0.5, noise=0.0) == 1.0
    assert 0 < best_gain(drift=1e-200, noise=1e100) < 1e-150
    with pytest.raises(ValueError, match=r"drift=0 has no best gain"):
        best_gain(drift=0, noise=1.0)


@pytest.mark.parametrize(("step", "curvature"), [(0.5, 1.0), (1.0, 1.0), (0.75, 4.0)])
def test_decaying_steps_diverge_at_the_rate_that_the_refusal_states(step, curvature) -> None:
    with pytest.raises(DriftError, match=r"drift=0\.01 cannot be followed.*grows like") as caught:
        descent_lag(step, curvature=curvature, drift=0.01, decays=True)
    assert caught.value.growth == pytest.approx(0.01 / (1 + curvature * step))
    distance = 0.0
    for t in range(200_000):
        distance = (1 - curvature * step / (1 + t)) * distance + 0.01
    assert distance / 200_000 == pytest.approx(caught.value.growth, rel=1e-3)
    if step == curvature == 1.0:
        assert round(distance / 200_000, 6) == 0.005
    assert descent_lag(step, curvature=curvature, drift=0.0, decays=True).lag == 0.0


def test_a_constant_step_follows_a_drift() -> None:
    certificate, distance = descent_lag(0.5, curvature=0.4, drift=0.01), 0.0
    for n in range(1, 400):
        distance = (1 - 0.5 * 0.4) * distance + 0.01
        assert distance <= certificate.after(n, start=0.0) + 1e-12
    assert distance == pytest.approx(certificate.lag)


def test_a_decaying_average_is_the_plain_mean_and_follows_no_drift() -> None:
    tracker, mean = EMATracker(1.0, decays=True), torch.zeros((), dtype=DOUBLE)
    values = torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    for step, value in enumerate(values):
        mean = tracker.update(mean, value, step=step)
    assert float(mean) == pytest.approx(float(values.mean()))
    with pytest.raises(DriftError) as caught:
        EMATracker(1.0, drift=0.02, decays=True)
    assert caught.value.growth == 0.01
    assert caught.value.drift == 0.02


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ema_lag(0.0, drift=0.1), r"gain=0\.0 must be above 0"),
        (lambda: ema_lag(math.nan, drift=0.1), "gain=nan must be"),
        (lambda: ema_lag(0.5, drift=-0.1), r"drift=-0\.1 must be finite"),
        (lambda: ema_lag(0.5, drift=0.1, noise=math.inf), "noise=inf must be finite"),
        (lambda: contraction_lag(1.0, drift=0.1), r"rate=1\.0 must be at least 0 and below 1"),
        (lambda: descent_lag(0.0, curvature=1.0, drift=0.1), r"step=0\.0 and curvature=1\.0 must be positive"),
        (lambda: descent_lag(2.0, curvature=1.0, drift=0.1), r"step=2\.0 times curvature=1\.0 is above 1"),
    ],
)
def test_bad_arguments_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()
