"""The audit of rules that read labels: no label may reach a weight at or before it, and losses stay within a bound.

A rule states what it can lose by its attributes: ``temperature`` and ``prior`` of a posterior, or ``rate`` and
``prior`` of fixed share. One that states nothing is held to ``ln K``. Rules that read no labels are not concerned.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mashbill.audit import sequence_forms
from mashbill.audit.axioms import require_axiom
from mashbill.audit.moods import Stage
from mashbill.audit.reporting import Checked, NotApplicable, named, report, told_error
from mashbill.audit.searching import Budget, Tally, effort_of
from mashbill.audit.sequences import (
    NO_LABEL,
    Sequences,
    Stated,
    best_path_losses,
    cut_rows,
    flipped_rows,
    losses,
    of_numbers,
    other_label,
    random_rows,
    stated_by,
    weights_of,
)
from mashbill.audit.verdicts import CheckResult, Numbers, Witness
from mashbill.shapes import Tensor
from mashbill.weights.evidence import WeightOperator, needs_of

SEQUENCE_AXIOMS = ("sequence.causal", "sequence.regret", "sequence.tracking")
REPLAY = """from mashbill.audit.sequence_checks import replay_sequence
inputs = {inputs}
print(replay_sequence(inputs, operator))"""
_MOST_SWITCHES = 3
_MOST_CLIMBED = 8  # positions of a row whose loss is climbed
_SIZES = ((2, 1), (2, 2), (2, 3), (2, 8), (3, 8), (2, 24), (5, 24))
"""Teachers and positions."""


def check_sequence(
    rule: WeightOperator,
    *,
    name: str | None = None,
    axioms: Collection[str] | None = None,
    stage: Stage | None = None,
    budget: Budget = "quick",
    seed: int = 0,
    bound: float | None = None,
) -> list[CheckResult]:
    """Ask a rule all axioms of rules inside a sequence, or some.

    Args:
        rule: A weight rule.
        name: How to call it; its own name by default.
        axioms: Ids of axioms; all of sequences by default.
        stage: The names that the rule was made for.
        budget: ``quick`` takes about a second, ``standard`` half a minute, ``deep`` some minutes.
        seed: Of all random cases.
        bound: What it may lose against the best teacher, in nats; what the rule states by default, else ``ln K``.

    Returns:
        One result an axiom, in the order of :data:`SEQUENCE_AXIOMS`.

    Raises:
        ValueError: There is no such budget, or an axiom is none of sequences.
    """
    for axiom in axioms or ():
        require_axiom(axiom)
        if axiom not in SEQUENCE_AXIOMS:
            raise ValueError(f"axiom={axiom!r} is asked of no sequence; these are: {', '.join(SEQUENCE_AXIOMS)}")
    stated = stated_by(rule) if bound is None else Stated(constant=bound)
    auditor = _Auditor(rule, stage or Stage(), stated, effort_of(budget).n_each, effort_of(budget).n_steps, seed)
    run = partial(report, name=name or named(rule), seed=seed)
    wanted = [axiom for axiom in SEQUENCE_AXIOMS if axioms is None or axiom in axioms]
    return [run(axiom=axiom, check=partial(auditor.check, axiom)) for axiom in wanted]


def replay_sequence(inputs: Numbers, operator: WeightOperator) -> float:
    """Return by how much a witness's situation breaks its axiom, computed again.

    Args:
        inputs: Of a witness of kind ``"sequence"``.
        operator: The rule.

    Raises:
        ValueError: The inputs are no sequence's.
    """
    if inputs.get("kind") != "sequence":
        raise ValueError(f"kind={inputs.get('kind')!r} must be 'sequence' for a sequence's witness")
    given = inputs["stage"]
    stage = Stage(tuple(given["teachers"]), given["n_entries"], tuple(given["tasks"]), tuple(given["contexts"]))
    stage = replace(stage, n_features=given["n_features"])
    rows = of_numbers(inputs["p"], inputs["labels"], inputs["counts"])
    if inputs["axiom"] == "sequence.causal":
        return float(_foresight(operator, rows, stage, inputs["position"], inputs["label"])[0])
    return float(_excess(inputs["axiom"], operator, rows, stage, Stated(**inputs["stated"]))[0])


@dataclass(frozen=True)
class _Auditor:
    rule: WeightOperator
    stage: Stage
    stated: Stated | None
    n_each: int
    n_steps: int
    seed: int

    def check(self, axiom: str, tally: Tally) -> Checked:
        """Return a witness, a certificate, or None."""
        if not self._reads_labels():
            raise NotApplicable("the rule reads no labels")
        if axiom == "sequence.causal":
            return self._causal(tally)
        if self.stated is None:
            raise NotApplicable("a temperature below 1 states no bound")
        if axiom == "sequence.tracking" and self.stated.rate is None:
            raise NotApplicable("the rule states no rate of change")
        found = self._regret(axiom, tally)
        return found or sequence_forms.certify(axiom, self.rule, self.stated, self.stage, seed=self.seed, tally=tally)

    def _reads_labels(self) -> bool:
        needs = needs_of(self.rule)
        if needs or hasattr(self.rule, "needs"):
            return "label_logprob" in needs
        return any(self._notices_labels(rows) for rows in self._batches(2))

    @torch.no_grad()
    def _notices_labels(self, rows: Sequences) -> bool:
        try:
            here, there, again = (weights_of(self.rule, one, self.stage) for one in (rows, flipped_rows(rows), rows))
        except Exception as error:  # whatever it is, it is the contract's affair and not that of sequences
            raise NotApplicable(told_error(error)) from error
        if not torch.equal(here, again):
            raise NotApplicable("the rule answers the same evidence in two ways")
        return bool((here - there).abs().max() > 1e-9)

    def _batches(self, n_rows: int) -> Iterator[Sequences]:
        generator = torch.Generator().manual_seed(self.seed)
        for n_wanted, n_positions in _SIZES:
            n_teachers = len(self.stage.teachers_for(n_wanted))
            yield random_rows(generator, n_teachers, n_rows, n_positions)

    @torch.no_grad()
    def _causal(self, tally: Tally) -> Witness | None:
        for rows in self._batches(max(8, self.n_each // 4)):
            last = rows.logits.shape[-1] - 1
            for position in sorted({0, last // 3, last // 2, last}):
                for label in (None, NO_LABEL):
                    seen = _foresight(self.rule, rows, self.stage, position, label)
                    tally.add("changed labels", len(seen))
                    for row in seen.topk(min(3, len(seen))).indices.tolist() if float(seen.max()) > 1e-6 else ():
                        one = rows.pick(row)
                        broken = partial(_foresight_alone, self.rule, self.stage, position, label)
                        if broken(one) > 1e-6:
                            # The positions behind are needed only if the rule looks at them.
                            short = cut_rows(one, position + 1)
                            one = _rounded(short if broken(short) > 1e-6 else one, broken)
                            return self._witness_of_foresight(one, position, label, broken(one))
        return None

    def _witness_of_foresight(self, rows: Sequences, position: int, label: int | None, amount: float) -> Witness:
        now = label if label is not None else int(other_label(rows.labels[0, position]))
        what = "disappears" if now == NO_LABEL else f"becomes {now}"
        inputs = self._inputs("sequence.causal", rows) | {"position": position, "label": now}
        told = f"a weight at or before position {position} changes by {amount:.4g} when the label there {what}"
        return Witness(told, inputs, amount, "changed labels", REPLAY.format(inputs=inputs))

    def _regret(self, axiom: str, tally: Tally) -> Witness | None:
        assert self.stated is not None, "checked by the caller"
        measure = partial(_excess, axiom, self.rule, stage=self.stage, stated=self.stated)
        for search in ("random", "gradient"):
            for rows in self._batches(self.n_each):
                if search == "gradient" and rows.logits.shape[-1] > _MOST_CLIMBED:
                    continue
                found = rows if search == "random" else _climbed(rows, measure, self.n_steps // 2, tally)
                if found is None:
                    return None
                with torch.no_grad():
                    seen = measure(found)
                tally.add(search, len(seen))
                if float(seen.max()) > 1e-5:
                    one = _rounded(found.pick(int(seen.argmax())), lambda row: float(measure(row)[0]))
                    return self._witness_of_loss(axiom, one, float(measure(one)[0]), search)
        return None

    def _witness_of_loss(self, axiom: str, rows: Sequences, amount: float, search: str) -> Witness:
        assert self.stated is not None, "checked by the caller"
        with torch.no_grad():
            pooled, each = losses(rows.label_logprob(self.stage), weights_of(self.rule, rows, self.stage))
        stated = {name: getattr(self.stated, name) for name in ("temperature", "rate", "constant")}
        stated["prior"] = None if self.stated.prior is None else dict(self.stated.prior)
        inputs = self._inputs(axiom, rows) | {"stated": stated}
        against = "the best teacher" if axiom == "sequence.regret" else "the best sequence of teachers"
        told = (
            f"on {rows.logits.shape[-1]} positions the mixture loses {float(pooled):.6g} nats and its teachers "
            f"{', '.join(f'{x:.6g}' for x in each[:, 0].tolist())}: {amount:.4g} more than {against} plus "
            f"{self.stated.told()}"
        )
        return Witness(told, inputs, amount, search, REPLAY.format(inputs=inputs))

    def _inputs(self, axiom: str, rows: Sequences) -> dict[str, Any]:
        stage = {
            "teachers": list(self.stage.teachers_for(len(rows.logits))),
            "n_entries": self.stage.n_entries,
            "tasks": list(self.stage.tasks),
            "contexts": list(self.stage.contexts),
            "n_features": self.stage.n_features,
        }
        return {"kind": "sequence", "axiom": axiom, "stage": stage} | rows.to_json()


def _foresight(rule: WeightOperator, rows: Sequences, stage: Stage, position: int, label: int | None) -> Tensor:
    """Return how much weights up to a position change with the label there, ``[B]``; None is the other label."""
    labels = rows.labels.clone()
    labels[:, position] = other_label(labels[:, position]) if label is None else label
    here = weights_of(rule, rows, stage).exp()[..., : position + 1]
    there = weights_of(rule, replace(rows, labels=labels), stage).exp()[..., : position + 1]
    return (here - there).abs().nan_to_num(0).amax(dim=(0, 2))


def _foresight_alone(rule: WeightOperator, stage: Stage, position: int, label: int | None, rows: Sequences) -> float:
    return float(_foresight(rule, rows, stage, position, label)[0])


def _excess(axiom: str, rule: WeightOperator, rows: Sequences, stage: Stage, stated: Stated) -> Tensor:
    """Return the loss beyond what is stated, in nats, ``[B]``."""
    said = rows.label_logprob(stage)
    pooled, each = losses(said, weights_of(rule, rows, stage))
    n_positions = (~said.isnan().any(dim=0)).sum(dim=-1)
    log_prior = stated.log_prior(stage.teachers_for(len(said)))
    if axiom == "sequence.regret":
        return (pooled - each - stated.regret(n_positions, log_prior)).amax(dim=0)
    excess = []
    for n_switches in range(_MOST_SWITCHES + 1):
        # A path pays for its own first teacher: it is one term of the mixture over paths, with its own prior.
        allowed = stated.tracking(n_positions, n_switches, len(said))
        beyond = pooled - best_path_losses(said, n_switches, -log_prior) - allowed
        excess.append(torch.where(n_positions > n_switches, beyond, -torch.inf))
    return torch.stack(excess).amax(dim=0)


def _climbed(rows: Sequences, measure: Callable[[Sequences], Tensor], n_steps: int, tally: Tally) -> Sequences | None:
    """Return the rows after some steps uphill, None if the rule has no gradient and its losses none."""
    for step in range(n_steps):
        leaf = rows.logits.detach().requires_grad_()
        amounts = measure(replace(rows, logits=leaf))
        if not amounts.requires_grad:
            return None
        (slope,) = torch.autograd.grad(amounts.nan_to_num(0, 0, 0).sum(), leaf)
        slope = slope.nan_to_num(0, 0, 0)
        unit = slope / slope.square().sum(dim=(0, 2), keepdim=True).sqrt().clamp_min(1e-300)
        rows = replace(rows, logits=(leaf.detach() + (1 - step / n_steps) * unit).clamp(-25, 25))
        tally.add("gradient", len(amounts))
    return rows


@torch.no_grad()
def _rounded(rows: Sequences, broken: Callable[[Sequences], float]) -> Sequences:
    """Return the row with fewer positions and digits, broken by a fair part all the same."""
    wanted = max(2e-5, min(0.3 * broken(rows), 1e-3))
    for n_positions in range(1, rows.logits.shape[-1]):
        short = cut_rows(rows, n_positions)
        try:
            if broken(short) >= wanted:
                rows = short
                break
        except IndexError:  # shorter than the position that is asked about
            continue
    for digits in (1, 2, 3, 4, 6):
        p = [[min(max(round(x, digits), 1e-6), 1 - 1e-6) for x in row] for row in rows.to_json()["p"]]
        plain = of_numbers(p, rows.labels[0].tolist(), rows.mask[0].tolist())
        if broken(plain) >= wanted:
            return plain
    return rows
