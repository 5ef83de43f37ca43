"""What guarantees are made of: their parts as data, and what they start from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mashbill.audit.verdicts import CheckResult
from mashbill.guarantees.runs import Measured
from mashbill.weights.evidence import Declared
from mashbill.weights.shares import Number

Status = Literal["inherited", "conditional", "not inherited"]
PoolName = Literal["linear", "log_linear"]

RANGE = ("contract.range", "token.III.3", "task.III.12", "context.III.20", "composition.box")
SLOPE = ("contract.lipschitz", "token.III.4", "task.III.13", "context.III.21")
ORDER = ("token.III.5", "context.III.22", "composition.order")
SUMS = ("token.III.1", "task.III.10", "context.III.18")
STUDENT = ("composition.student", "task.III.14")

_ROUNDING = 2e-6
"""Weights in float32, and written down with six digits."""


@dataclass(frozen=True)
class Training:
    """What is known of the student's training, for the theorems that need it; None where nothing is known.

    Attributes:
        first_step: ``eta_0`` of plain gradient descent with steps ``eta_0 / (gamma + t)``.
        delay: ``gamma``.
        curvature: ``mu`` of the loss in the student's parameters.
        smoothness: ``L``.
        noise_variance: ``sigma^2`` of the gradient.
        score: Bound of the gradient of each log-probability of the student.
    """

    first_step: Number | None = None
    delay: Number = 1.0
    curvature: Number | None = None
    smoothness: Number | None = None
    noise_variance: Number = 1.0
    score: Number | None = None


@dataclass(frozen=True)
class Guarantee:
    """One theorem, and whether a rule inherits it.

    Attributes:
        id: Stable name.
        title: A few words.
        status: ``inherited``: follows from what is declared; ``conditional``: needs a premise that nobody here can
            check; ``not inherited``.
        statement: What holds, with numbers; empty if nothing does.
        formula: The statement without numbers.
        constants: The numbers, by name.
        unit: Of what is bounded.
        premise: What it rests on.
        reason: Why it is not inherited; empty if it is.
        source: Paper item, and what was corrected.
        measured: What a run measured of the same thing.
        is_met: Whether the measurement keeps the bound; None without one, or where it bounds nothing.
    """

    id: str
    title: str
    status: Status
    statement: str
    formula: str
    constants: Mapping[str, float]
    unit: str
    premise: str
    source: str
    reason: str = ""
    measured: tuple[Measured, ...] = ()
    is_met: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for :func:`json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Known:
    """All that guarantees are worked out from.

    Attributes:
        declared: What the rule promises.
        n_teachers: ``K``.
        pool: How targets are pooled.
        audited: What an audit found; may be empty.
        measurements: What a run measured; may be empty.
        training: What is known of the student's training.
        scales: ``(w_min, w_max)`` of each scale of a product, if the rule is one.
        has_order: Whether the rule ends in a safety order.
        has_kl: Whether the divergence measured in training is ``KL(q || p_S)``: forward, at temperature 1.
    """

    declared: Declared
    n_teachers: int
    pool: PoolName
    audited: Sequence[CheckResult]
    measurements: Mapping[str, Measured]
    training: Training
    scales: Sequence[tuple[Number, Number]]
    has_order: bool
    has_kl: bool

    def trust(self, axioms: Sequence[str]) -> str:
        """Return how far a declaration was examined, in words."""
        about = [result for result in self.audited if result.axiom in axioms and result.verdict != "not applicable"]
        if not about:
            return "as declared, not audited"
        if all(result.verdict == "certified" for result in about):
            return "certified by the audit"
        attempts = sum(result.attempts for result in about)
        return f"as declared; survived {attempts} attempts of the audit, which prove nothing"

    def refuted(self, axioms: Sequence[str]) -> str:
        """Return why the audit refutes a premise, empty if it does not."""
        for result in self.audited:
            if result.axiom in axioms and result.verdict in ("falsified", "error"):
                return f"the audit of {result.axiom} says {result.verdict}: {result.reason}"
        return ""

    def seen(self, *prefixes: str) -> tuple[Measured, ...]:
        """Return the measurements whose names begin so."""
        return tuple(one for name, one in self.measurements.items() if name.startswith(prefixes))

    def is_within(self, least: float, largest: float, *prefixes: str) -> bool | None:
        """Return whether all of them are inside a range, up to rounding; None if there is none."""
        seen = self.seen(*prefixes)
        return all(least - _ROUNDING <= one.value <= largest + _ROUNDING for one in seen) if seen else None
