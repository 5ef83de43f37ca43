"""Weight rules at the scale of tokens that break one axiom of the scale, some only in a thin region."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from audit.situations import (
    below,
    is_zero,
    leading,
    misses_one,
    moves,
    turns,
    weights,
)
from audit.specimens import DeafIn, Mutant, Promising, Rule

from mashbill.weights.evidence import Evidence

# Normalisation: III.1, III.10, III.18.


def too_much(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights + 1e-4


def too_much_if_all_are_sure(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights + 1e-4 * (evidence.statistics.margin > 0.9).all(dim=0)


def half_precision(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights.exp().to(torch.bfloat16).clamp_min(0.02).to(log_weights.dtype).log()


def probabilities(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights.exp()


def wrong_axis(signal_log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return torch.log_softmax(signal_log_weights, dim=1)


# Positivity: III.2, III.11, III.19. A weight of 0 is below every lower bound, too.


def best_two(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Sparsemax-like: what is more than 0.3 below the best is cut off, without a jump."""
    weights = log_weights.exp()
    kept = (weights - 0.5 * weights.amax(dim=0)).clamp_min(0)
    return (kept / kept.sum(dim=0)).log()


def silent_if_certain(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Whoever is not certain is silenced where somebody is."""
    certain = evidence.statistics.max_logprob == 0
    return torch.log_softmax(torch.where(certain.any(dim=0) & ~certain, -torch.inf, log_weights), dim=0)


def silent_on_first_answer(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """A teacher alone in answering entry 0 is silenced."""
    answers = evidence.given("logprobs").argmax(dim=-1) == 0
    alone = answers & (answers.sum(dim=0) == 1)
    return torch.log_softmax(torch.where(alone & (log_weights < 0), -torch.inf, log_weights), dim=0)


# Boundedness: III.3, III.12, III.20.


@dataclass(frozen=True)
class InverseEntropy:
    """``w ~ 1/H``, as in Appendix A of the paper: a sure teacher takes all."""

    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(-(evidence.statistics.entropy + 1e-9).log(), dim=0)


# Regularity: III.4, III.13, III.21.


def lift_if(condition: torch.Tensor, size: float, signal: torch.Tensor) -> torch.Tensor:
    return signal * (1 + size * condition)


def thin_region(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """A bump of about 1e-3 where the largest lead is within a window of 0.02."""
    lead = evidence.statistics.margin.amax(dim=0)
    return lift_if((lead > 0.50) & (lead < 0.52), 0.02, signal)


def thinner_region(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    lead = evidence.statistics.margin.amax(dim=0)
    return lift_if((lead > 0.500) & (lead < 0.502), 0.02, signal)


def small_step(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return lift_if(evidence.statistics.gini.mean(dim=0) < 0.3, 0.02, signal)


def step_at_ties(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Whoever leads gets a bonus, which changes hands where two leads are equal."""
    return signal + 0.1 * (signal == signal.amax(dim=0))


def same_first_choice(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Identity of the first entry: who answers as the teachers' mean does gets a bonus."""
    said = evidence.given("logprobs")
    agrees = said.argmax(dim=-1) == said.exp().mean(dim=0).argmax(dim=-1)
    return signal + 0.3 * agrees


def routed(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """All to the one that counts most; ties share."""
    best = (log_weights == log_weights.amax(dim=0)).to(log_weights.dtype)
    return (best / best.sum(dim=0)).log()


def rounded(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return (signal * 20).floor() / 20


# Safety order: III.5, III.22.


@dataclass(frozen=True)
class EntropyAndSafety:
    """The template ``exp(-H + s)`` of Remark III.6, which is said to keep the order."""

    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"gini", "orders"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        beats = evidence.statistics.gini.new_zeros(len(evidence.teachers), len(evidence.contexts))
        for column, name in enumerate(evidence.contexts):
            for safer, _ in evidence.orders.get(name, ()):
                beats[safer, column] += 0.1 / len(evidence.teachers)
        return torch.log_softmax(-evidence.statistics.gini + beats[:, evidence.context, None], dim=0)


def slightly_turned(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Among the sure, a little of the order is given back: 1e-3 of the log-weights, the other way round."""
    sure = (evidence.statistics.margin.amin(dim=0) > 0.5).to(log_weights.dtype)
    return torch.log_softmax(log_weights - 0.02 * sure * evidence.statistics.gini, dim=0)


def _second_pair(operator: object) -> float:
    world = replace(leading(0.5, 0.2, 0.9), orders={"home": ((0, 1), (1, 2)), "field": ()})
    found = weights(operator, world)
    return float((found[2] - found[1]).max())


TIED = leading(0.6, 0.6)

TOKEN = [
    Mutant(
        "sum off by 1e-4",
        lambda: Rule(spoil=too_much),
        ("token.III.1", "contract.precision"),
        misses_one(leading(0.2, 0.8)),
    ),
    Mutant(
        "sum off by 1e-4 where all are sure",
        lambda: Rule(spoil=too_much_if_all_are_sure),
        ("token.III.1", "contract.precision"),
        misses_one(leading(0.95, 0.99)),
    ),
    Mutant(
        "clamped in bf16, sum broken",
        lambda: Rule(spoil=half_precision),
        ("token.III.1", "contract.precision", "token.III.4"),
        misses_one(leading(0.21, 0.82, 0.37)),
    ),
    Mutant(
        "probabilities for log-weights",
        lambda: Rule(spoil=probabilities),
        ("token.III.1", "contract.precision"),
        misses_one(TIED),
    ),
    Mutant(
        "softmax over the wrong axis",
        lambda: Rule(spoil=wrong_axis),
        ("token.III.1", "contract.rows", "contract.precision", "token.III.5"),
        misses_one(leading(0.2, 0.8, rows=3)),
    ),
    Mutant(
        "cut off at half the best",
        lambda: Rule(spoil=best_two, steep=3.0),
        ("token.III.2", "token.III.3"),
        is_zero(leading(0.05, 0.95)),
    ),
    Mutant(
        "silences whoever is not certain",
        lambda: Rule(spoil=silent_if_certain, more=frozenset({"max_logprob"})),
        ("token.III.2", "token.III.3", "token.III.4", "token.III.5", "contract.precision"),
        is_zero(leading(1.0, 0.5)),
    ),
    Mutant(
        "silences a lone first answer",
        lambda: Rule(spoil=silent_on_first_answer, more=frozenset({"logprobs"})),
        ("token.III.2", "token.III.3", "token.III.4", "token.III.5"),
        is_zero(leading(0.5, -0.5)),
    ),
    Mutant(
        "inverse entropy",
        InverseEntropy,
        ("token.III.3", "token.III.5", "contract.precision"),
        below(1e-6, leading(1.0, 0.1)),
    ),
    Mutant(
        "declared lower bound missed",
        lambda: Promising(Rule(), low=1.2),
        ("token.III.3", "contract.range"),
        below(1.2 / (1 + 2.718281828), leading(0.0, 1.0)),
    ),
    Mutant(
        "bump of 1e-3 in a thin region",
        lambda: Rule(twist=thin_region),
        ("token.III.4",),
        moves(leading(0.5 - 1e-9, 0.1), leading(0.5 + 1e-9, 0.1)),
    ),
    Mutant(
        "bump of 1e-3 in a thinner region",
        lambda: Rule(twist=thinner_region),
        ("token.III.4",),
        moves(leading(0.5 - 1e-9, 0.1), leading(0.5 + 1e-9, 0.1)),
        budget="standard",
    ),
    Mutant(
        "bump where a Lipschitz constant is declared",
        lambda: Promising(Rule(twist=thin_region), low=0.9, high=1.1),
        ("token.III.4", "contract.lipschitz"),
        moves(leading(0.5 - 1e-9, 0.1), leading(0.5 + 1e-9, 0.1)),
    ),
    Mutant(
        "step of 1e-3 at a variance",
        lambda: Rule(twist=small_step, more=frozenset({"gini"})),
        ("token.III.4",),
        moves(leading(0.8 - 1e-9, 0.4), leading(0.8 + 1e-9, 0.4)),
    ),
    Mutant(
        "bonus that changes hands at ties",
        lambda: Rule(twist=step_at_ties),
        ("token.III.4", "contract.precision"),
        moves(leading(0.6, 0.6 - 1e-9), leading(0.6, 0.6 + 1e-9)),
    ),
    Mutant(
        "bonus by identity of the first entry",
        lambda: Rule(twist=same_first_choice, more=frozenset({"logprobs"})),
        ("token.III.4", "contract.precision"),
        moves(leading(0.3, -0.3 - 1e-9), leading(0.3, -0.3 + 1e-9)),
    ),
    Mutant(
        "argmax routing",
        lambda: Rule(spoil=routed),
        ("token.III.4", "token.III.2", "token.III.3", "contract.precision"),
        moves(leading(0.6, 0.6 - 1e-9), leading(0.6, 0.6 + 1e-9)),
    ),
    Mutant(
        "signal rounded to twentieths",
        lambda: Rule(twist=rounded),
        ("token.III.4", "contract.precision"),
        moves(leading(0.45 - 1e-9, 0.1), leading(0.45 + 1e-9, 0.1)),
    ),
    Mutant("knows no order", lambda: Rule(is_ordered=False), ("token.III.5",), turns(leading(0.2, 0.8))),
    Mutant(
        "order ignored in one context",
        lambda: DeafIn(Rule(), context="home"),
        ("token.III.5",),
        turns(leading(0.2, 0.8)),
    ),
    Mutant(
        "order ignored among five and more",
        lambda: DeafIn(Rule(), n_most=4),
        ("token.III.5",),
        turns(leading(0.2, 0.8, 0.4, 0.6, 0.5)),
    ),
    Mutant(
        "only the first certified pair is kept",
        lambda: DeafIn(Rule(), n_pairs=1),
        ("token.III.5", "contract.permutation"),
        _second_pair,
    ),
    Mutant(
        "order broken by 1e-3 among the sure",
        lambda: Rule(spoil=slightly_turned, more=frozenset({"gini"})),
        ("token.III.5", "token.III.4"),
        turns(leading(0.7, 0.9)),
    ),
    Mutant("Remark III.6's template", EntropyAndSafety, ("token.III.5",), turns(leading(0.2, 0.9))),
]
