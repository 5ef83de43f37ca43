"""What follows from the mean that a recursion's step declares, with the share of the base that it states.

The arithmetic mean brings a student nearer to the base in total variation, the geometric one in the spread of
``log(student/base)``, both by ``1 - a`` a step. As for pools, the theorem speaks of the formula, and that the program
computes the formula is a premise that is attacked and not proved.
"""

from collections.abc import Mapping

import numpy as np
import torch

from mashbill.audit.cases import random_cases
from mashbill.audit.comparing import ENTRIES, Comparison, drawn_sizes
from mashbill.audit.comparing import EXACT as _EXACT
from mashbill.audit.hull import are_distributions
from mashbill.audit.searching import Operator, Tally
from mashbill.audit.verdicts import Certificate, Numbers, rechecks

KIND = "anchored step"
_LEAST = 1e-6
"""Smaller shares cannot be told from none by a comparison."""
_ROLES = ("base", "student", "other_student")
_CLAIMS: Mapping[tuple[str, str], str] = {
    ("recursion.anchoring", "arithmetic"): "a base + (1 - a) s >= a base",
    ("recursion.contraction", "arithmetic"): "linear: TV(q, q') = (1 - a) TV(s, s')",
    ("recursion.fixed_point", "arithmetic"): "q - base = (1 - a)(s - base): 0 at the base, and nearer to it elsewhere",
    ("recursion.fixed_point", "geometric"): (
        "log(q/base) = (1 - a) log(s/base) + a constant: 0 at the base, and nearer to it elsewhere where s > 0"
    ),
}


def _formula(base: np.ndarray, student: np.ndarray, anchor: float, mean: str) -> np.ndarray:
    if mean == "arithmetic":
        return anchor * base + (1 - anchor) * student
    powers = base**anchor * student ** (1 - anchor)
    return powers / powers.sum()


def certify(axiom: str, step: Operator, anchor: float, mean: str, *, seed: int, tally: Tally) -> Certificate | None:
    """Return the certificate of an axiom; None if no theorem speaks of the mean, or the step computes another.

    Args:
        axiom: Its id.
        step: The program.
        anchor: The share of the base that it states.
        mean: ``"arithmetic"`` or ``"geometric"``, as it declares.
        seed: Of the comparison.
        tally: Gets a note where the declaration is not believed.
    """
    if (axiom, mean) not in _CLAIMS:
        return None
    if anchor < _LEAST:
        tally.notes.append(f"it states a share of {anchor:g}, which cannot be told from none")
        return None
    seen = _compare(step, anchor, mean, seed)
    if not seen.is_same:
        tally.notes.append(f"it declares the {mean} mean, but differs from it by {seen.worst:.3g}")
        return None
    chance, instances = np.random.default_rng(0), []
    for n_entries in (2, 3, 4):
        rows = (chance.multinomial(100 - 5 * n_entries, chance.dirichlet(np.ones(n_entries)), size=3) + 5) / 100
        after = [_formula(rows[0], student, anchor, mean).tolist() for student in rows]
        instances.append(dict(zip(_ROLES, rows.tolist(), strict=True)) | {"next": after})
    return Certificate(
        kind=KIND,
        claim=f"{mean} mean with a = {anchor:g}: {_CLAIMS[axiom, mean]}",
        premise=f"the step computes the form that it declares; {seen.told(seed)}",
        numbers={"axiom": axiom, "mean": mean, "anchor": anchor, "instances": instances},
    )


@torch.no_grad()
def _compare(step: Operator, anchor: float, mean: str, seed: int) -> Comparison:
    """Compare the step with the formula on random cases; zeros only where the formula says what they do."""
    generator, seen = torch.Generator().manual_seed(seed + 1), Comparison()
    large = [*ENTRIES, *(v for _, v in drawn_sizes(generator, most_rows=1, most_columns=ENTRIES[-1], n=5))]
    for n_each, sizes in ((15, (2, 4)), (1, large)):
        for n_entries in sizes:
            base, student = random_cases(generator, n_rows=2, n_entries=n_entries, n_each=n_each).log_p
            if mean == "geometric":
                base, student = (one.clamp_min(-30).log_softmax(-1) for one in (base, student))
            answers = step(base, student).double().exp().numpy()
            for answer, b, s in zip(answers, base.exp().numpy(), student.exp().numpy(), strict=True):
                seen.add(answer, _formula(b, s, anchor, mean), entries=n_entries)
    return seen


@rechecks(KIND)
def recheck_step(numbers: Numbers) -> bool:
    """Compute the step and the theorem's numeric side again on the stored instances."""
    axiom, mean, a = numbers["axiom"], numbers["mean"], float(numbers["anchor"])
    if (axiom, mean) not in _CLAIMS or not _LEAST <= a <= 1 or len(numbers["instances"]) < 3:
        return False
    for stored in numbers["instances"]:
        rows = np.asarray([stored[role] for role in _ROLES], dtype=float)
        if not (are_distributions(rows) and (rows > 0).all()):
            return False
        after = np.stack([_formula(rows[0], student, a, mean) for student in rows])
        is_same = bool((np.abs(after - np.asarray(stored["next"], dtype=float)) <= _EXACT).all())
        if not (is_same and _holds(axiom, mean, a, rows, after)):
            return False
    return True


def _holds(axiom: str, mean: str, a: float, rows: np.ndarray, after: np.ndarray) -> bool:
    """The numeric side of a theorem; the first of the rows is the base, and all of them are students."""
    if axiom == "recursion.anchoring":
        return bool((after >= a * rows[0] - _EXACT).all())
    if axiom == "recursion.contraction":
        return bool(abs(np.abs(after[1] - after[2]).sum() - (1 - a) * np.abs(rows[1] - rows[2]).sum()) <= _EXACT)
    before, now = (np.log(each / rows[0]) if mean == "geometric" else each - rows[0] for each in (rows, after))
    left = now - (1 - a) * before
    return bool((np.ptp(left, axis=-1) <= _EXACT).all() and np.abs(after[0] - rows[0]).max() <= _EXACT)
