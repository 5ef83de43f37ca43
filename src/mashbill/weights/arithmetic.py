"""The arithmetic composition of rules: a weighted mean of their weights.

Unlike the product, a mean stays inside every convex set that all its rules stay in: common bounds and a common safety
order survive without a guard. In exchange no scale can veto: what one scale rules out keeps the others' share.
"""

from dataclasses import dataclass

import torch

from mashbill.shapes import LogWeights
from mashbill.weights import simplex
from mashbill.weights.evidence import Declared, Evidence, WeightOperator
from mashbill.weights.promises import declared_of


@dataclass(frozen=True)
class Average:
    """``w = sum_s a_s w_s``. Built by :func:`average`.

    Attributes:
        rules: The rules, of any scale.
        shares: ``a_s``, positive, summing to 1.
    """

    rules: tuple[WeightOperator, ...]
    shares: tuple[float, ...]

    @property
    def needs(self) -> frozenset[str]:
        """What the rules read."""
        return frozenset().union(*(getattr(rule, "needs", frozenset()) for rule in self.rules))

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B #T]``."""
        # A plain function may return logs up to a constant, as in a product; a mean of those would mean nothing.
        each = torch.broadcast_tensors(*(simplex.log_normalise(rule(evidence), dim=0) for rule in self.rules))
        shares = torch.tensor(self.shares, dtype=each[0].dtype, device=each[0].device)
        return simplex.log_normalise(torch.logsumexp(torch.stack(each, dim=-1) + shares.log(), dim=-1), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: range and Lipschitz constant are the same means of the rules' own."""
        parts = [declared_of(rule, n_teachers) for rule in self.rules]
        constants = [None if p.lipschitz is None else a * p.lipschitz for a, p in zip(self.shares, parts, strict=True)]
        return Declared(
            sum(a * p.lowest for a, p in zip(self.shares, parts, strict=True)),
            sum(a * p.highest for a, p in zip(self.shares, parts, strict=True)),
            None if None in constants else sum(c for c in constants if c is not None),
            "; ".join(dict.fromkeys(p.metric for p in parts if p.lipschitz != 0)) or "any continuous input",
            "a mean of weights: convex combination, triangle inequality",
            reads_student=any(p.reads_student for p in parts),
            mixes_rows=any(p.mixes_rows for p in parts),
        )


def average(*rules: WeightOperator, shares: tuple[float, ...] | None = None) -> Average:
    """Compose rules by the mean of their weights.

    Args:
        rules: At least one rule, of any scale.
        shares: ``a_s``; alike by default.

    Returns:
        A weight operator; :func:`mashbill.conform` adds bounds and order that not every rule keeps.

    Raises:
        ValueError: No rule, not one share for each rule, a share that is not positive, or shares that do not sum to 1.

    >>> from mashbill.weights.token import EntropySoftmax
    >>> from mashbill.weights.static import Uniform
    >>> round(average(EntropySoftmax(beta=4.0), Uniform()).declared(2).lowest, 6)
    0.258993
    """
    if not rules:
        raise ValueError("rules=() must hold at least one rule")
    given = tuple(shares) if shares is not None else (1 / len(rules),) * len(rules)
    if len(given) != len(rules) or not all(share > 0 for share in given) or abs(sum(given) - 1) > 1e-9:
        raise ValueError(f"shares={given} must be one positive number for each of {len(rules)} rules and sum to 1")
    return Average(rules, given)
