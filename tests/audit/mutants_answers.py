"""Weight rules whose answer is no answer: another form, an exception, no number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from audit.situations import fails, is_nan, leading, situation
from audit.specimens import Mutant, Rule

from mashbill.audit.worlds import World
from mashbill.weights.evidence import Evidence


@dataclass(frozen=True)
class Answering:
    """The sound rule, whose answer is then handed over in another form."""

    hand_over: Callable[[torch.Tensor, Evidence], Any]
    source: str = "token"

    @property
    def scale(self) -> str:
        return self.source

    @property
    def needs(self) -> frozenset[str]:
        return Rule(self.source).needs | {"logprobs"}  # pyright: ignore[reportArgumentType]

    def __call__(self, evidence: Evidence, /) -> Any:
        return self.hand_over(Rule(self.source)(evidence), evidence)  # pyright: ignore[reportArgumentType]


def wrong_shape(world: World) -> Callable[[Any], float]:
    """1 unless the answer is floating-point ``[K B T]`` or ``[K B 1]``."""

    def shows(operator: Any) -> float:
        found = operator(world.evidence())
        right = world.logits.shape[:3]
        is_right = isinstance(found, torch.Tensor) and found.dtype in (torch.float32, torch.float64)
        return float(not is_right or found.shape not in (right, (*right[:2], 1)))

    return shows


# What is no number.


def p_log_p(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """An entropy by the formula alone: 0 log 0."""
    p = evidence.given("logprobs").exp()
    return 1 + (p * p.log()).sum(dim=-1) / torch.tensor(float(evidence.n_entries)).log()


def others_mean(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Distance from the mean of the others, of whom one teacher alone has none."""
    n_teachers = evidence.n_teachers
    others = (signal.sum(dim=0) - signal) / (torch.tensor(float(n_teachers)) - 1)
    return 1 - (signal - others).abs()


def share_of_doubt(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """``1 - H_k / sum H``, and 0/0 where nobody has any doubt."""
    doubt = evidence.statistics.gini
    return 1 - doubt / doubt.sum(dim=0)


def label_loss(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """The label's probability, which is no number where there is no label."""
    return evidence.statistics.label_logprob.exp()


def poisoned(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """A row's mean probability of its labels, masked positions included."""
    return signal * evidence.statistics.label_logprob.exp().mean(dim=-1, keepdim=True)


def overflowing(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """A softmax without subtracting the largest, of divergences: ``exp`` ends at 709."""
    far = evidence.given("divergence:mean")
    best = (evidence.given("logprobs").amax(dim=-1) - evidence.given("logprobs").amin(dim=-1)).exp()
    return (best / best.sum(dim=0)).log() * 0.5 + 0 * far


# Answers in another form.


def raise_at_ties(said: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    margin = evidence.statistics.margin
    if len(margin) > 1 and bool((margin[0] == margin[1]).any()):
        raise ZeroDivisionError("float division by zero")
    return said


def raise_beyond_32(said: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return said + 0 * torch.zeros(32)[torch.arange(len(said))].reshape(-1, 1, 1)


def raise_if_masked(said: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    if not bool(evidence.mask.all()):
        raise ValueError("mask must be all True")
    return said


def misspelt(said: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return said + evidence.statistics.entropi  # pyright: ignore[reportAttributeAccessIssue]


THREE = situation(teachers=3, rows=2, positions=2)


def shaped(name: str, hand_over: Callable[[torch.Tensor, Evidence], Any], world: World = THREE, *more: str) -> Mutant:
    return Mutant(name, lambda: Answering(hand_over), ("contract.shape", *more), wrong_shape(world))


SHAPES = [
    shaped("no axis of positions", lambda said, _: said[..., 0]),
    shaped("teachers last", lambda said, _: said.movedim(0, -1)),
    shaped("an axis too many", lambda said, _: said.unsqueeze(-1)),
    shaped("squeezed", lambda said, _: said.squeeze(), situation()),
    shaped("a teacher too many", lambda said, _: torch.cat([said, said[:1]]) - 0.3),
    shaped("one row for all", lambda said, _: said[:, :1]),
    shaped("float16", lambda said, _: said.half()),
    shaped("whole numbers", lambda said, _: said.round().long()),
    shaped("numpy", lambda said, _: said.detach().numpy(), THREE, "contract.answer"),
    shaped("nothing", lambda said, _: None, THREE, "contract.answer"),
]

ANSWERS = [
    Mutant("raises at ties", lambda: Answering(raise_at_ties), ("contract.answer",), fails(leading(0.5, 0.5))),
    Mutant(
        "raises beyond 32 teachers",
        lambda: Answering(raise_beyond_32),
        ("contract.answer",),
        fails(situation(teachers=64)),
    ),
    Mutant(
        "raises where masked",
        lambda: Answering(raise_if_masked),
        ("contract.answer",),
        fails(situation(mask=torch.zeros(1, 1, dtype=torch.bool))),
    ),
    Mutant("misspelt", lambda: Answering(misspelt), ("contract.answer",), fails(leading(0.2, 0.9))),
]

UNLABELLED = situation(positions=2, labels=torch.tensor([[1, -100]]))
LOGPROBS = frozenset({"logprobs"})

NANS = [
    Mutant("0 log 0", lambda: Rule(twist=p_log_p, more=LOGPROBS), ("contract.finite",), is_nan(leading(1.0, 0.5))),
    Mutant("mean of no others", lambda: Rule(twist=others_mean), ("contract.finite",), is_nan(leading(0.5))),
    Mutant(
        "0/0 where nobody doubts",
        lambda: Rule(twist=share_of_doubt, more=frozenset({"gini"})),
        ("contract.finite", "token.III.4"),
        is_nan(leading(1.0, 1.0)),
    ),
    Mutant(
        "label where there is none",
        lambda: Rule(twist=label_loss, more=frozenset({"label_logprob"})),
        ("contract.finite", "sequence.causal"),
        is_nan(UNLABELLED),
    ),
    Mutant(
        "row poisoned by a position without label",
        lambda: Rule(twist=poisoned, more=frozenset({"label_logprob"})),
        ("contract.finite", "sequence.causal"),
        is_nan(UNLABELLED),
    ),
    Mutant(
        "softmax overflows",
        lambda: Rule(spoil=overflowing, more=LOGPROBS | {"divergence:mean"}),
        (
            "contract.finite",
            "token.III.1",
            "token.III.2",
            "token.III.3",
            "token.III.4",
            "token.III.5",
            "contract.precision",
        ),
        is_nan(leading(1.0, 0.5)),
    ),
]
