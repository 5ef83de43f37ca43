"""At which sizes a program is compared with the formula that it declares, and how a premise tells what was compared.

The comparison is all that stands behind a premise, and it sees nothing but the sizes that it tries. So it tries small
and large ones, some that are the same for everybody and some that the seed draws, and the premise names their range.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from mashbill.audit.cases import DOUBLE, full_support, random_cases
from mashbill.audit.pool_answers import of_case
from mashbill.audit.searching import Operator

EXACT = 1e-9
"""What rounding in float64 may cost a program that computes the formula."""
ENTRIES = (17, 257, 4099)
"""Large vocabularies, none a power of two."""
TEACHERS = (1, 4, 7, 64)
_MOST_NUMBERS = 2**16  # teachers times entries of one drawn case


@dataclass
class Comparison:
    """What a comparison of a program with its formula saw; whoever compares adds to it.

    Attributes:
        differences: The largest of each case.
        sizes: What the cases measured, by unit.
    """

    differences: list[float] = field(default_factory=list)
    sizes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, answer: np.ndarray, expected: np.ndarray, **sizes: float) -> None:
        """Count one case."""
        self.differences.append(float(np.abs(answer - expected).max()))
        for unit, size in sizes.items():
            self.sizes.setdefault(unit, []).append(size)

    @property
    def worst(self) -> float:
        """The largest difference; NaN if one is NaN, or if there was nothing to compare."""
        return float(np.max(self.differences or [np.nan]))

    @property
    def is_same(self) -> bool:
        """Whether the program computed the formula wherever it was looked at."""
        return self.worst <= EXACT

    def told(self, seed: int) -> str:
        """Say what was compared, for a premise.

        >>> seen = Comparison()
        >>> for n in (2, 4099):
        ...     seen.add(np.ones(n), np.ones(n), entries=n, temperature=1e7)
        >>> seen.told(7)
        'it did so to 1e-16 on 2 random cases (entries 2 to 4099, temperature 1e+07; seed 7); nothing else was tried'
        """
        ranges = ", ".join(f"{unit} {_span(each)}" for unit, each in self.sizes.items())
        return (
            f"it did so to {max(self.worst, 1e-16):.0e} on {len(self.differences)} random cases ({ranges}; "
            f"seed {seed}); nothing else was tried"
        )


def drawn(generator: torch.Generator, low: float, high: float, n: int) -> list[float]:
    """Return random numbers between two, as many of each order of magnitude."""
    each = torch.rand(n, generator=generator, dtype=DOUBLE)
    return [low * (high / low) ** one for one in each.tolist()]


def drawn_sizes(generator: torch.Generator, *, most_rows: int, most_columns: int, n: int) -> list[tuple[int, int]]:
    """Return random sizes, rows from 1 and columns from 2, no table too large for an audit of seconds."""
    rows = [round(one) for one in drawn(generator, 1, most_rows, n)]
    most = [max(2, min(most_columns, _MOST_NUMBERS // one)) for one in rows]
    return [(one, round(drawn(generator, 2, largest, 1)[0])) for one, largest in zip(rows, most, strict=True)]


def _span(values: list[float]) -> str:
    low, high = (f"{x:.0f}" if x == round(x) and x < 1e6 else f"{x:.2g}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


_SMALL_POOLS = ((1, 2), (2, 2), (2, 3), (3, 4), (5, 10))  # teachers and entries
_LARGE_POOLS = (*((k, ENTRIES[0]) for k in TEACHERS), (200, 3), (3, ENTRIES[1]), (2, ENTRIES[2]))


@torch.no_grad()
def compare_pool(
    pool: Operator, formula: Callable[[np.ndarray, np.ndarray], np.ndarray], *, takes_zeros: bool, seed: int
) -> Comparison:
    """Compare a pool with a formula on random cases.

    Args:
        pool: The program.
        formula: From probabilities ``[K V]`` and weights ``[K]`` to ``[V]``.
        takes_zeros: Whether the formula says what zeros do.
        seed: Of all cases and some of the sizes.
    """
    generator, seen = torch.Generator().manual_seed(seed + 1), Comparison()
    large = [*_LARGE_POOLS, *drawn_sizes(generator, most_rows=256, most_columns=ENTRIES[-1], n=10)]
    for n_each, sizes in ((15, _SMALL_POOLS), (1, large)):
        for n_rows, n_entries in sizes:
            cases = random_cases(generator, n_rows=n_rows, n_entries=n_entries, n_each=n_each)
            cases = cases if takes_zeros else full_support(cases)
            q, p, w = of_case(pool, cases).exp().numpy(), cases.p.numpy(), cases.w.numpy()
            for i in range(len(cases)):
                expected = formula(p[:, i], w[:, i] / w[:, i].sum())
                if np.isfinite(expected).all():
                    seen.add(q[i], expected, teachers=n_rows, entries=n_entries)
    return seen
