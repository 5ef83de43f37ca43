"""Products of scales that claim what the product does not keep, or finish it wrongly."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from audit.mutants_promises import student_doubt
from audit.situations import above, below, leading, moves, steeper, turns
from audit.specimens import Change, Mutant, Promising, Rule, best_of_those_below

from mashbill.audit.moods import Stage
from mashbill.audit.worlds import World
from mashbill.weights.evidence import Declared, Evidence

THREE = Stage(teachers=("t0", "t1", "t2"))
BOX = (0.1, 0.6)


def as_it_is(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights


@dataclass(frozen=True)
class Careless:
    """``finish(prod_s w_s^(1/T_s))``, which says that it is put together like a sound product with these bounds.

    Attributes:
        parts: Rule and temperature of each scale.
        finish: What is done to the product.
        bounds: As stated, and as declared.
        is_ordered: As stated.
        promise: What is declared if not the bounds.
    """

    parts: tuple[tuple[Rule, float], ...]
    finish: Change = as_it_is
    bounds: tuple[float, float] | None = None
    is_ordered: bool = False
    promise: Callable[[int], Declared] | None = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(rule.needs for rule, _ in self.parts)) | ({"orders"} if self.is_ordered else set())

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        terms = torch.broadcast_tensors(*(rule(evidence) / temperature for rule, temperature in self.parts))
        return self.finish(torch.log_softmax(torch.stack(terms).sum(dim=0), dim=0), evidence)

    def declared(self, n_teachers: int) -> Declared:
        if self.promise is not None:
            return self.promise(n_teachers)
        low, high = self.bounds or (1.0 if n_teachers == 1 else 0.0, 1.0)
        return Declared(low, high, None, "unknown", "the guard" if self.bounds else "nothing")

    def structure(self, n_teachers: int) -> dict[str, Any]:
        each = [(Promising(replace(rule, spoil=None)).declared(n_teachers), t) for rule, t in self.parts]
        return {
            "parts": [
                {
                    "lowest": one.lowest,
                    "highest": one.highest,
                    "score_lipschitz": None if one.lipschitz is None else 2 * one.lipschitz,
                    "temperature": temperature,
                }
                for one, temperature in each
            ],
            "bounds": self.bounds,
            "guard": "kl",
            "ordered": self.is_ordered,
        }


def clipped(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Cut to the box and divided by the sum again, which leaves the box."""
    cut = log_weights.exp().clamp(*BOX)
    return (cut / cut.sum(dim=0)).log()


