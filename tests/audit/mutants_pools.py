"""Pools with one fault, the axioms that it breaks, and where."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from audit import broken_pools as broken
from audit.broken_pools import (
    ALL,
    ALONE,
    ANY_VALUE,
    COMMUTES,
    CONTINUITY,
    COORDINATE,
    DIVERGENCE,
    ENTROPY,
    LIMIT,
    LINEAR,
    LOSS,
    REGRET,
    STRONG,
    SUM,
    UNSAFE,
    WEAK,
    Pool,
)
from audit.specimens import Mutant


def of(pool: Pool, p: Sequence[Sequence[float]], w: Sequence[float]) -> torch.Tensor:
    """Return the pool's probabilities of teachers and weights."""
    log_p = torch.tensor(p, dtype=torch.float64).log().clamp_min(-1e4)
    log_w = torch.tensor(w, dtype=torch.float64).log().clamp_min(-1e4)
    return pool(log_p.unsqueeze(1), log_w.unsqueeze(1))[0].exp()


Numbers = tuple[Sequence[Sequence[float]], Sequence[float]]
DIFFERENT: Numbers = (((0.7, 0.2, 0.1), (0.1, 0.3, 0.6)), (0.7, 0.3))
ALIKE: Numbers = (((0.6, 0.39, 0.01), (0.6, 0.01, 0.39)), (0.5, 0.5))
ZEROS: Numbers = (((0.5, 0.5, 0.0), (0.3, 0.0, 0.7)), (0.5, 0.5))
THREE: Numbers = (((0.7, 0.2, 0.1), (0.1, 0.3, 0.6), (0.2, 0.6, 0.2)), (0.2, 0.4, 0.4))


def sum_off(case: Numbers = DIFFERENT) -> Callable[[Pool], float]:
    return lambda pool: float((of(pool, *case).sum() - 1).abs().nan_to_num(1.0))


def out_of_range(case: Numbers) -> Callable[[Pool], float]:
    """How far an entry is outside what the teachers give it."""
    p = torch.tensor(case[0], dtype=torch.float64)

    def shows(pool: Pool) -> float:
        q = of(pool, *case)
        return float(torch.maximum(q - p.amax(dim=0), p.amin(dim=0) - q).max())

    return shows


def hull_gap(pool: Pool) -> float:
    """Two teachers with x_0 + 2 x_1 = 1.1 on both: a mixture has it, too."""
    q = of(pool, ((0.7, 0.2, 0.1), (0.1, 0.5, 0.4)), (0.5, 0.5))
    return float((q[0] + 2 * q[1] - 1.1).abs())


def median_gap(pool: Pool) -> float:
    """Three teachers with x_2 - 6 x_3 = .1 on each of them: a mixture has it, too."""
    q = of(pool, ((0.8, 0.1, 0.1, 0.0), (0.1, 0.8, 0.1, 0.0), (0.1, 0.1, 0.7, 0.1)), (1 / 3, 1 / 3, 1 / 3))
    return float((q[2] - 6 * q[3] - 0.1).abs())


def loses(case: Numbers, entry: int) -> Callable[[Pool], float]:
    return lambda pool: float(of(pool, *case)[entry] < 1e-323)


def falls(
    pool: Pool, entry: int = 0, p: Any = DIFFERENT[0], before: Any = (0.5, 0.5), after: Any = (0.55, 0.45)
) -> float:
    """How far an entry falls when weight moves to who likes it more."""
    return float((of(pool, p, before) - of(pool, p, after))[entry])


def recedes(pool: Pool, before: Any = (0.5, 0.5), after: Any = (0.55, 0.45)) -> float:
    """How far the pool gets from teacher 0 when it gains weight."""
    p = torch.tensor(DIFFERENT[0][0], dtype=torch.float64)
    return float((p * (of(pool, DIFFERENT[0], before) / of(pool, DIFFERENT[0], after)).log()).sum())


def jumps(before: Numbers, after: Numbers) -> Callable[[Pool], float]:
    return lambda pool: float((of(pool, *before) - of(pool, *after)).abs().max()) - 1e-4


def softened(p: Sequence[Sequence[float]], temperature: float) -> Any:
    return (torch.tensor(p, dtype=torch.float64).log() / temperature).softmax(dim=-1).tolist()


def commutes_not(pool: Pool) -> float:
    p, w = DIFFERENT
    after = (of(pool, p, w).log() / 2).softmax(dim=-1)
    return float((of(pool, softened(p, 2.0), w) - after).abs().max())


