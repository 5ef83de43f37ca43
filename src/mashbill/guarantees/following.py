"""Which theorems a rule inherits from what it declares, with the constants of this recipe, and which it does not."""

from collections.abc import Mapping, Sequence

from mashbill.audit.verdicts import CheckResult
from mashbill.guarantees.of_students import of_students
from mashbill.guarantees.of_targets import of_targets
from mashbill.guarantees.of_weights import of_weights
from mashbill.guarantees.premises import Guarantee, Known, PoolName, Training
from mashbill.guarantees.runs import Measured
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.evidence import Declared
from mashbill.weights.shares import Number

__all__ = ["Guarantee", "Training", "follow", "table"]


def follow(
    declared: Declared,
    *,
    n_teachers: int,
    pool: PoolName = "linear",
    scales: Sequence[tuple[Number, Number]] = (),
    has_order: bool = False,
    divergence: str = "forward_kl",
    temperature: Number = 1.0,
    audited: Sequence[CheckResult] = (),
    training: Training | None = None,
    measurements: Mapping[str, Measured] | None = None,
) -> list[Guarantee]:
    """Return every theorem with what becomes of it for this rule: inherited, conditional or not, and why.

    Statements are the corrected ones. A premise that the audit refutes takes its guarantees along.

    Args:
        declared: What the rule promises: ``rule.declared(n_teachers)``.
        n_teachers: ``K``.
        pool: How the recipe pools.
        scales: ``(lowest, highest)`` of each scale, if the rule is a product, to show the range of the bare product.
        has_order: Whether the rule ends in a safety order.
        divergence: The recipe's, to know what a run's ``divergence`` measures.
        temperature: The recipe's.
        audited: What the audit says of the rule.
        training: What is known of the student's training.
        measurements: From :func:`~mashbill.guarantees.runs.measured`, put beside the bounds.

    Raises:
        ValueError: The declared range is impossible for ``n_teachers``.

    >>> promise = Declared(0.1, 0.8, None, "", "a guard")
    >>> found = {one.id: one for one in follow(promise, n_teachers=3)}
    >>> found["target.regret"].statement[:60], found["weights.lipschitz"].status
    ("the target's log-loss exceeds the best teacher's by at most ", 'not inherited')
    """
    effective_bounds(n_teachers, w_min=declared.lowest, w_max=declared.highest)
    known = Known(
        declared=declared,
        n_teachers=n_teachers,
        pool=pool,
        audited=tuple(audited),
        measurements=dict(measurements or {}),
        training=training or Training(),
        scales=tuple(scales),
        has_order=has_order,
        has_kl=divergence == "forward_kl" and temperature == 1,
    )
    return [*of_weights(known), *of_targets(known), *of_students(known)]


def table(guarantees: Sequence[Guarantee]) -> str:
    """Return guarantees as text: what holds, what does not and why, and what was measured beside it."""
    lines: list[str] = []
    for one in guarantees:
        lines.append(f"{one.status:<13}  {one.id:<20}  {one.statement or one.reason}")
        lines += [f"{'':<37}measured: {seen.name} {seen.value:.6g} ({seen.source})" for seen in one.measured]
        if one.is_met is False:
            lines.append(f"{'':<37}the measurement is outside the bound: what is declared is not true")
    return "\n".join(lines)
