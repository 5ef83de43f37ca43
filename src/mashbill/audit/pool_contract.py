"""What is asked of any operator that is a function of its case, here of a pool: no memory, no batch, no favourites.

An axiom may be asked of a case, of a whole batch (does a row's answer depend on the others?), or of several calls.
"""

from collections.abc import Callable, Mapping

import torch

from mashbill.audit.cases import Cases, full_support, random_cases
from mashbill.audit.pool_answers import answer, of_case, probabilities, replay_head, row
from mashbill.audit.searching import Ask, Ground, Operator, Tally
from mashbill.audit.verdicts import Witness
from mashbill.shapes import Tensor

N_CALLS = 12
"""Calls after which a pool is taken to have no memory."""


def check_answer(pool: Operator, cases: Cases) -> str:
    """Return what is wrong with the kind of the answer, in words; empty if nothing is.

    Raises whatever the pool raises.
    """
    n_rows, n, n_entries = cases.log_p.shape
    shapes = [(n_rows, n_entries), (n_rows, n, n_entries), (n_rows, 1, n, n_entries)]
    for shape in shapes:
        log_p = cases.log_p[:, :1].expand(n_rows, n, n_entries) if len(shape) > 2 else cases.log_p[:, 0]
        log_w = cases.log_w[:, :1].expand(n_rows, n) if len(shape) > 2 else cases.log_w[:, 0]
        q = pool(log_p.reshape(shape), log_w.reshape(shape[:-1]))
        if not isinstance(q, Tensor):
            return f"the pool answered {type(q).__name__}, but must answer a tensor of log-probabilities"
        if tuple(q.shape) != shape[1:]:
            return (
                f"the pool answered shape {list(q.shape)} to teachers {list(shape)}, but must answer {list(shape[1:])}"
            )
        if not q.is_floating_point():
            return f"the pool answered {q.dtype}, but must answer floating-point log-probabilities"
    return ""


def state_gap(pool: Operator, cases: Cases) -> Tensor:
    """Return how much the answers to the same cases change over some calls, others in between, ``[N]``."""
    first = probabilities(pool, cases)
    worst = torch.zeros_like(first[:, 0])
    for call in range(N_CALLS):
        if call % 2:
            answer(pool, cases.log_p, cases.log_w.flip(0))
        worst = torch.maximum(worst, _gap(probabilities(pool, cases), first))
    return worst


def rows_gap(pool: Operator, cases: Cases) -> Tensor:
    """Return how much the answer to each case depends on the others in its batch, ``[N]``."""
    alone = torch.cat([probabilities(pool, cases.pick([n])) for n in range(len(cases))])
    return _gap(probabilities(pool, cases), alone)


def _gap(q: Tensor, other: Tensor) -> Tensor:
    return (q - other).nan_to_num(0).abs().amax(dim=-1)  # a NaN is another fault


def _unequal(pool: Operator, cases: Cases) -> Tensor:
    q = of_case(pool, cases).exp()
    turned = answer(pool, cases.log_p.flip(0), cases.log_w.flip(0)).exp()
    rolled = answer(pool, cases.log_p.roll(1, 0), cases.log_w.roll(1, 0)).exp()
    return torch.maximum((q - turned).abs(), (q - rolled).abs()).amax(dim=-1)


def _show_unequal(pool: Operator, cases: Cases) -> tuple[str, str]:
    q = of_case(pool, cases).exp()[0]
    turned = answer(pool, cases.log_p.flip(0), cases.log_w.flip(0)).exp()[0]
    told = f"teachers in reverse order pool to {row(turned)} instead of {row(q)}"
    return told, (
        "float(max((q(p, w).exp() - q(p.flip(0), w.flip(0)).exp()).abs().max(), "
        "(q(p, w).exp() - q(p.roll(1, 0), w.roll(1, 0)).exp()).abs().max()))"
    )


def _imprecise(pool: Operator, cases: Cases) -> Tensor:
    """The float32 answer against the float64 answer to the same rounded numbers."""
    log_p, log_w = cases.log_p.float(), cases.log_w.float()
    return (answer(pool, log_p, log_w).exp() - answer(pool, log_p.double(), log_w.double()).exp()).abs().amax(dim=-1)


def _show_imprecise(pool: Operator, cases: Cases) -> tuple[str, str]:
    log_p, log_w = cases.log_p.float(), cases.log_w.float()
    low, high = answer(pool, log_p, log_w).exp()[0], answer(pool, log_p.double(), log_w.double()).exp()[0]
    told = f"float32 teachers pool to {row(low)}, in float64 to {row(high)}"
    single = "operator(log(p).float(), log(w).float()).double().softmax(-1)"
    double = "operator(log(p).float().double(), log(w).float().double()).softmax(-1)"
    return told, f"float(({single} - {double}).abs().max())"


ASKS: tuple[Ask, ...] = (
    Ask("contract.permutation", _unequal, _show_unequal, climbs=False),
    Ask("contract.precision", _imprecise, _show_imprecise, tolerance=1e-3, prepare=full_support, climbs=False),
)

GAPS: Mapping[str, Callable[[Operator, Cases], Tensor]] = {"contract.state": state_gap, "contract.rows": rows_gap}
_LARGEST_GAP = 3e-5  # what a pool that works in float32 may differ by
_ROW = "(q(p, w)[n].exp() - q(p[:, n : n + 1], w[:, n : n + 1])[0].exp())"
_AGAIN = {
    "contract.state": (
        f"first = q(p, w).exp(); print(float(max((q(p, w).exp() - first).abs().max() for _ in range({N_CALLS - 1}))))"
    ),
    "contract.rows": f"print(float(max({_ROW}.abs().max() for n in range(p.shape[1]))))",
}


@torch.no_grad()
def search_batch(axiom: str, pool: Operator, ground: Ground, tally: Tally) -> Witness | None:
    """Return a case that is answered otherwise later, or a batch in which one is answered otherwise than alone."""
    is_state = axiom == "contract.state"
    for n_rows, n_entries in ((2, 2), (3, 4)):
        cases = random_cases(ground.generator(), n_rows=n_rows, n_entries=n_entries, n_each=3)
        gap = GAPS[axiom](pool, cases)
        tally.add("repeated calls" if is_state else "single rows", len(cases) * (N_CALLS if is_state else 1))
        worst = int(gap.argmax())
        if float(gap[worst]) <= _LARGEST_GAP:
            continue
        # A memory may not show twice, so what was seen is what is told.
        batch = cases.pick([worst]) if is_state else _smallest_batch(pool, cases, worst)
        amount = float(gap[worst]) if is_state else float(rows_gap(pool, batch).max())
        inputs = {"p": batch.p.tolist(), "w": batch.w.tolist()}
        told = "when they are asked again" if is_state else f"in a batch of {len(batch)} than alone"
        return Witness(
            told=f"the same teachers pool to probabilities that differ by {amount:.3g} {told}",
            inputs={"kind": "pool", "axiom": axiom} | inputs,
            violation=amount,
            search="repeated calls" if is_state else "single rows",
            replay=replay_head(inputs) + _AGAIN[axiom],
        )
    return None


def _smallest_batch(pool: Operator, cases: Cases, worst: int) -> Cases:
    pairs = (cases.pick([worst, other]) for other in range(len(cases)) if other != worst)
    return next((two for two in pairs if float(rows_gap(pool, two).max()) > _LARGEST_GAP), cases)
