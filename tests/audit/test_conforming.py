"""The audit leaves alone what is not broken.

By default some operators are audited with the budget ``quick``. All are with
``MASHBILL_AUDIT=quick|standard|deep pytest tests/audit/test_conforming.py``: ``deep`` takes hours, which is why it is
not the default.
"""

import os
from collections import Counter
from typing import cast

import pytest
from audit.conforming import CONFORMING, Conforming

from mashbill import audit
from mashbill.audit.supply import Budget

BUDGET = cast(Budget, os.environ.get("MASHBILL_AUDIT", "quick"))
FEW = ("ranked safety by itself", "a user's ordered rule over features", "pool: linear")
FEW += (
    "written order",
    "a user's ordered rule that knows a task by name",
    "pool: power 1/2",
    "softening: power",
    "recursion: a mixture",
    "sequence: fixed share",
)
CHOSEN = [one for one in CONFORMING if "MASHBILL_AUDIT" in os.environ or one.name in FEW]


def test_there_are_enough() -> None:
    assert sum(one.kind == "weights" for one in CONFORMING) >= 40
    assert not [name for name, n in Counter(one.name for one in CONFORMING).items() if n > 1]


@pytest.mark.parametrize("one", CHOSEN, ids=lambda one: one.name)
def test_no_false_alarm(one: Conforming) -> None:
    results = audit.check(one.make(), name=one.name, kind=one.kind, stage=one.stage, budget=BUDGET)
    alarms = [f"{result.axiom} {result.verdict}: {result.reason}" for result in results if result.is_violated]
    assert not [alarm for alarm in alarms if alarm.split()[0] not in one.excused]


@pytest.mark.parametrize("one", CHOSEN, ids=lambda one: one.name)
def test_every_certificate_can_be_checked_again(one: Conforming) -> None:
    axioms = {"token.III.1", "token.III.3", "contract.range", "pool.normalised"} & set(audit.AXIOMS)
    kinds = ("weights", "contract") if one.kind == "weights" else (one.kind,)
    asked = [axiom for axiom in axioms if audit.AXIOMS[axiom].kind in kinds]
    for result in audit.check(one.make(), kind=one.kind, axioms=asked, stage=one.stage) if asked else ():
        if result.certificate is not None:
            assert result.certificate.recheck()
