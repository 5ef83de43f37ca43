"""The audit of a softening: ``(log-probabilities [*batch V], temperature=T) -> log-probabilities [*batch V]``.

Temperatures are asked from 1 up. A softening that declares its family in an attribute ``form``, ``{"family": "power"}``
or ``{"family": "mixture"}``, is certified where a theorem speaks of the family; that it computes the family is the
premise, and is attacked: see :mod:`mashbill.audit.softening_forms`.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch

from mashbill.audit import softening_forms
from mashbill.audit.axioms import require_axiom
from mashbill.audit.cases import DOUBLE, Cases, of_numbers, random_cases
from mashbill.audit.jumps import find_jump
from mashbill.audit.pool_answers import entropy, row
from mashbill.audit.reporting import Checked, named, report
from mashbill.audit.searching import Ask, Budget, Ground, Operator, Tally, effort_of, find, measured
from mashbill.audit.shrinking import shrink
from mashbill.audit.verdicts import CheckResult, Numbers, Witness
from mashbill.shapes import Tensor

HOT = 1e7
"""A temperature at which nothing of the distribution should be left."""
_NAMES = ("temperature", "factor")


def softened(soften: Operator, log_p: Tensor, temperature: Tensor) -> Tensor:
    """Return the answers, ``[N V]``, each case at its own temperature; a softening takes one at a time."""
    at = [float(t) for t in temperature]
    groups = [[n for n, other in enumerate(at) if other == t] for t in dict.fromkeys(at)]
    answers = [soften(log_p[torch.tensor(group)], temperature=at[group[0]]) for group in groups]
    order = torch.tensor([n for group in groups for n in group])
    return torch.cat(answers)[order.argsort()]


def _distribution(soften: Operator, log_p: Tensor, temperature: Tensor) -> Tensor:
    return softened(soften, log_p, temperature).double().log_softmax(-1).clamp_min(-1e4)


def _disorder(p: Tensor, q: Tensor) -> Tensor:
    """How far an entry is above one that was more probable, ``[N V V]``."""
    was_above = p.unsqueeze(-1) > p.unsqueeze(-2) + 1e-12
    return (q.unsqueeze(-2) - q.unsqueeze(-1)).masked_fill(~was_above, -torch.inf)


def _reorders(soften: Operator, cases: Cases) -> Tensor:
    q = _distribution(soften, cases.log_p[0], cases.extras["temperature"]).exp()
    return _disorder(cases.p[0], q).flatten(1).amax(dim=-1)


def _show_reorders(soften: Operator, cases: Cases) -> tuple[str, str]:
    t = float(cases.extras["temperature"][0])
    q = _distribution(soften, cases.log_p[0], cases.extras["temperature"]).exp()[0]
    v, other = divmod(int(_disorder(cases.p[0], q[None])[0].argmax()), len(q))
    told = f"at T = {t:g} it is {row(q)}: entry {other} overtakes entry {v}"
    return told, f"float((q(p, {t})[{other}] - q(p, {t})[{v}]))"


def _entropies(soften: Operator, cases: Cases) -> tuple[Tensor, Tensor]:
    low = cases.extras["temperature"]
    each = [entropy(_distribution(soften, cases.log_p[0], t)) for t in (low, low * cases.extras["factor"])]
    return each[0], each[1]


def _sharpens(soften: Operator, cases: Cases) -> Tensor:
    cooler, warmer = _entropies(soften, cases)
    return cooler - warmer


def _show_sharpens(soften: Operator, cases: Cases) -> tuple[str, str]:
    cooler, warmer = _entropies(soften, cases)
    low = float(cases.extras["temperature"][0])
    high = float((cases.extras["temperature"] * cases.extras["factor"])[0])
    told = f"at T = {low:g} it has {float(cooler):.6g} nats, at T = {high:g} only {float(warmer):.6g}"
    return told, f"float(torch.special.entr(q(p, {low})).sum() - torch.special.entr(q(p, {high})).sum())"


def _changes(soften: Operator, cases: Cases) -> Tensor:
    once = torch.ones_like(cases.log_w[0])
    return (softened(soften, cases.log_p[0], once).double().exp() - cases.p[0]).abs().amax(dim=-1)


def _show_changes(soften: Operator, cases: Cases) -> tuple[str, str]:
    q = softened(soften, cases.log_p[0], torch.ones(1)).double().exp()[0]
    return f"at T = 1 it is {row(q)}", "float((operator(log(p), temperature=1.0).double().exp() - p).abs().max())"


def _limit_gap(soften: Operator, cases: Cases) -> Tensor:
    q = softened(soften, cases.log_p[0], torch.full_like(cases.log_w[0], HOT)).double().exp()
    possible = (cases.p[0] > 0).double()
    on_support = (q - possible / possible.sum(dim=-1, keepdim=True)).abs().amax(dim=-1)
    return torch.minimum(on_support, (q - 1 / q.shape[-1]).abs().amax(dim=-1)) - 1e-3


def _show_limit(soften: Operator, cases: Cases) -> tuple[str, str]:
    q = softened(soften, cases.log_p[0], torch.full((1,), HOT, dtype=DOUBLE)).double().exp()[0]
    hot = f"operator(log(p), temperature={HOT}).double().exp()"
    return f"at T = {HOT:g} it is {row(q)}", (
        f"float(min(({hot} - (p > 0) / (p > 0).sum()).abs().max(), ({hot} - 1 / len(p)).abs().max()) - 1e-3)"
    )


_TEMPERATURES = (2.0, 1.1, 1.5, 4.0, 20.0)
ASKS: Mapping[str, Ask] = {
    ask.axiom: ask
    for ask in (
        Ask("softening.ranking", _reorders, _show_reorders, extras={"temperature": _TEMPERATURES}),
        Ask(
            "softening.entropy",
            _sharpens,
            _show_sharpens,
            tolerance=1e-5,
            extras={"temperature": (1.0, 2.0, 1.5, 3.0, 10.0), "factor": (1.1, 1.25, 2.0)},
        ),
        Ask("softening.identity", _changes, _show_changes, climbs=False),
        Ask("softening.boundary", _limit_gap, _show_limit, climbs=False),
    )
}
SOFTENING_AXIOMS = ("softening.ranking", "softening.continuity", *list(ASKS)[1:])


def check_softening(
    soften: Operator,
    *,
    name: str | None = None,
    axioms: Collection[str] | None = None,
    budget: Budget = "quick",
    seed: int = 0,
) -> list[CheckResult]:
    """Ask a softening all axioms of softening, or some.

    Args:
        soften: ``(log-probabilities [*batch V], temperature=float) -> log-probabilities [*batch V]``.
        name: How to call it; its own name by default.
        axioms: Ids of axioms; all of softening by default.
        budget: ``quick`` takes about a second, ``standard`` half a minute, ``deep`` some minutes.
        seed: Of all random cases.

    Returns:
        One result an axiom, in the order of :data:`SOFTENING_AXIOMS`.

    Raises:
        ValueError: There is no such budget, or an axiom is none of a softening.
    """
    for axiom in axioms or ():
        require_axiom(axiom)
        if axiom not in SOFTENING_AXIOMS:
            raise ValueError(f"axiom={axiom!r} is asked of no softening; these are: {', '.join(SOFTENING_AXIOMS)}")
    ground = Ground(effort_of(budget), seed, n_rows=1)
    run = partial(report, name=name or named(soften), seed=seed)
    wanted = [axiom for axiom in SOFTENING_AXIOMS if axioms is None or axiom in axioms]
    problem = run(axiom="softening.identity", check=lambda _tally: _check_answer(soften, ground))
    if problem.verdict == "error":
        return [run(axiom=axiom, check=lambda _tally: problem.reason) for axiom in wanted]
    form = softening_forms.read_form(soften)
    return [run(axiom=axiom, check=partial(_check, axiom, soften, ground, form)) for axiom in wanted]


def replay_softening(inputs: Numbers, operator: Operator) -> float:
    """Return by how much a witness's situation breaks its axiom, computed again.

    Args:
        inputs: Of a witness of kind ``"softening"``.
        operator: The softening.

    Raises:
        ValueError: The inputs are no softening's.
    """
    if inputs.get("kind") != "softening":
        raise ValueError(f"kind={inputs.get('kind')!r} must be 'softening' for a softening's witness")
    extras = {name: inputs[name] for name in _NAMES if name in inputs}
    here = of_numbers([inputs["p"]], [1.0], **extras)
    if inputs["axiom"] == "softening.continuity":
        there = of_numbers([inputs["p_after"]], [1.0], temperature=inputs["temperature_after"])
        return float((_at(operator, here) - _at(operator, there)).abs().max())
    return float(measured(ASKS[inputs["axiom"]], operator, here)[0])


def _at(soften: Operator, cases: Cases) -> Tensor:
    return _distribution(soften, cases.log_p[0], cases.extras["temperature"]).exp()


def _check_answer(soften: Operator, ground: Ground) -> str:
    log_p = random_cases(ground.generator(), n_rows=1, n_entries=3, n_each=1).log_p[0]
    for given in (log_p[0], log_p, log_p.unsqueeze(0)):
        q = soften(given, temperature=2.0)
        if not isinstance(q, Tensor) or not q.is_floating_point():
            kind = q.dtype if isinstance(q, Tensor) else type(q).__name__
            return f"the softening answered {kind}, but must answer floating-point log-probabilities"
        if q.shape != given.shape:
            return f"the softening answered shape {list(q.shape)} to {list(given.shape)}, but must keep it"
    total = float(soften(log_p[0], temperature=2.0).double().exp().sum())
    if not abs(total - 1) <= 1e-5:
        return f"the softening answered no distribution: at T = 2 {row(log_p[0].exp())} becomes a sum of {total:.6g}"
    return ""


def _check(axiom: str, soften: Operator, ground: Ground, form: softening_forms.Family | None, tally: Tally) -> Checked:
    search = _jumps if axiom == "softening.continuity" else partial(_search, ASKS[axiom])
    witness = search(soften, ground, tally)
    if witness is not None or form is None:
        return witness
    return softening_forms.certify(axiom, form, partial(softened, soften), ground.seed, tally)


def _search(ask: Ask, soften: Operator, ground: Ground, tally: Tally) -> Witness | None:
    is_coarse = soften(torch.zeros(2, dtype=DOUBLE) - 0.6931471805599453, temperature=2.0).dtype != DOUBLE
    tolerance = ask.tolerance * (30 if is_coarse else 1)
    found = find(ask, soften, ground, tolerance=tolerance, tally=tally)
    if found is None:
        return None

    def broken(one: Cases) -> float:
        return float(measured(ask, soften, one)[0])

    small = shrink(found.cases, broken, tolerance=tolerance, keeps_rows=True)
    with torch.no_grad():
        told, expression = ask.show(soften, small)
    numbers = small.to_json()
    inputs: dict[str, Any] = {"kind": "softening", "axiom": ask.axiom, "p": numbers["p"][0]}
    inputs |= {name: numbers[name] for name in _NAMES if name in numbers}
    return Witness(
        told=f"p = {row(small.p[0])}: {told}",
        inputs=inputs,
        violation=broken(small),
        search=found.search,
        replay=_head(inputs["p"]) + f"print({expression})",
    )


@torch.no_grad()
def _jumps(soften: Operator, ground: Ground, tally: Tally) -> Witness | None:
    ends = {"temperature": torch.tensor([1.0, 6.0], dtype=DOUBLE)}
    answer = partial(_at, soften)
    jump = find_jump(answer, ground, coarse=False, tally=tally, moves_weights=False, extras=ends)
    if jump is None:
        return None
    here, there = (one.to_json() for one in (jump.before, jump.after))
    q, q_after = answer(jump.before)[0], answer(jump.after)[0]
    inputs = {"kind": "softening", "axiom": "softening.continuity", "p": here["p"][0]}
    inputs |= {"temperature": here["temperature"], "p_after": there["p"][0], "temperature_after": there["temperature"]}
    second = f"q(torch.tensor({there['p'][0]}, dtype=torch.float64), {there['temperature']})"
    told = f"p = {row(jump.before.p[0])} at T = {here['temperature']:.6g}: {row(q)} becomes {row(q_after)}"
    return Witness(
        told=f"{told} {'when 1e-300 becomes 0' if jump.search == 'zeros' else 'within 1e-12'}",
        inputs=inputs,
        violation=jump.violation,
        search=jump.search,
        replay=_head(here["p"][0]) + f"print(float((q(p, {here['temperature']}) - {second}).abs().max()))",
    )


def _head(p: list[float]) -> str:
    return (
        f"import torch; p = torch.tensor({p}, dtype=torch.float64); log = lambda x: x.log().clamp_min(-1e4)\n"
        "q = lambda p, t: operator(log(p), temperature=t).double().softmax(-1)\n"
    )
