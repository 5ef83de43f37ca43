"""Making a broken case small enough to read: fewer distributions, fewer entries, fewer digits, broken all the same."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from mashbill import numerics
from mashbill.audit.cases import DOUBLE, Cases, of_numbers
from mashbill.shapes import Tensor

Broken = Callable[[Cases], float]
"""By how much one case is broken; not above 0 if it is not."""


def shrink(cases: Cases, broken: Broken, *, tolerance: float, keeps_rows: bool = False) -> Cases:
    """Return a smaller case that is broken too.

    What is kept must be broken by a fair part of what it was, so that the witness is no matter of rounding.

    Args:
        cases: One broken case.
        broken: Measures it.
        tolerance: A violation must be above this.
        keeps_rows: Rows have roles, so none may go, and there are no weights.
    """
    wanted = max(1.5 * tolerance, min(0.3 * broken(cases), 1e-3))

    def first(candidates: Iterator[Cases]) -> Cases | None:
        return next((one for one in candidates if broken(one) >= wanted), None)

    while not keeps_rows and (smaller := first(_without_a_row(cases))) is not None:
        cases = smaller
    while (smaller := first(_without_an_entry(cases))) is not None:
        cases = smaller
    return first(_rounded(cases, keeps_weights=keeps_rows)) or cases


def _without_a_row(cases: Cases) -> Iterator[Cases]:
    n_rows = cases.log_p.shape[0]
    for gone in range(n_rows) if n_rows > 1 else ():
        kept = [k for k in range(n_rows) if k != gone]
        w = cases.w[kept]
        if float(w.sum()) > 0:
            yield replace(cases, log_p=cases.log_p[kept], log_w=numerics.log_of(w / w.sum(dim=0)))


def _without_an_entry(cases: Cases) -> Iterator[Cases]:
    """Merge two entries."""
    n_entries = cases.log_p.shape[-1]
    for one, other in itertools.combinations(range(n_entries), 2) if n_entries > 2 else ():
        p = cases.p
        merged = torch.cat([p[..., :one], p[..., one : one + 1] + p[..., other : other + 1], p[..., one + 1 :]], dim=-1)
        kept = [v for v in range(n_entries) if v != other]
        yield replace(cases, log_p=numerics.log_of(merged[..., kept]))


def _rounded(cases: Cases, *, keeps_weights: bool) -> Iterator[Cases]:
    """Yield the case in few decimals first, extras in few digits before in full."""
    p, w = cases.p[:, 0], cases.w[:, 0]
    extras = {name: float(values[0]) for name, values in cases.extras.items()}
    for digits in (1, 2, 3, 4, 6, 8, 10, 13):
        rows = [_decimal(row, digits) for row in p]
        weights = w.tolist() if keeps_weights else _decimal(w, digits)
        for numbers in ({name: float(f"{value:.{digits}g}") for name, value in extras.items()}, extras):
            yield of_numbers(rows, weights, **numbers)


def _decimal(p: Tensor, digits: int) -> Sequence[float]:
    """Round to decimals that sum to 1, the largest remainders up; what is small keeps two digits of its own."""
    unit = 10**digits
    tiny = (p > 0) & (p < 1 / unit)
    small = torch.tensor([float(f"{x:.1g}") for x in p.tolist()], dtype=DOUBLE)
    whole = torch.where(tiny, 0.0, p * unit)
    floor = whole.floor()
    short = unit - int(floor.sum())
    order = (whole - floor).argsort(descending=True)
    for place in order[: max(0, short)].tolist():
        floor[place] += 1
    numbers = [float(small[v]) if bool(tiny[v]) and floor[v] == 0 else int(floor[v]) / unit for v in range(len(p))]
    largest = max(range(len(numbers)), key=numbers.__getitem__)
    rest = sum(x for v, x in enumerate(numbers) if v != largest)
    numbers[largest] = round(1 - rest, 15)
    return numbers