def sharpens(pool: Pool) -> float:
    """The hand witness: teachers (1 - 1e-6, 1e-6) and (.1, .9), weights (.45, .55)."""
    p, w = ((1 - 1e-6, 1e-6), (0.1, 0.9)), (0.45, 0.55)
    entropies = [float(torch.special.entr(of(pool, softened(p, t), w)).sum()) for t in (1.0, 2.0)]
    return entropies[0] - entropies[1]


def limit_off(pool: Pool) -> float:
    return float((of(pool, softened(DIFFERENT[0], 1e7), DIFFERENT[1]) - 1 / 3).abs().max()) - 1e-3


def costs_more(case: Numbers) -> Callable[[Pool], float]:
    """The largest log-loss above the teachers' weighted one."""
    p, w = (torch.tensor(each, dtype=torch.float64) for each in case)
    return lambda pool: float((w @ p.log() - of(pool, *case).log()).max())


def regrets(case: Numbers) -> Callable[[Pool], float]:
    """The largest log-loss above a teacher's plus the price of its weight."""
    p, w = (torch.tensor(each, dtype=torch.float64) for each in case)
    return lambda pool: float(((p.log() + w.log()[:, None]).amax(dim=0) - of(pool, *case).log()).max())


def mutant(name: str, pool: Pool, breaks: Sequence[str], shows: Callable[[Any], float], **more: Any) -> Mutant:
    return Mutant(name, lambda: pool, tuple(breaks), shows, kind="pool", **more)


SURE: Numbers = (((1.0, 0.0, 0.0),), (1.0,))
ONE: Numbers = (((0.9, 0.08, 0.02),), (1.0,))
TAIL: Numbers = (((0.9, 0.095, 0.005),), (1.0,))


def changes_when_asked_again(pool: Pool) -> float:
    first = of(pool, *DIFFERENT)
    of(pool, DIFFERENT[0], (0.1, 0.9))
    return float((of(pool, *DIFFERENT) - first).abs().max())


def changes_in_batch(pool: Pool) -> float:
    log_p = torch.tensor(DIFFERENT[0], dtype=torch.float64).log()[:, None].expand(-1, 2, -1)
    log_w = torch.tensor([[0.7, 0.1], [0.3, 0.9]], dtype=torch.float64).log()
    return float((pool(log_p, log_w)[0].exp() - of(pool, *DIFFERENT)).abs().max())


def changes_with_places(pool: Pool) -> float:
    p, w = DIFFERENT
    return float((of(pool, p, w) - of(pool, p[::-1], w[::-1])).abs().max())


def changes_in_float32(pool: Pool) -> float:
    log_p, log_w = (torch.tensor(each, dtype=torch.float64).log() for each in DIFFERENT)
    return float((pool(log_p, log_w).exp() - pool(log_p.float(), log_w.float()).exp()).abs().max()) - 1e-5


AT_ZERO: Numbers = (DIFFERENT[0], (1.0, 0.0))
NEAR_ZERO: Numbers = (DIFFERENT[0], (1 - 1e-12, 1e-12))

