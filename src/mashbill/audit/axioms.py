"""The axioms as data: what is asked of weight rules, compositions, pools, softening, recursions and sequences.

Ids are stable. Items of the main paper (arXiv 2601.17910) keep its numbers; where its text cannot be executed as it
stands, the statement is the executable form. ``axioms.toml`` beside this file holds them.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mashbill.errors import did_you_mean

Kind = Literal["weights", "composition", "contract", "pool", "softening", "recursion", "sequence"]


@dataclass(frozen=True)
class Axiom:
    """One thing that is asked of an operator.

    Attributes:
        id: Stable name, e.g. ``token.III.3``.
        kind: What sort of operator it is asked of.
        title: Two or three words.
        statement: One line in plain words.
        formula: The executable form.
        source: Where it comes from.
        certificate: What would prove it.
        witness: What would refute it.
        variant: ``strong``, ``weak`` or another form; empty if there is one only.
        scale: For weights, the scale at which it is asked.
    """

    id: str
    kind: Kind
    title: str
    statement: str
    formula: str
    source: str
    certificate: str
    witness: str
    variant: str = ""
    scale: str = ""


AXIOMS: dict[str, Axiom] = {
    entry["id"]: Axiom(**entry)
    for entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["axiom"]
}
"""All of them, by id, in the order in which they are reported."""


def require_axiom(id: str) -> Axiom:
    """Return an axiom by id.

    Raises:
        ValueError: There is none.
    """
    if id not in AXIOMS:
        raise ValueError(
            f"axiom={id!r} does not exist{did_you_mean(id, list(AXIOMS))}; `mashbill audit --list` lists all"
        )
    return AXIOMS[id]
