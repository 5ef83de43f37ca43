"""The audit of one step of a recursion: ``(base [*batch V], student [*batch V]) -> next teacher [*batch V]``, all logs.

The step makes the next generation's teacher from the base distribution and the present student. It may state the share
of the base that it keeps in an attribute ``anchor``, and its closed form in an attribute ``form``: ``{"mean":
"arithmetic"}`` for ``a base + (1 - a) student``, ``{"mean": "geometric"}`` for ``base^a student^(1-a) / Z``. What
follows from a form is certified; that the step computes it is a premise, which is attacked and not proved: see
:mod:`mashbill.audit.recursion_forms`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch

from mashbill import numerics
from mashbill.audit import recursion_forms
from mashbill.audit.axioms import require_axiom
from mashbill.audit.cases import Cases, of_numbers, random_cases
from mashbill.audit.pool_answers import LOG_TINY, row
from mashbill.audit.reporting import Checked, NotApplicable, named, report
from mashbill.audit.searching import Ask, Budget, Ground, Operator, Tally, effort_of, find, measured
from mashbill.audit.shrinking import shrink
from mashbill.audit.verdicts import CheckResult, Numbers, Witness
from mashbill.forms import form_of
from mashbill.shapes import Tensor

RECURSION_AXIOMS = ("recursion.anchoring", "recursion.contraction", "recursion.fixed_point")
_LEAST_NUMBER = 1e-307
_N_STEPS = 12  # of a faithful student
_STILL = 1e12  # a student so many steps away from the base goes nowhere
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


def _started(p: Tensor) -> Tensor:
    """Return a student half of whom is uniform: a geometric mean never brings back what is ruled out."""
    return (p + 1 / p.shape[-1]) / 2


def _followed(step: Operator, base: Tensor, student: Tensor) -> Tensor:
    """Return the log-probabilities of a student who learns each next teacher to perfection."""
    for _ in range(_N_STEPS):
        student = step(base, student).to(base.dtype).clamp_min(numerics.LOG_ZERO)
    return student


def _distance(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs().sum(dim=-1) / 2


@dataclass(frozen=True)
class _Asks:
    """The axioms for a stated share; ``anchor`` is None where none is stated."""

    anchor: float | None

    def anchoring(self, step: Operator, cases: Cases) -> Tensor:
        """What of the share of an entry is missing, or an entry of the base that is lost; a stated 0 is no share."""
        q, base = _next(step, cases.log_p[0], cases.log_p[1]), cases.p[0]
        if self.anchor == 0:
            return base.amax(dim=-1) * (anchor_of(step) == 0)
        missing = ((self.anchor or 0.0) * base - q).amax(dim=-1)
        return torch.maximum(missing, self._lost(q, base))

    def _lost(self, q: Tensor, base: Tensor) -> Tensor:
        is_lost = (q.log() < LOG_TINY) & (base > 1e-30) & ((self.anchor or 1.0) * base > _LEAST_NUMBER)
        return torch.where(is_lost, base.clamp_min(2e-6), 0.0).amax(dim=-1)

    def show_anchoring(self, step: Operator, cases: Cases) -> tuple[str, str]:
        """Tell it."""
        q, base, share = _next(step, cases.log_p[0], cases.log_p[1])[0], cases.p[0, 0], self.anchor or 0.0
        if self.anchor == 0:
            told = f"the next teacher is {row(q)}, and the share of the base that the step states is 0: none"
            return told, "float(base.max()) * (operator.anchor == 0)"
        if float(self._lost(q, base)) >= float((share * base - q).max()):
            kept = f"(base > 1e-30) * ({share or 1.0} * base > {_LEAST_NUMBER})"
            return f"the next teacher is {row(q)}, which loses an entry of the base", (
                f"float(((q(base, student) == 0) * base.clamp_min(2e-6) * {kept}).max())"
            )
        told = f"the next teacher is {row(q)}, not {share:g} of the base in each entry"
        return told, f"float(({share} * base - q(base, student)).max())"

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
        """How far a student that equals the base moves, or how far from the base another student stays for ever."""
        return torch.maximum(self._drift(step, cases), self._stays_away(step, cases))

    def _drift(self, step: Operator, cases: Cases) -> Tensor:
        return (_next(step, cases.log_p[0], cases.log_p[0]) - cases.p[0]).abs().amax(dim=-1)

    def _stays_away(self, step: Operator, cases: Cases) -> Tensor:
        """How far from the base a faithful student is that no longer moves; below 0 where it moves."""
        end = _followed(step, cases.log_p[0], _started(cases.p[1]).log())
        moved = (_next(step, cases.log_p[0], end) - end.exp()).abs().amax(dim=-1)
        return (end.exp() - cases.p[0]).abs().amax(dim=-1) - _STILL * moved

    def show_fixed_point(self, step: Operator, cases: Cases) -> tuple[str, str]:
        """Tell it."""
        if float(self._drift(step, cases)) >= float(self._stays_away(step, cases)):
            q = _next(step, cases.log_p[0], cases.log_p[0])[0]
            return f"a student that is the base becomes {row(q)}", "float((q(base, base) - base).abs().max())"
        start = _started(cases.p[1])
        end = _followed(step, cases.log_p[0], start.log()).exp()
        told = f"a faithful student from {row(start[0])} on is {row(end[0])} after {_N_STEPS} steps and stays there"
        followed = f"functools.reduce(lambda s, _: q(base, s), range({_N_STEPS}), (student + 1 / len(base)) / 2)"
        gap = f"(s - base).abs().max() - {_STILL} * (q(base, s) - s).abs().max()"
        return told, f"(lambda s: float({gap}))({followed})"

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
        if axiom == "recursion.contraction" and not anchor:
            raise NotApplicable(
                "the step states no rate; its attribute `anchor` would, above 0. It was never seen to expand"
            )
        mean = str(form_of(step).get("mean"))
        return (
            None
            if anchor is None
            else recursion_forms.certify(axiom, step, anchor, mean, seed=ground.seed, tally=tally)
        )

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
            f"import functools, torch; base, student, other_student = torch.tensor({p}, dtype=torch.float64)\n"
            "log = lambda x: x.log().clamp_min(-1e4); q = lambda b, s: operator(log(b), log(s)).double().exp()\n"
            f"print({expression})"
        ),
    )
