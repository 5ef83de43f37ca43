"""What these rules promise, asked of them one axiom a test. Copy this file with the package."""

import mashbill as mb
from mashbill_agreement import Agreement, confidence

UNORDERED = {"token.III.5": "the rule knows of no safety order; `order` in the recipe enforces one after it"}


@mb.audit.parametrize_with_axioms([Agreement(sharpness=2.0), confidence], known=UNORDERED)
def test_rules_keep_their_axioms(check):
    """One axiom of one rule; a counter-example fails it."""
    check()


BOUNDED = mb.conform(Agreement(sharpness=2.0), bounds=(0.05, 0.9), order="scorecard")


@mb.audit.parametrize_with_axioms([BOUNDED], axioms=["token.III.1", "token.III.3", "token.III.5", "composition.box"])
def test_bounds_and_order_repair_what_a_rule_does_not_know(check):
    """One axiom of the rule with its finish."""
    check()
