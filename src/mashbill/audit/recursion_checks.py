"""The audit of one step of a recursion: ``(base [*batch V], student [*batch V]) -> next teacher [*batch V]``, all logs.

The step makes the next generation's teacher from the base distribution and the present student. It may state the share
of the base that it keeps in an attribute ``anchor``, and its closed form in an attribute ``form``: ``{"mean":
"arithmetic"}`` for ``a base + (1 - a) student``, ``{"mean": "geometric"}`` for ``base^a student^(1-a) / Z``. What
follows from a form is certified; that the step computes it is a premise, which is attacked and not proved.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mashbill.audit.axioms import require_axiom
from mashbill.audit.cases import Cases, of_numbers, random_cases
from mashbill.audit.hull import are_distributions
from mashbill.audit.pool_answers import LOG_TINY, row
from mashbill.audit.reporting import Checked, NotApplicable, named, report
from mashbill.audit.searching import Ask, Budget, Ground, Operator, Tally, effort_of, find, measured
from mashbill.audit.shrinking import shrink
from mashbill.audit.verdicts import Certificate, CheckResult, Numbers, Witness, rechecks
from mashbill.forms import form_of
from mashbill.shapes import Tensor

RECURSION_AXIOMS = ("recursion.anchoring", "recursion.contraction", "recursion.fixed_point")
KIND = "anchored step"
_EXACT = 1e-9
_ROLES = ("base", "student", "other_student")


def anchor_of(step: Operator) -> float | None:
    """Return the share of the base that a step states, None if it states none.

    Raises:
        ValueError: It is no share.
    """
    anchor = getattr(step, "anchor", None)
    if anchor is None:
        return None
    if isinstance(anchor, bool) or not isinstance(anchor, (int, float)) or not 0 <= anchor <= 1:
        raise ValueError(f"anchor={anchor!r} must be the share of the base that a step keeps, between 0 and 1")
    return float(anchor)


def _next(step: Operator, base: Tensor, student: Tensor) -> Tensor:
    return step(base, student).double().exp()


def _distance(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs().sum(dim=-1) / 2


@dataclass(frozen=True)
class _Asks:
    """The axioms for a stated share; ``anchor`` is None where none is stated."""

    anchor: float | None

    def anchoring(self, step: Operator, cases: Cases) -> Tensor:
        """What of the share of an entry is missing; without a share, an entry of the base that is lost."""
        q, base = _next(step, cases.log_p[0], cases.log_p[1]), cases.p[0]
        if self.anchor is None:
            is_lost = (q.log() < LOG_TINY) & (base > 1e-30)
            return torch.where(is_lost, base.clamp_min(2e-6), 0.0).amax(dim=-1)
        return (self.anchor * base - q).amax(dim=-1)

    def show_anchoring(self, step: Operator, cases: Cases) -> tuple[str, str]:
        """Tell it."""
        q = _next(step, cases.log_p[0], cases.log_p[1])[0]
        if self.anchor is None:
            return f"the next teacher is {row(q)}, which loses an entry of the base", (
                "float(((q(base, student) == 0) * base.clamp_min(2e-6) * (base > 1e-30)).max())"
            )
        told = f"the next teacher is {row(q)}, not {self.anchor:g} of the base in each entry"
        return told, f"float(({self.anchor} * base - q(base, student)).max())"

    def contraction(self, step: Operator, cases: Cases) -> Tensor:
        """By how much two histories are further apart than stated."""
        base, one, other = cases.log_p
        rate = 1 - (self.anchor or 0.0)
        return _distance(_next(step, base, one), _next(step, base, other)) - rate * _distance(one.exp(), other.exp())

    def show_contraction(self, step: Operator, cases: Cases) -> tuple[str, str]:
        """Tell it."""
        base, one, other = cases.log_p
        rate = 1 - (self.anchor or 0.0)
        now, then = (
            float(_distance(one.exp(), other.exp())),
            float(_distance(_next(step, base, one), _next(step, base, other))),
        )
        told = f"students {now:.6g} apart in total variation become teachers {then:.6g} apart, above {rate:g} of it"
        apart = "(q(base, student) - q(base, other_student)).abs().sum() / 2"
        return told, f"float({apart} - {rate} * (student - other_student).abs().sum() / 2)"

    def fixed_point(self, step: Operator, cases: Cases) -> Tensor:
        """How far a student that equals the base moves."""
        return (_next(step, cases.log_p[0], cases.log_p[0]) - cases.p[0]).abs().amax(dim=-1)

    def show_fixed_point(self, step: Operator, cases: Cases) -> tuple[str, str]:
        """Tell it."""
        q = _next(step, cases.log_p[0], cases.log_p[0])[0]
        return f"a student that is the base becomes {row(q)}", "float((q(base, base) - base).abs().max())"

    def of(self, axiom: str) -> Ask:
        """Return the axiom's number and how it is told."""
        name = axiom.removeprefix("recursion.")
        return Ask(axiom, getattr(self, name), getattr(self, f"show_{name}"))