POOLS = [
    mutant("pool: sum off by 1e-4", broken.too_much, (SUM, *LINEAR), sum_off()),
    mutant("pool: divided by the largest", broken.divided_by_largest, (SUM, *LINEAR), sum_off()),
    mutant("pool: clipped", broken.clipped, (SUM, *ANY_VALUE, CONTINUITY), sum_off(SURE)),
    mutant(
        "pool: rounded to bf16",
        broken.narrow,
        (SUM, *ANY_VALUE, CONTINUITY),
        sum_off(((ONE[0][0], (0.33, 0.33, 0.34)), (0.61, 0.39))),
    ),
    mutant(
        "pool: 0 times infinity",
        broken.zero_times_infinity,
        (SUM, *ANY_VALUE, ALONE, ALL, CONTINUITY),
        sum_off((ZEROS[0], (1.0, 0.0))),
    ),
    mutant("pool: clipped and normalised", broken.clipped_and_normalised, (STRONG, *ANY_VALUE), out_of_range(SURE)),
    mutant("pool: median", broken.median, (STRONG, *ANY_VALUE, ALONE, CONTINUITY), median_gap),
    mutant("pool: largest", broken.largest, (REGRET, *ANY_VALUE), regrets((DIFFERENT[0], (0.99, 0.01)))),
    mutant(
        "pool: squared weights",
        broken.squared_weights,
        (REGRET, LOSS, COORDINATE, DIVERGENCE, *LINEAR),
        regrets(DIFFERENT),
    ),
    mutant(
        "pool: squared weights of three",
        broken.squared_weights,
        (COORDINATE, REGRET, LOSS, DIVERGENCE, *LINEAR),
        lambda pool: falls(
            pool, p=((0.3, 0.7), (0.9, 0.1), (0.3, 0.7)), before=(0.25, 0.5, 0.25), after=(0.5, 0.5, 0.0)
        ),
    ),
    mutant(
        "pool: inverted weights",
        broken.inverted_weights,
        (DIVERGENCE, COORDINATE, REGRET, LOSS, ALONE, *LINEAR),
        recedes,
    ),
    mutant(
        "pool: weights one place further",
        broken.paired_wrongly,
        (DIVERGENCE, COORDINATE, REGRET, LOSS, ALONE, "contract.permutation", *LINEAR),
        recedes,
    ),
    mutant("pool: weights ignored", broken.even, (REGRET, LOSS, *LINEAR), regrets((DIFFERENT[0], (0.95, 0.05)))),
    mutant("pool: softened twice", broken.softened_twice, (WEAK, *ANY_VALUE), out_of_range(ONE)),
    mutant("pool: sharpened", broken.sharpened, (UNSAFE, *ANY_VALUE), out_of_range(ONE)),
    mutant("pool: tail dropped", broken.tail_dropped, (ALL, ALONE, CONTINUITY, *ANY_VALUE, LIMIT), loses(TAIL, 2)),
    mutant(
        "pool: least entry dropped",
        broken.least_dropped,
        (ALL, ALONE, CONTINUITY, *ANY_VALUE, LIMIT),
        loses(DIFFERENT, 1),
    ),
    mutant("pool: one veto is enough", broken.vetoed, (ALONE, *ANY_VALUE, CONTINUITY), loses(ZEROS, 2)),
    mutant(
        "pool: a share for whoever has weight",
        broken.least_share,
        (CONTINUITY, COORDINATE, DIVERGENCE, REGRET, LOSS, *LINEAR),
        jumps(AT_ZERO, NEAR_ZERO),
    ),
    mutant(
        "pool: a bonus for the majority",
        broken.dictated,
        (CONTINUITY, COORDINATE, REGRET, LOSS, *LINEAR),
        jumps((DIFFERENT[0], (0.6 - 1e-12, 0.4 + 1e-12)), (DIFFERENT[0], (0.6 + 1e-12, 0.4 - 1e-12))),
    ),
    mutant(
        "pool: bent weights",
        broken.moved_apart,
        (COORDINATE, DIVERGENCE, REGRET, LOSS, *LINEAR),
        partial(falls, after=(0.525, 0.475)),
    ),
    mutant("pool: a hundredth for the first entry", broken.with_prior, (LIMIT, *ANY_VALUE), limit_off),
    mutant(
        "pool: quadratic mean",
        partial(broken.power, r=2.0),
        (LOSS, *ANY_VALUE),
        costs_more((((0.9, 0.05, 0.05), (0.05, 0.9, 0.05)), (0.5, 0.5))),
    ),
    mutant(
        "pool: harmonic mean",
        partial(broken.power, r=-1.0),
        (UNSAFE, *ANY_VALUE, ALONE, CONTINUITY),
        out_of_range(ALIKE),
    ),
    mutant(
        "pool: logarithmic, taken for a mixture",
        broken.logarithmic,
        (STRONG, WEAK, COORDINATE, REGRET, UNSAFE, ALONE, CONTINUITY),
        hull_gap,
    ),
    mutant(
        "pool: logarithmic, weighed by certainty",
        broken.by_certainty,
        (COMMUTES, *ANY_VALUE, ALONE, CONTINUITY),
        commutes_not,
    ),
    Mutant(
        "pool: remembers the last weights",
        broken.Remembering,
        ("contract.state", "contract.rows", "contract.permutation", "contract.precision", *ANY_VALUE, CONTINUITY),
        changes_when_asked_again,
        kind="pool",
    ),
    mutant(
        "pool: half the batch's weights",
        broken.by_batch,
        ("contract.rows", COORDINATE, DIVERGENCE, REGRET, LOSS, ALONE, CONTINUITY, LIMIT, *LINEAR),
        changes_in_batch,
    ),
    mutant(
        "pool: favours the first",
        broken.favours_first,
        ("contract.permutation", REGRET, LOSS, *LINEAR),
        changes_with_places,
    ),
    mutant(
        "pool: another mean in float32", broken.other_in_float32, ("contract.precision", *LINEAR), changes_in_float32
    ),
    mutant("pool: linear, taken for coherent", broken.linear, (ENTROPY, COMMUTES), sharpens),
    mutant("pool: linear, softened after or before", broken.linear, (COMMUTES, ENTROPY), commutes_not),
]
