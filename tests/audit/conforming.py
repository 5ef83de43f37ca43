"""Operators without a fault: what an audit must leave alone.

Weight rules are asked all axioms; pools and softenings only what they promise, because no pool keeps everything. What
an operator is known to break is excused by name; nothing else may be falsified.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from audit import broken_pools as wrong
from audit import mutants_recursion, mutants_sequences, mutants_softening
from audit.specimens import Promising, Rule

from mashbill import pools, weights
from mashbill.audit.moods import Stage
from mashbill.distributions import soften
from mashbill.weights.evidence import Evidence
from mashbill.weights.order import SafetyOrder


@dataclass(frozen=True)
class Conforming:
    """An operator that keeps what it is asked.

    Attributes:
        name: What it is.
        make: Returns a fresh one.
        excused: Axioms that it is known to break.
        kind: What sort of operator.
        stage: The names that it was made for.
    """

    name: str
    make: Callable[[], Any]
    excused: tuple[str, ...] = ()
    kind: Literal["weights", "pool", "softening", "recursion", "sequence"] = "weights"
    stage: Stage | None = None


TWO, THREE = Stage(teachers=("a", "b")), Stage(teachers=("a", "b", "c"))
BOX = (0.005, 1.0)
"""Feasible for one teacher and for 64."""


def finished(name: str, *, stage: Stage | None = None, excused: tuple[str, ...] = (), **options: Any) -> Conforming:
    """Return a product with bounds and the scorecard's order."""
    ended = {"order": "scorecard", "bounds": BOX} | options
    return Conforming(name, lambda: weights.product(**ended), excused, stage=stage)


def conformed(name: str, rule: Callable[[Evidence], torch.Tensor], **options: Any) -> Conforming:
    """Return a rule with bounds and the scorecard's order."""
    stage = options.pop("stage", None)
    ended = {"order": "scorecard", "bounds": BOX} | options
    return Conforming(name, lambda: weights.conform(rule, **ended), stage=stage)


def plain_gini(evidence: Evidence, /) -> torch.Tensor:
    return torch.log_softmax(-evidence.statistics.gini, dim=0)


def unnormalised_scores(evidence: Evidence, /) -> torch.Tensor:
    return -evidence.statistics.gini


def squared_margin(evidence: Evidence, /) -> torch.Tensor:
    return torch.log_softmax(2 * evidence.statistics.margin.square(), dim=0)


def softly_counted(evidence: Evidence, /) -> torch.Tensor:
    return torch.log(0.1 + torch.sigmoid(10 * (evidence.statistics.margin - 0.5)))


