"""What follows from the family that a softening declares: powers ``p^(1/T)/Z``, or mixtures ``p/T + (1 - 1/T)/V``.

As for pools, the theorem speaks of the formula, and that the program computes the formula is a premise that is attacked
and not proved.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch

from mashbill import numerics
from mashbill.audit.cases import DOUBLE, random_cases
from mashbill.audit.comparing import ENTRIES, Comparison, drawn, drawn_sizes
from mashbill.audit.comparing import EXACT as _EXACT
from mashbill.audit.hull import are_distributions
from mashbill.audit.searching import Tally
from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.forms import form_of
from mashbill.shapes import Tensor

Family = Literal["power", "mixture"]
KIND = "softening family"
_HOTTEST = 1e7
_TEMPERATURES = (1.0, 1.5, 2.0, 4.0, 20.0)


def soft(p: np.ndarray, temperature: float, family: Family) -> np.ndarray:
    """Return the softened distribution."""
    if family == "mixture":
        return p / temperature + (1 - 1 / temperature) / len(p)
    powers = np.where(p > 0, p ** (1 / temperature), 0.0)
    return powers / powers.sum()


_CLAIMS: Mapping[str, Mapping[Family, str]] = {
    "softening.ranking": {
        "power": "x^(1/T) increases in x, and all are divided by the same sum",
        "mixture": "x/T + (1 - 1/T)/V increases in x",
    },
    "softening.continuity": {
        "power": "p^(1/T) is continuous in p and T, and the sum that divides is at least 1 for T >= 1",
        "mixture": "linear in p with constant 1/T, and linear in 1/T",
    },
    "softening.entropy": {
        "power": "dH/dT = Var(log p)/T^3 >= 0, the variance under the softened distribution",
        "mixture": "H is concave along the segment from p to uniform and largest at its end",
    },
    "softening.identity": {"power": "p^1 divided by its sum is p", "mixture": "p/1 + 0 is p"},
    "softening.boundary": {
        "power": "log p_T is within 2 s/T of uniform on the support, s the spread of log p",
        "mixture": "|p_T - 1/V| <= 1/T",
    },
}


def _holds(axiom: str, p: np.ndarray, family: Family) -> bool:
    """The numeric side of a theorem on one distribution without zeros."""
    each = [soft(p, t, family) for t in _TEMPERATURES]
    if axiom == "softening.ranking":
        order = np.argsort(p)
        return all((np.diff(q[order]) >= -_EXACT).all() for q in each)
    if axiom == "softening.entropy":
        return bool((np.diff([-(q * np.log(q)).sum() for q in each]) >= -_EXACT).all())
    if axiom == "softening.identity":
        return bool(np.abs(each[0] - p).max() <= _EXACT)
    if axiom == "softening.boundary":
        spread = np.log(p).max() - np.log(p).min()
        far = [np.abs(soft(p, t, family) * len(p) - 1).max() for t in (1e2, 1e4, 1e6)]
        reach = [np.expm1(2 * spread / t) if family == "power" else len(p) / t for t in (1e2, 1e4, 1e6)]
        return all(one <= most + _EXACT for one, most in zip(far, reach, strict=True))
    return all((p ** (1 / t)).sum() >= 1 - _EXACT for t in _TEMPERATURES)


def read_form(soften: Any) -> Family | None:
    """Return the family that a softening declares in its attribute ``form``, None if there is none, or none known."""
    family = form_of(soften).get("family")
    return cast(Family, family) if family in ("power", "mixture") else None


def certify(
    axiom: str, family: Family, soften: Callable[[Tensor, Tensor], Tensor], seed: int, tally: Tally
) -> Certificate | None:
    """Return the certificate of an axiom; None if the program is not of the family."""
    seen = _compare(family, soften, seed)
    if not seen.is_same:
        tally.notes.append(f"it declares the {family} family, but differs from it by {seen.worst:.3g}")
        return None
    chance = np.random.default_rng(0)
    instances = []
    for n_entries in (2, 3, 4):
        p = (chance.multinomial(100 - 5 * n_entries, chance.dirichlet(np.ones(n_entries))) + 5) / 100
        instances.append({"p": p.tolist(), "softened": [soft(p, t, family).tolist() for t in _TEMPERATURES]})
    return Certificate(
        kind=KIND,
        claim=f"{family} family: {_CLAIMS[axiom][family]}",
        premise=f"the softening computes the family that it declares; {seen.told(seed)}",
        numbers={"axiom": axiom, "family": family, "instances": instances},
    )


@torch.no_grad()
def _compare(family: Family, soften: Callable[[Tensor, Tensor], Tensor], seed: int) -> Comparison:
    generator, seen = torch.Generator().manual_seed(seed + 1), Comparison()
    large = [*ENTRIES, *(v for _, v in drawn_sizes(generator, most_rows=1, most_columns=ENTRIES[-1], n=5))]
    for n_each, sizes in ((5, (2, 3, 10)), (1, large)):
        for n_entries in sizes:
            log_p = random_cases(generator, n_rows=1, n_entries=n_entries, n_each=n_each).log_p[0]
            p = torch.where(log_p <= numerics.LOG_ZERO, 0.0, log_p.exp()).numpy()
            for t in (*_TEMPERATURES, *drawn(generator, 1, _HOTTEST, 4), _HOTTEST):
                q = soften(log_p, torch.full((len(log_p),), t, dtype=DOUBLE)).double().exp().numpy()
                for one, answer in zip(p, q, strict=True):
                    seen.add(answer, soft(one, t, family), entries=n_entries, temperature=t)
    return seen


@rechecks(KIND)
def recheck_family(numbers: Numbers) -> bool:
    """Compute the family and the theorem's numeric side again on the stored instances."""
    axiom, family = numbers["axiom"], numbers["family"]
    if family not in _CLAIMS[axiom] or len(numbers["instances"]) < 3:
        return False
    for stored in numbers["instances"]:
        p = np.asarray(stored["p"], dtype=float)
        if not (are_distributions(p) and (p > 0).all() and len(stored["softened"]) == len(_TEMPERATURES)):
            return False
        each = [soft(p, t, family) - q for t, q in zip(_TEMPERATURES, stored["softened"], strict=True)]
        is_same = bool((np.abs(each) <= _EXACT).all())  # not NaN either
        if not (is_same and _holds(axiom, p, family)):
            return False
    return True
