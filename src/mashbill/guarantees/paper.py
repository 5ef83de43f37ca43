"""What the papers claim, held against counter-examples computed at each call, and what holds instead."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from mashbill.audit.verdicts import Certificate, Numbers, Verdict, Witness


@dataclass(frozen=True)
class Claim:
    """One item of a paper.

    Attributes:
        id: Stable name.
        item: Its number in arXiv 2601.17910, unless another paper is named.
        says: What it says, in short.
        verdict: ``falsified`` for all of these: claims that hold are not listed.
        witness: The counter-example; its ``replay`` ends with ``violation``, and needs nothing given.
        corrected: What holds instead, with numbers.
        corrected_verdict: ``certified`` or ``survived``.
        certificate: Of a certified correction.
        attempts: Attacks that a surviving correction withstood.
    """

    id: str
    item: str
    says: str
    verdict: Verdict
    witness: Witness
    corrected: str
    corrected_verdict: Verdict
    certificate: Certificate | None = None
    attempts: int = 0

    def __post_init__(self) -> None:
        if self.verdict != ("falsified" if self.witness.violation > 0 else "survived"):
            raise ValueError(f"verdict={self.verdict!r} with a violation of {self.witness.violation!r}")
        if (self.corrected_verdict == "certified") != (self.certificate is not None):
            raise ValueError(f"corrected_verdict={self.corrected_verdict!r}: only a proof certifies")

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for :func:`json.dumps`."""
        return asdict(self)


@torch.no_grad()
def claims() -> list[Claim]:
    """Return the papers' claims that do not hold, each with its counter-example and what holds instead.

    Deterministic; a few seconds.

    >>> {claim.verdict for claim in claims()}
    {'falsified'}
    """
    from mashbill.guarantees import claims_of_safety, claims_of_training, claims_of_weights  # they import Claim

    parts = (claims_of_weights.CLAIMS, claims_of_training.CLAIMS, claims_of_safety.CLAIMS)
    return [make() for part in parts for make in part]


def falsified(id: str, item: str, says: str, found: Witness) -> dict[str, Any]:
    """Return the first half of a claim; its verdict is what the witness shows."""
    verdict: Verdict = "falsified" if found.violation > 0 else "survived"
    return {"id": id, "item": item, "says": says, "verdict": verdict, "witness": found}


def seen(told: str, inputs: Numbers, violation: float, *replay: str) -> Witness:
    """Return a witness found by calculation, not by search."""
    return Witness(told, {"kind": "claim", **inputs}, float(violation), "calculation", "\n".join(replay))


def survived(corrected: str, attempts: int, n_violations: int) -> dict[str, Any]:
    """Return the second half of a claim whose correction was attacked.

    Raises:
        AssertionError: An attack succeeded: the correction is wrong too.
    """
    assert n_violations == 0, f"{corrected}: {n_violations} violations in {attempts} attempts"
    return {"corrected": corrected, "corrected_verdict": "survived", "attempts": attempts}


def certified(corrected: str, certificate: Certificate) -> dict[str, Any]:
    """Return the second half of a claim whose correction is proved.

    Raises:
        AssertionError: The proof does not hold.
    """
    assert certificate.recheck(), f"{corrected}: the certificate fails"
    return {"corrected": corrected, "corrected_verdict": "certified", "certificate": certificate}