def clipped_only(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights.exp().clamp(*BOX).log()


def into_box(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Find the shift after which the cut weights sum to 1, by halving: sound."""
    w = log_weights.exp()
    low, high = -torch.ones_like(w[:1]), torch.ones_like(w[:1])
    for _ in range(60):
        middle = (low + high) / 2
        is_more = (w + middle).clamp(*BOX).sum(dim=0, keepdim=True) > 1
        low, high = torch.where(is_more, low, middle), torch.where(is_more, middle, high)
    fitted = (w + (low + high) / 2).clamp(*BOX)
    return (fitted / fitted.sum(dim=0)).log()


def mixed_too_little(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Mixed with uniform by the share for one teacher, not for all: ``1 - w_min`` for ``1 - K w_min``."""
    share = 1 - BOX[0]
    return (share * log_weights.exp() + (1 - share) / len(log_weights)).log()


def ordered_at_home(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Ordered as it should be, but in the first context alone."""
    orders = {name: pairs if name == evidence.contexts[0] else () for name, pairs in evidence.orders.items()}
    return torch.log_softmax(best_of_those_below(log_weights, replace(evidence, orders=orders)), dim=0)


def two_scales(*margins: float) -> World:
    """Return a situation in which accuracy is as the lead of the first choice."""
    world = leading(*margins)
    given = torch.tensor(margins, dtype=torch.float64)
    return replace(world, skill=given[None, :, None].expand(2, -1, 4).clone())


def held_back(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Half the log-weights, whatever the bounds ask."""
    return torch.log_softmax(log_weights / 2, dim=0)


def infeasible(operator: Any) -> float:
    """How much the stated lower bounds sum to, above 1, with a weight below them."""
    bounds = operator.bounds
    return 3 * bounds[0] - 1 if below(bounds[0], two_scales(0.5, 0.5, 0.5))(operator) > 0 else 0.0


SCALES = ((Rule(), 1.0), (Rule("task"), 1.0))
STEEP = ((Rule(steep=2.0), 1.0), (Rule("task", steep=2.0), 1.0))
OUT = ("composition.box", "contract.range", "token.III.3")
E1 = math.e


def as_one_scale(n_teachers: int) -> Declared:
    return replace(Promising(Rule()).declared(n_teachers), lipschitz=None)


def as_one_slope(n_teachers: int) -> Declared:
    return replace(Promising(Rule(steep=2.0)).declared(n_teachers), lipschitz=0.5)


def boxed(name: str, finish: Change, breaks: tuple[str, ...], shows: Callable[[Any], float]) -> Mutant:
    return Mutant(name, lambda: Careless(STEEP, finish, BOX), breaks, shows, stage=THREE)


COMPOSITION = [
    Mutant(
        "product claims the range of one scale",
        lambda: Careless(SCALES, promise=as_one_scale, bounds=(1e-3, 1.0)),
        OUT,
        below(1 / (1 + E1), two_scales(0.0, 1.0)),
    ),
    boxed("cut and divided by the sum", clipped, OUT, above(BOX[1], two_scales(0.0, 0.0, 1.0))),
    boxed(
        "cut and not divided",
        clipped_only,
        ("token.III.1", *OUT, "contract.precision"),
        lambda op: float((op(two_scales(0.0, 0.0, 1.0).evidence()).exp().sum(dim=0) - 1).abs().max()),
    ),
    boxed("mixed with too little of uniform", mixed_too_little, OUT, above(BOX[1], two_scales(0.0, 0.0, 1.0))),
    Mutant(
        "guarded before the product",
        lambda: Careless(tuple((replace(rule, spoil=into_box), t) for rule, t in STEEP), bounds=BOX),
        OUT,
        above(BOX[1], two_scales(0.0, 0.0, 1.0)),
        stage=THREE,
    ),
    Mutant(
        "ordered before the product",
        lambda: Careless(((Rule(), 1.0), (Rule("task", is_ordered=False), 1.0)), is_ordered=True),
        ("composition.order", "token.III.5"),
        turns(two_scales(0.2, 0.8)),
    ),
    Mutant(
        "ordered in the first context only",
        lambda: Careless(((Rule(is_ordered=False), 1.0),), ordered_at_home, is_ordered=True),
        ("composition.order", "token.III.5"),
        turns(replace(leading(0.2, 0.8), context=torch.tensor([1]))),
    ),
    Mutant(
        "bounds that nothing satisfies",
        lambda: Careless(SCALES, held_back, bounds=(0.4, 1.0)),
        ("composition.feasible", *OUT),
        infeasible,
        stage=THREE,
    ),
    Mutant(
        "temperatures that do not keep the common bound",
        lambda: Careless(((Rule(), 1.5), (Rule("task"), 1.5)), promise=as_one_scale, bounds=(1e-3, 1.0)),
        OUT,
        below(1 / (1 + E1), two_scales(0.0, 1.0)),
    ),
    Mutant(
        "one scale follows the student undeclared",
        lambda: Careless(
            ((Rule(), 1.0), (Rule("task", twist=student_doubt, more=frozenset({"student_logprobs"})), 1.0))
        ),
        ("composition.student",),
        moves(*(replace(two_scales(0.2, 0.9), student=torch.tensor([[[x, -x]]], dtype=torch.float64)) for x in (0, 2))),
    ),
    Mutant(
        "slopes of scales not added",
        lambda: Careless(((Rule(), 1.0), (Rule(), 1.0)), promise=as_one_slope),
        ("contract.lipschitz",),
        steeper(0.5, leading(0.0, 1e-4), leading(1e-4, 0.0), 1.001e-4),
    ),
]
