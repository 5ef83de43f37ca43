"""Two searches that ask a pool more than one case at a time: jumps, and low precision."""

import math
from functools import partial

import torch

from mashbill.audit.cases import Cases, of_numbers
from mashbill.audit.jumps import find_jump
from mashbill.audit.pool_answers import probabilities, replay_head, row, told_case
from mashbill.audit.searching import Ground, Operator, Tally
from mashbill.audit.verdicts import Witness
from mashbill.shapes import Tensor

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MOST = 4000  # cases of a grid that are asked in low precision


@torch.no_grad()
def search_jumps(pool: Operator, ground: Ground, tally: Tally, *, is_coarse: bool) -> Witness | None:
    """Return a witness against continuity, or None."""
    answer = partial(probabilities, pool)
    jump = find_jump(answer, ground, coarse=is_coarse, tally=tally, moves_weights=True, extras={})
    if jump is None:
        return None
    before, after = jump.before.to_json(), jump.after.to_json()
    q, q_after = answer(jump.before)[0], answer(jump.after)[0]
    where = "when 1e-300 becomes 0" if jump.search == "zeros" else "within 1e-12"
    second = f"q(*(torch.tensor(x, dtype=torch.float64) for x in ({after['p']}, {after['w']})))"
    return Witness(
        told=f"{told_case(before)}: q = {row(q)} becomes {row(q_after)} {where}",
        inputs={"kind": "pool", "axiom": "pool.continuity"} | before | {"p_after": after["p"], "w_after": after["w"]},
        violation=jump.violation,
        search=jump.search,
        replay=replay_head(before) + f"print(float((q(p, w).exp() - {second}.exp()).abs().max()))",
    )


def error_in(dtype: str, pool: Operator, cases: Cases) -> Tensor:
    """Return how far the answer's sum is from 1, beyond what the type can hold, ``[N]``."""
    low = _TYPES[dtype]
    total = pool(cases.log_p.to(low), cases.log_w.to(low)).double().exp().sum(dim=-1)
    n_rows, _, n_entries = cases.log_p.shape
    # Rounding log p moves a sum by half an eps times sum p |log p| <= ln V; so for weights, the answer, and K terms.
    allowed = torch.finfo(low).eps * (2 + 1.5 * math.log(n_entries) + math.log(n_rows) + 0.5 * n_rows**0.5)
    error = (total - 1).abs() - allowed
    return torch.where(error.isnan(), 1.0, error)


@torch.no_grad()
def search_precision(pool: Operator, ground: Ground, tally: Tally) -> Witness | None:
    """Return teachers in low precision whose pool is no distribution, or None."""
    for dtype in _TYPES:
        for batch in (*ground.grids, *ground.random):
            cases = batch.pick(torch.arange(min(len(batch), _MOST)))
            try:
                errors = error_in(dtype, pool, cases)
            except (RuntimeError, TypeError, ValueError):
                if dtype == "float32":
                    raise
                break  # a pool need not take half precision, but it must not answer nonsense
            tally.add("precision", len(cases))
            if float(errors.max()) > 0:
                inputs = cases.to_json(int(errors.argmax()))
                error = float(error_in(dtype, pool, of_numbers(inputs["p"], inputs["w"])).max())
                total = f"operator(log(p).to(torch.{dtype}), log(w).to(torch.{dtype})).double().exp().sum()"
                return Witness(
                    told=f"{told_case(inputs)} in {dtype}: the sum is off by {error:.3g} more than rounding explains",
                    inputs={"kind": "pool", "axiom": "pool.normalised", "dtype": dtype} | inputs,
                    violation=error,
                    search="precision",
                    replay=replay_head(inputs) + f"print(float(({total} - 1).abs()))",
                )
    return None