def check_recursion(
    step: Operator,
    *,
    name: str | None = None,
    axioms: Collection[str] | None = None,
    budget: Budget = "quick",
    seed: int = 0,
) -> list[CheckResult]:
    """Ask one step of a recursion all axioms of recursion, or some.

    Args:
        step: ``(base [*batch V], student [*batch V]) -> [*batch V]``, log-probabilities. See the module for its
            attributes ``anchor`` and ``form``.
        name: How to call it; its own name by default.
        axioms: Ids of axioms; all of recursion by default.
        budget: ``quick`` takes about a second, ``standard`` half a minute, ``deep`` some minutes.
        seed: Of all random cases.

    Returns:
        One result an axiom, in the order of :data:`RECURSION_AXIOMS`.

    Raises:
        ValueError: There is no such budget, an axiom is none of a recursion, or ``anchor`` is no share.
    """
    for axiom in axioms or ():
        require_axiom(axiom)
        if axiom not in RECURSION_AXIOMS:
            raise ValueError(f"axiom={axiom!r} is asked of no recursion; these are: {', '.join(RECURSION_AXIOMS)}")
    anchor, ground = anchor_of(step), Ground(effort_of(budget), seed, n_rows=3)
    run = partial(report, name=name or named(step), seed=seed)
    wanted = [axiom for axiom in RECURSION_AXIOMS if axioms is None or axiom in axioms]
    problem = run(axiom=RECURSION_AXIOMS[0], check=lambda _tally: _check_answer(step, ground))
    if problem.verdict == "error":
        return [run(axiom=axiom, check=lambda _tally: problem.reason) for axiom in wanted]
    return [run(axiom=axiom, check=partial(_check, axiom, step, anchor, ground)) for axiom in wanted]


def replay_recursion(inputs: Numbers, operator: Operator) -> float:
    """Return by how much a witness's situation breaks its axiom, computed again.

    Args:
        inputs: Of a witness of kind ``"recursion"``.
        operator: The step.

    Raises:
        ValueError: The inputs are no recursion's.
    """
    if inputs.get("kind") != "recursion":
        raise ValueError(f"kind={inputs.get('kind')!r} must be 'recursion' for a recursion's witness")
    ask = _Asks(inputs["anchor"]).of(inputs["axiom"])
    return float(measured(ask, operator, of_numbers([inputs[role] for role in _ROLES], [1 / 3] * 3))[0])


def _check_answer(step: Operator, ground: Ground) -> str:
    base, student, _ = random_cases(ground.generator(), n_rows=3, n_entries=4, n_each=1).log_p
    for one, other in ((base, student), (base[0], student[0])):
        q = step(one, other)
        if not isinstance(q, Tensor) or not q.is_floating_point():
            kind = q.dtype if isinstance(q, Tensor) else type(q).__name__
            return f"the step answered {kind}, but must answer floating-point log-probabilities"
        if q.shape != one.shape:
            return f"the step answered shape {list(q.shape)} to {list(one.shape)}, but must keep it"
    total = float(step(base[0], student[0]).double().exp().sum())
    if not abs(total - 1) <= 1e-5:
        return f"the step answered no distribution but a sum of {total:.6g}"
    return ""


def _check(axiom: str, step: Operator, anchor: float | None, ground: Ground, tally: Tally) -> Checked:
    ask = _Asks(anchor).of(axiom)
    tolerance = ask.tolerance * (30 if step(*ground.random[0].log_p[:2]).dtype != torch.float64 else 1)
    found = find(ask, step, ground, tolerance=tolerance, tally=tally)
    if found is None:
        if axiom == "recursion.contraction" and anchor is None:
            raise NotApplicable("the step states no rate; its attribute `anchor` would. It was never seen to expand")
        return _certify(axiom, step, anchor, ground, tally)

    def broken(one: Cases) -> float:
        return float(measured(ask, step, one)[0])

    small = shrink(found.cases, broken, tolerance=tolerance, keeps_rows=True)
    with torch.no_grad():
        told, expression = ask.show(step, small)
    p = small.to_json()["p"]
    rows = dict(zip(_ROLES, p, strict=True))
    used = _ROLES[: {"recursion.anchoring": 2, "recursion.contraction": 3}.get(axiom, 1)]
    return Witness(
        told=f"{', '.join(f'{role} {row(torch.tensor(rows[role]))}' for role in used)}: {told}",
        inputs={"kind": "recursion", "axiom": axiom, "anchor": anchor} | rows,
        violation=broken(small),
        search=found.search,
        replay=(
            f"import torch; base, student, other_student = torch.tensor({p}, dtype=torch.float64)\n"
            "log = lambda x: x.log().clamp_min(-1e4); q = lambda b, s: operator(log(b), log(s)).double().exp()\n"
            f"print({expression})"
        ),
    )


