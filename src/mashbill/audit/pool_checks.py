"""The audit of a pool: which of the axioms of aggregation it keeps, which it breaks, and on which teachers.

A pool is known by its contract alone: log-probabilities ``[K *batch V]`` and log-weights ``[K *batch]`` become
log-probabilities ``[*batch V]``; zeros are ``LOG_ZERO``. A search cannot prove that an axiom holds for all teachers, so
a pool that survives has survived, no more. A pool that declares its closed form in an attribute ``form`` is certified
where a theorem speaks of that form: see :mod:`mashbill.audit.pool_forms`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from mashbill.audit import pool_asks, pool_contract, pool_forms, pool_searches
from mashbill.audit.axioms import require_axiom
from mashbill.audit.cases import DOUBLE, Cases, of_numbers, random_cases
from mashbill.audit.pool_answers import probabilities, replay_head, told_case
from mashbill.audit.reporting import Checked, named, report
from mashbill.audit.searching import Ask, Budget, Found, Ground, Operator, Tally, effort_of, find, measured
from mashbill.audit.shrinking import shrink
from mashbill.audit.verdicts import CheckResult, Numbers, Witness

POOL_AXIOMS = (
    "contract.state",
    "contract.rows",
    *(ask.axiom for ask in pool_contract.ASKS),
    *(ask.axiom for ask in pool_asks.ASKS),
    "pool.continuity",
)
"""What is asked of a pool unless the caller chooses, in the order in which it is asked."""
_ASKS: Mapping[str, Ask] = {ask.axiom: ask for ask in (*pool_contract.ASKS, *pool_asks.ASKS)}


def check_pool(
    pool: Operator,
    *,
    name: str | None = None,
    axioms: Collection[str] | None = None,
    budget: Budget = "quick",
    seed: int = 0,
) -> list[CheckResult]:
    """Ask a pool all axioms of aggregation, or some.

    Args:
        pool: ``(log-probabilities [K *batch V], log-weights [K *batch]) -> log-probabilities [*batch V]``. It may
            declare its closed form in an attribute ``form``, e.g. ``{"mean": "power", "r": 0.5}``.
        name: How to call it; its own name by default.
        axioms: Ids of axioms; ``pool.*`` and what the contract asks of any operator by default.
        budget: ``quick`` takes about two seconds, ``standard`` half a minute, ``deep`` some minutes.
        seed: Of all random cases.

    Returns:
        One result an axiom, in the order of :data:`POOL_AXIOMS`.

    Raises:
        ValueError: There is no such budget, or an axiom is none of a pool.
    """
    wanted = _wanted(axioms)
    ground = Ground(effort_of(budget), seed)
    run = partial(report, name=name or named(pool), seed=seed)
    # A memory is looked for before any other call could fill it.
    first = [axiom for axiom in wanted if axiom == "contract.state"]
    done = [run(axiom=axiom, check=partial(pool_contract.search_batch, axiom, pool, ground)) for axiom in first]
    small = random_cases(ground.generator(), n_rows=2, n_entries=3, n_each=2)
    problem = run(axiom="pool.normalised", check=lambda _tally: pool_contract.check_answer(pool, small))
    if problem.verdict == "error":
        return [run(axiom=axiom, check=lambda _tally: problem.reason) for axiom in wanted]
    auditor = _Auditor(pool, ground, pool_forms.read_form(pool), _is_coarse(pool, small))
    return done + [run(axiom=axiom, check=partial(auditor.check, axiom)) for axiom in wanted[len(done) :]]


@dataclass(frozen=True)
class _Auditor:
    pool: Operator
    ground: Ground
    form: pool_forms.Form | None
    is_coarse: bool

    def check(self, axiom: str, tally: Tally) -> Checked:
        """Return a witness, a certificate, or None."""
        if axiom == "contract.rows":
            return pool_contract.search_batch(axiom, self.pool, self.ground, tally)
        if axiom == "pool.continuity":
            witness = pool_searches.search_jumps(self.pool, self.ground, tally, is_coarse=self.is_coarse)
        else:
            witness = self._search(_ASKS[axiom], tally)
        if witness is not None or self.form is None:
            return witness
        return self.form.certify(axiom, self.pool, self.ground.seed, tally)

    def _search(self, ask: Ask, tally: Tally) -> Witness | None:
        tolerance = ask.tolerance * (30 if self.is_coarse and ask.tolerance < 1e-3 else 1)
        found = find(ask, self.pool, self.ground, tolerance=tolerance, tally=tally)
        if found is not None:
            return _witness(ask, self.pool, found, tolerance)
        return pool_searches.search_precision(self.pool, self.ground, tally) if ask.axiom == "pool.normalised" else None


def replay_pool(inputs: Numbers, operator: Operator) -> float:
    """Return by how much a witness's situation breaks its axiom, computed again.

    Args:
        inputs: Of a witness of kind ``"pool"``.
        operator: The pool.

    Raises:
        ValueError: The inputs are no pool's.
    """
    if inputs.get("kind") != "pool":
        raise ValueError(f"kind={inputs.get('kind')!r} must be 'pool' for a pool's witness")
    axiom = inputs["axiom"]
    if axiom == "pool.continuity":
        before, after = (of_numbers(inputs[p], inputs[w]) for p, w in (("p", "w"), ("p_after", "w_after")))
        return float((probabilities(operator, before) - probabilities(operator, after)).abs().max())
    if axiom in ("contract.state", "contract.rows"):
        p, w = (torch.tensor(inputs[one], dtype=DOUBLE).log().clamp_min(-1e4) for one in ("p", "w"))
        return float(pool_contract.GAPS[axiom](operator, Cases(p, w, {})).max())
    if "dtype" in inputs:
        return float(pool_searches.error_in(inputs["dtype"], operator, of_numbers(inputs["p"], inputs["w"])).max())
    numbers = {name: value for name, value in inputs.items() if name in _EXTRAS}
    return float(measured(_ASKS[axiom], operator, of_numbers(inputs["p"], inputs["w"], **numbers))[0])


_EXTRAS = ("share", "temperature", "factor")


def _wanted(axioms: Collection[str] | None) -> list[str]:
    for axiom in axioms or ():
        require_axiom(axiom)
        if axiom not in POOL_AXIOMS:
            raise ValueError(f"axiom={axiom!r} is asked of no pool; these are: {', '.join(POOL_AXIOMS)}")
    return [axiom for axiom in POOL_AXIOMS if axioms is None or axiom in axioms]


@torch.no_grad()
def _is_coarse(pool: Operator, cases: Cases) -> bool:
    """Whether the pool rounds more than float64 does, as one does that works in float32 inside."""
    nearby = Cases(cases.log_p * (1 + 1e-14), cases.log_w, {})
    gap = (probabilities(pool, cases) - probabilities(pool, nearby)).abs().amax(dim=-1)
    error = (pool(cases.log_p, cases.log_w).double().exp().sum(dim=-1) - 1).abs()
    rounding = torch.maximum(gap, torch.where(error < 1e-6, error, 0.0)).nan_to_num(0)
    is_single = pool(cases.log_p, cases.log_w).dtype != DOUBLE
    return is_single or bool((rounding > 1e-9).double().mean() > 0.1)


def _witness(ask: Ask, pool: Operator, found: Found, tolerance: float) -> Witness:
    small = shrink(found.cases, lambda one: float(measured(ask, pool, one)[0]), tolerance=tolerance)
    with torch.no_grad():
        told, expression = ask.show(pool, small)
    inputs = small.to_json()
    return Witness(
        told=f"{told_case(inputs)}: {told}",
        inputs={"kind": "pool", "axiom": ask.axiom} | inputs,
        violation=float(measured(ask, pool, small)[0]),
        search=found.search,
        replay=replay_head(inputs) + f"print({expression})",
    )
