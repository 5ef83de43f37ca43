"""Plain functions as rules: ``def rule(evidence, *, option=1.0) -> log-weights`` is enough."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Evidence, WeightOperator


@dataclass(frozen=True)
class FunctionRule:
    """A function of the evidence, with its options.

    Attributes:
        function: Takes the evidence, and options by keyword. An attribute ``needs`` names what it reads.
        options: By name.
    """

    function: Callable[..., LogWeights]
    options: Mapping[str, Any]

    @property
    def needs(self) -> frozenset[str]:
        """What the function says that it reads."""
        return frozenset(getattr(self.function, "needs", ()))

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return what the function returns, ``[K B #T]``."""
        return self.function(evidence, **self.options)


def make_rule(named: Callable[..., Any], options: Mapping[str, Any]) -> WeightOperator:
    """Return the rule that a plug-in's name stands for.

    A class, or a function without required arguments, makes the rule out of the options. A function that requires one
    argument, the evidence, is the rule.

    Raises:
        TypeError: An option does not exist.
        ValueError: An option's value is refused.
    """
    if not _takes_evidence(named):
        return named(**options)
    inspect.signature(named).bind(None, **options)  # a misspelt option must show now, not at the first step
    return FunctionRule(named, dict(options))


def _takes_evidence(named: Callable[..., Any]) -> bool:
    if not inspect.isfunction(named):
        return False
    first = next(iter(inspect.signature(named).parameters.values()), None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return first is not None and first.kind in positional and first.default is inspect.Parameter.empty
