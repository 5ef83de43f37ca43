"""An audit with one result of every kind, written by hand."""

from mashbill.audit import verdicts
from mashbill.audit.verdicts import Certificate, CheckResult, Witness


def _adds_up(numbers) -> bool:
    return sum(numbers["parts"]) == numbers["sum"]


# Not through `rechecks`: this module is read twice, as a neighbour and for its doctests.
verdicts._RECHECKS["sum of a list"] = _adds_up

PROOF = Certificate("sum of a list", "the parts add up to 6", "the parts are these", {"parts": [1, 2, 3], "sum": 6})
WITNESS = Witness(
    told="gini (0.5, 0.1) gives (0.2, 0.8)",
    inputs={"world": {"logits": ["-inf", 0.25]}},
    violation=0.6,
    search="plain worlds",
    replay="from mashbill import audit\nwitness = audit.Witness(**json.loads(text))\naudit.replay(witness, operator)",
)


def results(operator="my_rules:Surer", *, known=""):
    """One of each verdict, of a weight rule."""
    return [
        CheckResult(operator, "token.III.1", "certified", "the parts add up to 6", certificate=PROOF),
        CheckResult(operator, "token.III.4", "survived", "no jump", attempts=1312, searches=("bisection",), seed=7),
        CheckResult(
            operator, "token.III.5", "falsified", WITNESS.told, witness=WITNESS, attempts=3, seed=7, known=known
        ),
        CheckResult(operator, "task.III.10", "not applicable", "the rule reads no task"),
        CheckResult(operator, "task.III.11", "not applicable", "the rule reads no task"),
        CheckResult(operator, "contract.state", "error", "it raised ValueError: boom"),
        CheckResult(operator, "contract.rows", "error", "it raised ValueError: boom"),
    ]


def conforming(operator="my_rules:Calm"):
    """Two results without a violation."""
    return results(operator)[:2]


def of_pool(operator="my_pools:linear"):
    """A pool, falsified on one axiom."""
    return [CheckResult(operator, "pool.convexity.strong", "falsified", WITNESS.told, witness=WITNESS)]
