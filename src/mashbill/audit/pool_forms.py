"""What follows from the closed form that a pool declares: theorems on power means, with numbers to check them by.

A search proves nothing about all teachers. A theorem does, but about a formula and not about a program. So a pool may
*declare* its formula::

    @mashbill.forms.closed_form(mean="power", r=0.5)
    def my_pool(logprobs, log_weights): ...  # M_r / sum M_r with M_r = (sum_k w_k p_k^r)^(1/r); r = 0: geometric

and a certificate rests on two legs: the theorem, whose numeric side its :meth:`recheck` computes again in numpy from
stored instances, and the premise that the program computes the formula. The premise is not proved. It is attacked: the
audit computes the formula by itself and compares on random teachers. A pool that differs is not certified, and its
verdict says so. A witness outweighs a theorem: a power mean of order 0.001 is continuous, but not in float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mashbill.audit.comparing import EXACT as _EXACT
from mashbill.audit.comparing import Comparison, compare_pool
from mashbill.audit.hull import are_distributions
from mashbill.audit.searching import Operator, Tally
from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.forms import form_of

KIND = "power mean"
_ONE, _ZERO = (1.0).__eq__, (0.0).__eq__
_NAMES = {"arithmetic": 1.0, "geometric": 0.0, "harmonic": -1.0}


def power_mean(p: np.ndarray, w: np.ndarray, r: float) -> np.ndarray:
    """Return ``(sum_k w_k p_k^r)^(1/r)``, the geometric mean for ``r = 0``; not normalised.

    Args:
        p: Probabilities above 0, ``[K V]``; zeros are allowed for ``r > 0``.
        w: Weights, ``[K]``.
        r: Any finite number.
    """
    if r == 0:
        return np.exp(w @ np.log(p))
    if r > 0:
        return (w @ p**r) ** (1 / r)
    return np.exp(np.log(w @ np.exp(r * np.log(p))) / r)


@dataclass(frozen=True)
class Theorem:
    """What a power mean of some orders keeps.

    Attributes:
        claim: In words.
        orders: Whether it speaks of ``r``.
        holds: Its numeric side on one instance ``(p, w, mean, q, r)``.
        second: Something else that an instance stores, computed from ``(p, w, r)``; None for nothing.
    """

    claim: str
    orders: Callable[[float], bool]
    holds: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], bool]
    second: Callable[[np.ndarray, np.ndarray, float], np.ndarray] | None = None


def _pool(p: np.ndarray, w: np.ndarray, r: float) -> np.ndarray:
    mean = power_mean(p, w, r)
    return mean / mean.sum()


def _soft(p: np.ndarray, temperature: float) -> np.ndarray:
    powers = p ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def _entropy(q: np.ndarray) -> float:
    return float(-(q * np.log(q)).sum())


def _divergences(p: np.ndarray, w: np.ndarray, r: float) -> np.ndarray:
    """Return ``KL(p_0 || q)`` while the first weight grows to 1, the others in proportion."""
    each = []
    for share in np.linspace(0, 1, 6):
        moved = (1 - share) * w
        moved[0] += share
        each.append(float((p[0] * np.log(p[0] / _pool(p, moved, r))).sum()))
    return np.asarray(each)


def _transfer(p: np.ndarray, w: np.ndarray, r: float) -> np.ndarray:
    moved = w.copy()
    moved[0], moved[1] = w[0] + w[1] / 2, w[1] / 2
    return _pool(p, moved, r)


def _falls_to_zero(p: np.ndarray, w: np.ndarray, r: float) -> bool:
    each = _divergences(p, w, r)
    steps = np.diff(each)
    return bool((steps <= _EXACT).all() and (np.diff(steps) >= -_EXACT).all() and abs(each[-1]) <= _EXACT)


def _near_uniform(p: np.ndarray, w: np.ndarray, r: float) -> bool:
    spread = float((np.log(p).max(axis=-1) - np.log(p).min(axis=-1)).max())
    hot = [np.abs(np.log(_pool(_soft(p, t), w, r) * p.shape[1])).max() - 2 * spread / t for t in (10.0, 1e3, 1e6)]
    return bool(max(hot) <= _EXACT)


def _monotone_entropy(p: np.ndarray, w: np.ndarray, r: float) -> bool:
    each = [_entropy(_pool(_soft(p, t), w, r)) for t in (0.5, 1.0, 1.5, 2.0, 4.0)]
    return bool((np.diff(each) >= -_EXACT).all())


def _any(_r: float) -> bool:
    return True


def _above(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a >= b - _EXACT).all())


THEOREMS: Mapping[str, Theorem] = {
    "contract.permutation": Theorem(
        "a weighted mean does not depend on the order of its terms",
        _any,
        lambda p, w, _m, q, r: bool(np.abs(_pool(p[::-1], w[::-1], r) - q).max() <= _EXACT),
    ),
    "pool.normalised": Theorem(
        "the mean is divided by its sum, which is above 0",
        _any,
        lambda _p, _w, mean, q, _r: mean.sum() > 0 and are_distributions(q),
    ),
    "pool.convexity.strong": Theorem(
        "q = sum_k w_k p_k: the weights themselves are the membership weights",
        _ONE,
        lambda p, w, _m, q, _r: bool(np.abs(w @ p - q).max() <= _EXACT),
    ),
    "pool.convexity.weak": Theorem(
        "a mixture lies between its parts, entry by entry",
        _ONE,
        lambda p, _w, _m, q, _r: _above(q, p.min(axis=0)) and _above(p.max(axis=0), q),
    ),
    "pool.positivity.strong": Theorem(
        "q(v) >= w_k^(1/r) p_k(v) / K for r > 0, since M_r >= w_k^(1/r) p_k and its sum is at most K",
        lambda r: r > 0,
        lambda p, w, mean, q, r: _above(q, (w[:, None] ** (1 / r) * p).max(axis=0) / len(w)) and mean.sum() <= len(w),
    ),
    "pool.positivity.weak": Theorem(
        "q(v) >= min_k p_k(v) / K: a mean of positive numbers is at least the least of them",
        _any,
        lambda p, w, mean, q, _r: _above(q, p.min(axis=0) / len(w)) and mean.sum() <= len(w),
    ),
    "pool.monotonicity.coordinate": Theorem(
        "moving weight d from j to k changes q(v) by d (p_k(v) - p_j(v))",
        _ONE,
        lambda p, w, _m, q, r: bool(np.abs(_transfer(p, w, r) - q - w[1] / 2 * (p[0] - p[1])).max() <= _EXACT),
        second=_transfer,
    ),
    "pool.monotonicity.divergence": Theorem(
        "KL(p_k || q) is convex along the geodesic to p_k, which the weight of k walks, and 0 at its end",
        lambda r: r in (0, 1),
        lambda p, w, _m, _q, r: _falls_to_zero(p, w, r),
        second=_divergences,
    ),
    "pool.continuity": Theorem(
        "a composition of continuous maps for r > 0: the sum that divides is at least K^(-max(1, 1/r))",
        lambda r: r > 0,
        lambda _p, w, mean, _q, r: bool(mean.sum() >= len(w) ** -max(1.0, 1 / r) - _EXACT),
    ),
    "pool.temperature.strong": Theorem(
        "powers and products commute: (prod_k p_k^w_k)^(1/T) = prod_k (p_k^(1/T))^w_k, for teachers without zeros",
        _ZERO,
        lambda p, w, _m, q, r: bool(np.abs(_soft(q, 2.0) - _pool(_soft(p, 2.0), w, r)).max() <= _EXACT),
        second=lambda p, w, r: _pool(_soft(p, 2.0), w, r),
    ),
    "pool.temperature.entropy": Theorem(
        "pooling softened teachers softens the pool, and dH/dT = Var(log q)/T^3 >= 0, for teachers without zeros",
        _ZERO,
        lambda p, w, _m, _q, r: _monotone_entropy(p, w, r),
        second=lambda p, w, r: _pool(_soft(p, 2.0), w, r),
    ),
    "pool.temperature.weak": Theorem(
        "|log q - log 1/V| <= 2 s/T with s the teachers' largest spread of logs: a mean lies between its terms",
        _any,
        lambda p, w, _m, _q, r: _near_uniform(p, w, r),
    ),
    "pool.logloss": Theorem(
        "M_r >= M_0 and sum M_r <= 1 for 0 <= r <= 1 (power means; Jensen), so q >= prod_k p_k^w_k",
        lambda r: 0 <= r <= 1,
        lambda p, w, mean, q, _r: bool(
            _above(np.log(mean), w @ np.log(p)) and mean.sum() <= 1 + _EXACT and _above(np.log(q), w @ np.log(p))
        ),
    ),
    "pool.regret": Theorem(
        "q >= w_k p_k: a sum is at least each of its terms",
        _ONE,
        lambda p, w, _m, q, _r: _above(q, (w[:, None] * p).max(axis=0)),
    ),
    "pool.unsafe": Theorem(
        "q(U) = sum_k w_k p_k(U) <= max_k p_k(U) for every set U",
        _ONE,
        lambda p, w, _m, q, _r: bool(np.abs(w @ p - q).max() <= _EXACT),
    ),
}
"""By axiom; an axiom that is not here is certified for no power mean."""


@dataclass(frozen=True)
class Form:
    """A declared power mean.

    Attributes:
        r: Its order.
    """

    r: float
    _seen: dict[int, Comparison] = field(default_factory=dict, compare=False, repr=False)

    def certify(self, axiom: str, pool: Operator, seed: int, tally: Tally) -> Certificate | None:
        """Return the certificate of an axiom, None if no theorem speaks of it or the form is not what is computed."""
        theorem = THEOREMS.get(axiom)
        if theorem is None or not theorem.orders(self.r):
            return None
        if seed not in self._seen:  # one comparison serves all axioms of an audit
            formula = partial(_pool, r=self.r)
            self._seen[seed] = compare_pool(pool, formula, takes_zeros=self.r > 0, seed=seed)
        seen = self._seen[seed]
        if not seen.is_same:
            tally.notes.append(
                f"it declares the power mean of order {self.r:g}, but differs from it by {seen.worst:.3g}"
            )
            return None
        return Certificate(
            kind=KIND,
            claim=f"power mean of order {self.r:g}: {theorem.claim}",
            premise=f"the pool computes the form that it declares; {seen.told(seed)}",
            numbers={"axiom": axiom, "r": self.r, "instances": [_instance(theorem, self.r, n) for n in range(4)]},
        )


def read_form(pool: Operator) -> Form | None:
    """Return the form that a pool declares in its attribute ``form``; None if there is none, or none known here.

    Raises:
        ValueError: A power mean without a finite order.
    """
    form = form_of(pool)
    if form.get("mean") not in ("power", *_NAMES):
        return None
    mean = form["mean"]
    r = form.get("r") if mean == "power" else _NAMES[mean]
    if isinstance(r, bool) or not isinstance(r, (int, float)) or not math.isfinite(r):
        raise ValueError(f"form={dict(form)!r} must give a finite order r, e.g. {{'mean': 'power', 'r': 0.5}}")
    return Form(float(r))


def _instance(theorem: Theorem, r: float, index: int) -> dict[str, Any]:
    """Return one instance in hundredths, the same for everybody."""
    chance = np.random.default_rng(index)
    n_rows, n_entries = 2 + index // 2, 2 + index
    p = (chance.multinomial(100 - 5 * n_entries, chance.dirichlet(np.ones(n_entries)), size=n_rows) + 5) / 100
    w = (chance.multinomial(100 - 10 * n_rows, np.ones(n_rows) / n_rows) + 10) / 100
    stored: dict[str, Any] = {"p": p.tolist(), "w": w.tolist(), "q": _pool(p, w, r).tolist()}
    return stored | ({"second": theorem.second(p, w, r).tolist()} if theorem.second else {})


@rechecks(KIND)
def recheck_form(numbers: Numbers) -> bool:
    """Compute the formula and the theorem's numeric side again on the stored instances."""
    r, theorem = float(numbers["r"]), THEOREMS[numbers["axiom"]]
    if not math.isfinite(r) or not theorem.orders(r) or len(numbers["instances"]) < 3:
        return False
    return all(_recheck_instance(theorem, r, one) for one in numbers["instances"])


def _recheck_instance(theorem: Theorem, r: float, stored: Numbers) -> bool:
    p, w, q = (np.asarray(stored[name], dtype=float) for name in ("p", "w", "q"))
    if not (are_distributions(p) and are_distributions(w) and (p > 0).all() and (w > 0).all()):
        return False
    mean = power_mean(p, w, r)
    is_same = bool(np.abs(mean / mean.sum() - q).max() <= _EXACT)
    if theorem.second is not None:
        again = theorem.second(p, w, r)
        is_same &= again.shape == np.shape(stored["second"]) and bool(np.abs(again - stored["second"]).max() <= _EXACT)
    return is_same and bool(theorem.holds(p, w, mean, q, r))