# Certificates.

_CLAIMS: Mapping[tuple[str, str], str] = {
    ("recursion.anchoring", "arithmetic"): "a base + (1 - a) s >= a base",
    ("recursion.contraction", "arithmetic"): "linear: TV(q, q') = (1 - a) TV(s, s')",
    ("recursion.fixed_point", "arithmetic"): "a base + (1 - a) base = base",
    ("recursion.fixed_point", "geometric"): "base^a base^(1-a) = base",
}


def _formula(base: np.ndarray, student: np.ndarray, anchor: float, mean: str) -> np.ndarray:
    if mean == "arithmetic":
        return anchor * base + (1 - anchor) * student
    powers = base**anchor * student ** (1 - anchor)
    return powers / powers.sum()


def _certify(axiom: str, step: Operator, anchor: float | None, ground: Ground, tally: Tally) -> Certificate | None:
    mean = str(form_of(step).get("mean"))
    if anchor is None or (axiom, mean) not in _CLAIMS:
        return None
    generator = torch.Generator().manual_seed(ground.seed + 1)
    base, student, _ = (
        log_p.clamp_min(-30) for log_p in random_cases(generator, n_rows=3, n_entries=4, n_each=30).log_p
    )
    base, student = base.log_softmax(-1), student.log_softmax(-1)
    answers = _next(step, base, student).detach().numpy()
    expected = [_formula(b, s, anchor, mean) for b, s in zip(base.exp().numpy(), student.exp().numpy(), strict=True)]
    worst = float(np.abs(answers - np.stack(expected)).max())
    if not worst <= _EXACT:
        tally.notes.append(f"it declares the {mean} mean, but differs from it by {worst:.3g}")
        return None
    chance, instances = np.random.default_rng(0), []
    for n_entries in (2, 3, 4):
        rows = (chance.multinomial(100 - 5 * n_entries, chance.dirichlet(np.ones(n_entries)), size=3) + 5) / 100
        after = [_formula(rows[0], student, anchor, mean).tolist() for student in rows]
        instances.append(dict(zip(_ROLES, rows.tolist(), strict=True)) | {"next": after})
    return Certificate(
        kind=KIND,
        claim=f"{mean} mean with a = {anchor:g}: {_CLAIMS[axiom, mean]}",
        premise=f"the step computes the form that it declares; it did so on {len(expected)} random cases",
        numbers={"axiom": axiom, "mean": mean, "anchor": anchor, "instances": instances},
    )


@rechecks(KIND)
def recheck_step(numbers: Numbers) -> bool:
    """Compute the step and the theorem's numeric side again on the stored instances."""
    axiom, mean, a = numbers["axiom"], numbers["mean"], float(numbers["anchor"])
    if (axiom, mean) not in _CLAIMS or not (math.isfinite(a) and 0 <= a <= 1) or len(numbers["instances"]) < 3:
        return False
    for stored in numbers["instances"]:
        rows = np.asarray([stored[role] for role in _ROLES], dtype=float)
        after = np.stack([_formula(rows[0], student, a, mean) for student in rows])
        same, kept = (
            (np.abs(after - np.asarray(stored["next"], dtype=float)) <= _EXACT).all(),
            after >= a * rows[0] - _EXACT,
        )
        apart = np.abs(after[1] - after[2]).sum() - (1 - a) * np.abs(rows[1] - rows[2]).sum()
        sides = {
            "recursion.anchoring": bool(kept.all()),
            "recursion.contraction": bool(abs(apart) <= _EXACT),
            "recursion.fixed_point": bool(np.abs(after[0] - rows[0]).max() <= _EXACT),
        }
        if not (are_distributions(rows) and bool(same) and sides[axiom]):
            return False
    return True
