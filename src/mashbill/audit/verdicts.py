"""Five verdicts that are never printed as one another, and what each of them carries.

A verdict is data: it can be written to JSON, read back, and checked by somebody who does not trust this library.
*Certified* carries a proof object whose :meth:`Certificate.recheck` verifies it from its own numbers alone. *Falsified*
carries a witness that replays in three lines of Python. *Survived* says how hard was tried, and proves nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Verdict = Literal["certified", "falsified", "survived", "not applicable", "error"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Numbers = Mapping[str, Any]
"""Plain JSON values: numbers, strings, lists and mappings of them."""

_RECHECKS: dict[str, Callable[[Numbers], bool]] = {}


def rechecks(kind: str) -> Callable[[Callable[[Numbers], bool]], Callable[[Numbers], bool]]:
    """Register the function that verifies certificates of one kind from their numbers."""

    def register(verify: Callable[[Numbers], bool]) -> Callable[[Numbers], bool]:
        if kind in _RECHECKS:
            raise ValueError(f"kind={kind!r} has a verifier already")
        _RECHECKS[kind] = verify
        return verify

    return register


@dataclass(frozen=True)
class Certificate:
    """A proof object.

    Attributes:
        kind: What proves it, e.g. ``"closed-form bound"``; chooses the verifier.
        claim: What is proved, in words with numbers.
        premise: What is taken on trust, e.g. the structure that the operator declares.
        numbers: Everything that the verifier needs.
    """

    kind: str
    claim: str
    premise: str
    numbers: Numbers

    def recheck(self) -> bool:
        """Verify the proof from its numbers alone; a number that was changed makes this False."""
        verify = _RECHECKS.get(self.kind)
        if verify is None or not _is_finite(self.numbers):
            return False
        try:
            return bool(verify(self.numbers))
        except Exception:
            return False  # numbers that make no sense prove nothing, whatever they make of the verifier


def _is_finite(value: Any) -> bool:
    """Whether no number within is NaN, which no comparison would notice, or infinite."""
    if isinstance(value, Mapping):
        return all(_is_finite(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(inner) for inner in value)
    return not isinstance(value, float) or math.isfinite(value)


@dataclass(frozen=True)
class Witness:
    """A counter-example.

    Attributes:
        told: In words with numbers, one line.
        inputs: The situation as JSON, made as small as the violation allows.
        violation: How far beyond the tolerance, in the axiom's own unit.
        search: The search that found it.
        replay: Three lines of Python that show it again, given the operator as ``operator``.
    """

    told: str
    inputs: Numbers
    violation: float
    search: str
    replay: str


@dataclass(frozen=True)
class CheckResult:
    """What the audit says of one operator and one axiom.

    Attributes:
        operator: Name of what was audited.
        axiom: Id of the axiom.
        verdict: One of :data:`VERDICTS`.
        reason: Why: the certificate's claim, the witness told, what was searched, or why it does not apply.
        certificate: Of a certified verdict.
        witness: Of a falsified one.
        attempts: Situations tried.
        searches: Names of the searches that ran.
        seed: Of all of them.
        known: Why a failure is expected, if the caller said so.
    """

    operator: str
    axiom: str
    verdict: Verdict
    reason: str
    certificate: Certificate | None = None
    witness: Witness | None = None
    attempts: int = 0
    searches: tuple[str, ...] = ()
    seed: int = 0
    known: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r} must be one of {', '.join(VERDICTS)}")
        if (self.verdict == "certified") != (self.certificate is not None):
            raise ValueError(f"verdict={self.verdict!r} and certificate={self.certificate!r}: only a proof certifies")
        if (self.verdict == "falsified") != (self.witness is not None):
            raise ValueError(f"verdict={self.verdict!r} and witness={self.witness!r}: only a witness falsifies")

    @property
    def is_violated(self) -> bool:
        """Whether the axiom is broken, or the operator failed, and nobody expected that."""
        return self.verdict in ("falsified", "error") and not self.known

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for :func:`json.dumps`."""
        return asdict(self)
