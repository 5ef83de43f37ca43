"""Which theorems a recipe's weights inherit, after the audit, and what a run measured of the same things."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mashbill.cli.audit_targets import Opened

if TYPE_CHECKING:
    from mashbill.audit.verdicts import CheckResult
    from mashbill.guarantees import Guarantee


def guarantees_of(opened: Opened, results: "Sequence[CheckResult]") -> "list[Guarantee]":
    """Return what follows for a recipe or a run; nothing for a bare operator, whose pool and loss nobody knows."""
    if opened.loaded is None:
        return []
    from mashbill.guarantees import follow, measured
    from mashbill.weights.promises import declared_of

    recipe, operator = opened.loaded.recipe, _product(opened.target.operator)
    n_teachers = len(recipe.teachers)
    scales = [declared_of(rule, n_teachers) for _, rule, _ in operator.parts]
    return follow(
        operator.declared(n_teachers),
        n_teachers=n_teachers,
        pool=recipe.distill.pool,
        scales=[(promise.lowest, promise.highest) for promise in scales],
        has_order=recipe.weighting.order is not None,
        divergence=recipe.distill.divergence.name,
        temperature=recipe.distill.divergence.temperature,
        audited=results,
        measurements=measured(opened.run) if opened.run is not None else None,
    )


def _product(operator: Any) -> Any:
    from mashbill.weights.compose import Product

    assert isinstance(operator, Product), "recipes compose products"
    return operator


def guarantee_rows(guarantees: "Sequence[Guarantee]") -> list[tuple[str, str, str]]:
    """Return status, id, and what holds or why it does not, one row a theorem and one a measurement."""
    rows = []
    for one in guarantees:
        rows.append((one.status, one.id, one.statement or one.reason))
        rows += [("", "measured", f"{seen.name} {seen.value:.6g} ({seen.source})") for seen in one.measured]
        if one.is_met is False:
            rows.append(("", "", "the measurement is outside the bound: what is declared is not true"))
    return rows
