"""Weight rules that follow the student, depend on the precision, or promise a little too much."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from audit.situations import above, at, below, leading, moves, skilled, steeper, weights
from audit.specimens import Mutant, Promising, Rule

from mashbill.weights.evidence import Declared, Evidence

# Gradients and precision.


def follows_live_student(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Nearness to the student, not detached."""
    return torch.exp(-evidence.given("divergence:student").clamp_min(0))


def student_doubt(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    largest = evidence.given("student_logprobs").detach().exp().amax(dim=-1)
    if signal.shape[-1] == 1:
        largest = largest.mean(dim=-1, keepdim=True)
    return signal * (0.5 + largest / 2)


def student_gradient(operator: Any) -> float:
    evidence = leading(0.2, 0.9).evidence()
    student = evidence.given("student_logprobs").clone().requires_grad_(True)
    to_student = evidence.given("divergence:student").clone().requires_grad_(True)
    said = operator(
        replace(evidence, student_logprobs=student, divergences={**evidence.divergences, "student": to_student})
    )
    gradients = torch.autograd.grad(said[0].sum(), [student, to_student], allow_unused=True)
    return max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)


def other_temperature_in_float32(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return signal if signal.dtype == torch.float64 else 0.9 * signal


def one_minus_largest(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Log-odds by ``log(1 - p)``: in float32 the difference is gone where ``p`` is near 1."""
    doubt = -torch.expm1(evidence.statistics.max_logprob) + 1e-12
    return -doubt.log().clamp(-24, 0) / 24


def clamped_in_narrow(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Sound in float64; in anything less it is rounded to bf16 and clamped afterwards."""
    if log_weights.dtype == torch.float64:
        return log_weights
    return log_weights.exp().to(torch.bfloat16).clamp_min(0.01).to(log_weights.dtype).log()


def narrow_differs(operator: Any) -> float:
    worlds = [leading(0.21, 0.82, 0.37), leading(1 - 1e-9, 1 - 1e-6, 0.5)]
    found = []
    for world in worlds:
        narrow = world.to(torch.float32)
        wide = weights(operator, narrow.to(torch.float64))
        found.append(float((weights(operator, narrow) - wide).abs().max()))
    return max(found) - 1e-5


# Promises.


@dataclass(frozen=True)
class EntropyInProbabilities:
    """Promises a Lipschitz constant of entropy in probabilities, where there is none."""

    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(-evidence.statistics.entropy.clamp_max(1.0), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        low, high = 1 / (1 + (n_teachers - 1) * 2.718282), 1 / (1 + (n_teachers - 1) / 2.718282)
        return Declared(low, high, 1.0, "teacher probabilities, l1", "hope")


@dataclass(frozen=True)
class Hopeful:
    """Declares the range of so many teachers where there are more."""

    rule: Rule
    n_most: int

    @property
    def scale(self) -> str:
        return self.rule.scale

    @property
    def needs(self) -> frozenset[str]:
        return self.rule.needs

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return self.rule(evidence)

    def declared(self, n_teachers: int) -> Declared:
        return replace(Promising(self.rule).declared(min(n_teachers, self.n_most)), lipschitz=None)


TWO = leading(0.2, 0.9)
LIVE = frozenset({"divergence:student"})
SAYS = frozenset({"student_logprobs"})
STUDENTS = (
    replace(TWO, student=torch.tensor([[[0.0, 0.0]]], dtype=torch.float64)),
    replace(TWO, student=torch.tensor([[[2.0, -2.0]]], dtype=torch.float64)),
)
NOT_LIVE = (skilled(0.2, 0.9), replace(skilled(0.2, 0.9), student=3 * skilled(0.2, 0.9).student))

FOLLOWING = [
    Mutant(
        "gradient into the student",
        lambda: Promising(Rule(twist=follows_live_student, more=LIVE), slope=None, reads_student=True),
        ("contract.gradient",),
        student_gradient,
    ),
    Mutant(
        "reads the student undeclared",
        lambda: Rule(twist=student_doubt, more=SAYS),
        ("composition.student",),
        moves(*STUDENTS),
    ),
    Mutant(
        "task rule that reads the student undeclared",
        lambda: Rule("task", twist=student_doubt, more=SAYS),
        ("task.III.14", "composition.student"),
        moves(*NOT_LIVE),
    ),
    Mutant(
        "task rule that reads the student and says so",
        lambda: Promising(
            Rule("task", twist=student_doubt, more=SAYS), low=0.9, high=1.1, slope=None, reads_student=True
        ),
        ("task.III.14",),
        moves(*NOT_LIVE),
    ),
    Mutant(
        "another temperature in float32",
        lambda: Rule(twist=other_temperature_in_float32),
        ("contract.precision",),
        narrow_differs,
    ),
    Mutant(
        "log-odds by a difference",
        lambda: Rule(twist=one_minus_largest, more=frozenset({"max_logprob"})),
        ("contract.precision",),
        narrow_differs,
    ),
    Mutant(
        "clamped in bf16 unless the evidence is float64",
        lambda: Rule(spoil=clamped_in_narrow),
        ("contract.precision",),
        narrow_differs,
    ),
]

LEAST = 1 / (1 + 2.718281828)  # of two teachers, at log-odds of 1
STEP = 1e-4

PROMISES = [
    Mutant(
        "least weight overstated by 1 %",
        lambda: Promising(Rule(), low=1.01),
        ("contract.range", "token.III.3"),
        below(1.01 * LEAST, leading(0.0, 1.0)),
    ),
    Mutant(
        "largest weight understated by 1 %",
        lambda: Promising(Rule("task"), high=0.99),
        ("contract.range", "task.III.12"),
        above(0.99 * (1 - LEAST), skilled(0.0, 1.0)),
    ),
    Mutant(
        "range of two teachers for all",
        lambda: Hopeful(Rule(), 2),
        ("contract.range", "token.III.3"),
        below(LEAST, leading(0.0, 1.0, 0.5)),
    ),
    Mutant(
        "range of 32 teachers for 64",
        lambda: Hopeful(Rule(), 32),
        ("contract.range", "token.III.3"),
        below(1 / (1 + 31 * 2.718281828), leading(*[0.0] + [1.0] * 63)),
    ),
    Mutant(
        "slope in logits understated by 1 %",
        lambda: Promising(Rule(is_ordered=False), slope=0.99),
        ("contract.lipschitz", "token.III.5"),
        steeper(0.99 / 2, leading(0.0, STEP), leading(STEP, 0.0), STEP * (1 + STEP)),
    ),
    Mutant(
        "slope in accuracy understated by 1 %",
        lambda: Promising(Rule("task"), slope=0.99),
        ("contract.lipschitz",),
        steeper(0.99 / 2, skilled(0.5, 0.5 + STEP), skilled(0.5 + STEP, 0.5), STEP),
    ),
    Mutant(
        "slope in features understated by 1 %",
        lambda: Promising(Rule("features"), slope=0.99),
        ("contract.lipschitz",),
        steeper(0.99 / 4, at(-STEP / 2, 0.0), at(STEP / 2, 0.0), STEP),
    ),
    Mutant(
        "slope of entropy in probabilities",
        EntropyInProbabilities,
        ("contract.lipschitz", "token.III.5"),
        steeper(1.0, leading(1 - 2e-9, 1.0), leading(1 - 4e-9, 1.0), 2e-9),
    ),
    Mutant(
        "slope forgets the steepness",
        lambda: Promising(Rule(steep=3.0), slope=1 / 3),
        ("contract.lipschitz",),
        steeper(0.5, leading(0.0, STEP), leading(STEP, 0.0), STEP * (1 + STEP)),
    ),
]