def softer_in_code(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return signal * torch.where(evidence.task == evidence.tasks.index("code"), 0.5, 1.0).reshape(1, -1, 1)


ALL = {"token": weights.EntropySoftmax(), "task": weights.Performance(), "context": weights.RankedSafety()}
BLENDED = weights.PartitionOfUnity(anchors={"home": [0.0, 0.0], "field": [1.0, 1.0]})

RULES = [
    Conforming("uniform", weights.Uniform),
    Conforming("product of nothing", weights.product),
    Conforming("ranked safety by itself", weights.RankedSafety),
    finished("entropy, kl", token=weights.EntropySoftmax(), guard="kl"),
    finished("entropy, l2", token=weights.EntropySoftmax(), guard="l2"),
    finished("entropy, squash", token=weights.EntropySoftmax(), guard="squash"),
    finished("entropy, not at all steep", token=weights.EntropySoftmax(beta=0.0)),
    finished("entropy, very steep", token=weights.EntropySoftmax(beta=50.0)),
    finished("entropy, hardly bounded", token=weights.EntropySoftmax(beta=10.0), bounds=(1e-12, 1.0)),
    finished("entropy, hardly free", token=weights.EntropySoftmax(beta=10.0), bounds=(0.333, 0.334), stage=THREE),
    finished("entropy, only uniform allowed", token=weights.EntropySoftmax(), bounds=(0.5, 0.5), stage=TWO),
    finished("margin", token=weights.Margin(beta=3.0)),
    finished("inverse variance", token=weights.InverseVariance()),
    finished("inverse variance, steep", token=weights.InverseVariance(exponent=2.0, epsilon=1e-3)),
    finished("inverse variance, supplied", token=weights.InverseVariance(source="supplied", epsilon=0.1)),
    finished("near the mean", token=weights.Gibbs()),
    finished("near the student, declared", token=weights.Gibbs(reference="student")),
    finished("doubt and skill", token=weights.Hybrid(skill=5.0)),
    finished("posterior", token=weights.Bayes()),
    finished("fixed share", token=weights.FixedShare(rate=0.2)),
    finished("performance", task=weights.Performance()),
    finished("performance, steep", task=weights.Performance(temperature=0.01)),
    finished("inverse loss", task=weights.InverseLoss()),
    finished("data volume", task=weights.DataVolume({"a": 1000, "b": 50}), stage=TWO),
    finished("static", task=weights.Static({"a": 0.7, "b": 0.2, "c": 0.1}), stage=THREE),
    finished("ranked safety, wide", context=weights.RankedSafety(spread=0.99)),
    finished("context scores", context=weights.PartitionOfUnity(temperature=0.5)),
    finished("context anchors", context=BLENDED),
    finished("distance", context=weights.ShiftDistance({"a": [[0.0, 0.0]], "b": [[1.0, 1.0]]}), stage=TWO),
    finished("three scales, kl", **ALL),
    finished("three scales, l2", **ALL, guard="l2"),
    finished("three scales, squash", **ALL, guard="squash"),
    finished("three scales, order alone", **ALL, bounds=None),
    finished("three scales, tempered", **ALL, temperatures={"token": 3, "task": 3, "context": 3}, bounds=None),
    finished("three scales, sharpened", **ALL, temperatures={"token": 0.5, "task": 2}),
    finished(
        "written order",
        **ALL,
        order=SafetyOrder(3, ((0, 1), (0, 2))),
        bounds=(0.1, 0.6),
        stage=THREE,
        # The situations certify other orders, and places are written down.
        excused=("token.III.5", "contract.permutation"),
    ),
    conformed("mean of rules", weights.average(weights.EntropySoftmax(beta=3.0), weights.Performance())),
    conformed(
        "mean of rules, one by task names",
        weights.average(
            weights.Static({"chat": {"a": 0.7, "b": 0.3}, "code": {"a": 0.4, "b": 0.6}}, by="task"),
            weights.Performance(),
        ),
        stage=TWO,
    ),
    conformed("a user's function", plain_gini),
    conformed("a user's function without sum", unnormalised_scores, guard="l2"),
    conformed("a user's square", squared_margin, guard="squash"),
    conformed("a user's sigmoid", softly_counted, bounds=(0.1, 0.8), stage=THREE),
    Conforming("a user's ordered rule", Rule),
    Conforming("a user's ordered rule by task", lambda: Rule("task")),
    Conforming("a user's ordered rule that knows a task by name", lambda: Rule("task", twist=softer_in_code)),
    Conforming("a user's ordered rule by context", lambda: Rule("context", steep=3.0)),
    Conforming("a user's ordered rule over features", lambda: Rule("features")),
    Conforming("a true promise", lambda: Promising(Rule())),
    Conforming("a true promise by task", lambda: Promising(Rule("task", steep=4.0))),
    Conforming("a true promise over features", lambda: Promising(Rule("features", steep=0.5))),
]

HULL = ("pool.convexity.strong", "pool.convexity.weak")
NO_MIXTURE = (*HULL, wrong.COORDINATE, wrong.REGRET, wrong.UNSAFE)


def pool(name: str, operator: Callable[..., torch.Tensor], excused: tuple[str, ...]) -> Conforming:
    return Conforming(f"pool: {name}", lambda: operator, excused, kind="pool")


POOLS = [
    pool("linear", pools.linear, wrong.LINEAR),
    pool("linear, a user's", wrong.linear, wrong.LINEAR),
    pool("logarithmic", pools.log_linear, (*NO_MIXTURE, wrong.ALONE, wrong.CONTINUITY)),
    pool("power 1/2", partial(pools.power, r=0.5), (*NO_MIXTURE, *wrong.LINEAR)),
    pool("power 1/5", partial(pools.power, r=0.2), (*NO_MIXTURE, *wrong.LINEAR)),
    pool("power 2", partial(pools.power, r=2.0), (*NO_MIXTURE, *wrong.LINEAR, wrong.LOSS)),
    pool("harmonic", pools.harmonic, (*NO_MIXTURE, *wrong.LINEAR, wrong.LOSS, wrong.ALONE, wrong.CONTINUITY)),
    pool(
        "Itakura-Saito",
        partial(pools.bregman, divergence="itakura_saito", side="left"),
        (*NO_MIXTURE, *wrong.LINEAR, wrong.LOSS, wrong.ALONE, wrong.CONTINUITY),
    ),
]

SOFTENINGS = [
    Conforming("softening: power", lambda: soften.power, kind="softening"),
    Conforming("softening: mixture", lambda: soften.mixture, kind="softening"),
    Conforming(
        "softening: power, a user's",
        lambda: lambda log_p, *, temperature: mutants_softening.power(log_p, temperature),
        kind="softening",
    ),
]

RECURSIONS = [
    Conforming("recursion: a mixture", lambda: mutants_recursion.Step(mutants_recursion.mixed), kind="recursion"),
    Conforming(
        "recursion: more than stated",
        lambda: mutants_recursion.Step(partial(mutants_recursion.mixed, share=0.3)),
        kind="recursion",
    ),
]

SEQUENCES = [
    Conforming("sequence: posterior", weights.Bayes, kind="sequence"),
    Conforming("sequence: slow posterior", lambda: weights.Bayes(temperature=3.0), kind="sequence"),
    Conforming(
        "sequence: posterior with a prior",
        lambda: weights.Bayes(prior={"a": 0.9, "b": 0.1}),
        kind="sequence",
        stage=TWO,
    ),
    Conforming("sequence: posterior, a user's", mutants_sequences.Posterior, kind="sequence"),
    Conforming("sequence: fixed share", lambda: weights.FixedShare(rate=0.05), kind="sequence"),
    Conforming("sequence: fixed share, hardly any", lambda: weights.FixedShare(rate=1e-6), kind="sequence"),
    Conforming("sequence: fixed share, a user's", mutants_sequences.Sharing, kind="sequence"),
]

CONFORMING: list[Conforming] = [*RULES, *POOLS, *SOFTENINGS, *RECURSIONS, *SEQUENCES]
