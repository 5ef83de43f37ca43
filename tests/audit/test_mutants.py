"""The audit finds every operator that is broken on purpose, and blames what is broken.

By default each mutant is asked for the axiom that it breaks, with the budget ``quick``, and some are asked for all of
them. All are with ``MASHBILL_AUDIT=quick|standard|deep pytest tests/audit/test_mutants.py``: several minutes for
``quick``, hours for ``deep``, which is why it is not the default.
"""

import os
import sys
from collections import Counter
from typing import cast

import mutants
import pytest

from mashbill import audit
from mashbill.audit.supply import Budget

BUDGET = cast(Budget, os.environ.get("MASHBILL_AUDIT", "quick"))
FEW = ("sum off by 1e-4 where all are sure", "numpy", "cut and divided by the sum")
IS_WHOLE = "MASHBILL_AUDIT" in os.environ
WHOLE = mutants.MUTANTS if IS_WHOLE else [one for one in mutants.MUTANTS if one.name in FEW] + mutants.MUTANTS[110::7]


def ids(mutant: mutants.Mutant) -> str:
    return mutant.name


def test_there_are_enough_and_every_axiom_has_one() -> None:
    assert len(mutants.MUTANTS) >= 60
    repeated = [name for name, n in Counter(mutant.name for mutant in mutants.MUTANTS).items() if n > 1]
    assert not repeated
    first = {mutant.axiom for mutant in mutants.MUTANTS}
    assert not set(audit.AXIOMS) - first, "axioms that no mutant breaks first"


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=ids)
def test_it_is_broken(mutant: mutants.Mutant) -> None:
    """At a known input, without the audit: a mutant that is sound would prove nothing."""
    assert mutant.violation() > 1e-6


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=ids)
def test_it_is_found(mutant: mutants.Mutant) -> None:
    found = mutants.find(mutant, budget=BUDGET, is_whole=False)
    assert found.search, f"{mutant.axiom} was not falsified with the budget {BUDGET}"


@pytest.mark.parametrize("mutant", WHOLE, ids=ids)
def test_nothing_else_is_blamed(mutant: mutants.Mutant) -> None:
    found = mutants.find(mutant, budget=BUDGET)
    assert not found.unrelated, f"{mutant.name} keeps {', '.join(found.unrelated)}"


def test_a_table_says_which_search_found_what(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["mutants.py", "--only", "pool: sharpened"])
    mutants.main()
    said = capsys.readouterr().out
    assert "pool: sharpened" in said
    assert "1 of 1 found, 1 without unrelated blame" in said
    missed = mutants.Found(mutants.MUTANTS[0], "", (), ("token.III.4",), 0, 1.0)
    assert "MISSED" in mutants.table([missed])
    assert "also blamed: token.III.4" in mutants.table([missed])


@pytest.mark.parametrize("mutant", mutants.MUTANTS[::7], ids=ids)
def test_its_witness_replays(mutant: mutants.Mutant) -> None:
    results = audit.check(mutant.make(), kind=mutant.kind, axioms=[mutant.axiom], stage=mutant.stage)
    for result in results:
        if result.witness is not None:
            assert audit.replay(result.witness, mutant.make()) > 0
