"""What follows from the forecaster that a rule declares in ``form``: Bayes' rule, or fixed share.

``{"forecaster": "bayes"}`` is ``w_t ~ prior exp(-loss before t / temperature)``, ``{"forecaster": "fixed_share"}`` is
``w' = (1 - rate) posterior + rate/K``, with the rule's own ``prior``, ``temperature`` and ``rate``. Both mixtures are
sums over teachers, or over all sequences of teachers, of which every single one is a part; for a temperature above 1 by
``sum_k w_k p_k >= (sum_k w_k p_k^(1/T))^T``. That the rule computes the forecaster is the premise, attacked and not
proved.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mashbill.audit.hull import are_distributions
from mashbill.audit.moods import Stage
from mashbill.audit.searching import Tally
from mashbill.audit.sequences import DOUBLE, Sequences, Stated, weights_of
from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.weights.evidence import WeightOperator

KIND = "forecaster"
_EXACT = 1e-9
_CLAIMS = {
    "sequence.regret": "the mixture's probability of a row is at least prior_k times teacher k's",
    "sequence.tracking": "the mixture's probability of a row is at least that of any sequence of teachers, weighted",
}


def forecast(p: np.ndarray, prior: np.ndarray, temperature: float, rate: float | None) -> np.ndarray:
    """Return the weights ``[K T]`` of a row with label probabilities ``p``, ``[K T]``."""
    weights, columns = prior.copy(), []
    for column in p.T:
        columns.append(weights)
        weights = weights * column ** (1 / temperature)
        weights = weights / weights.sum()
        if rate is not None:
            weights = (1 - rate) * weights + rate / len(prior)
    return np.stack(columns, axis=-1)


def certify(axiom: str, rule: WeightOperator, stated: Stated, stage: Stage, tally: Tally) -> Certificate | None:
    """Return the certificate of a bound; None if no forecaster is declared, or another one is computed."""
    form: Any = getattr(rule, "form", None)
    kind = form.get("forecaster") if isinstance(form, Mapping) else None
    if stated.constant is not None or kind != ("bayes" if stated.rate is None else "fixed_share"):
        return None
    n_teachers = 3 if stage.teachers is None else len(stage.teachers)
    prior = stated.log_prior(stage.teachers_for(n_teachers)).exp().numpy()
    n, worst = _largest_difference(rule, stated, stage, prior)
    if not worst <= _EXACT:
        tally.notes.append(f"it declares {kind}, but differs from it by {worst:.3g}")
        return None
    chance = np.random.default_rng(0)
    numbers = {"axiom": axiom, "temperature": stated.temperature, "prior": prior.tolist(), "instances": []}
    numbers |= {} if stated.rate is None else {"rate": stated.rate}
    for n_positions in (3, 4, 5):
        p = chance.integers(5, 96, size=(n_teachers, n_positions)) / 100
        weights = forecast(p, prior, stated.temperature, stated.rate)
        numbers["instances"].append({"p": p.tolist(), "weights": weights.tolist()})
    return Certificate(
        kind=KIND,
        claim=f"{kind}: {_CLAIMS[axiom]}; it loses at most {stated.told()} more",
        premise=f"the rule computes the forecaster that it declares; it did so on {n} random rows",
        numbers=numbers,
    )


@torch.no_grad()
def _largest_difference(rule: WeightOperator, stated: Stated, stage: Stage, prior: np.ndarray) -> tuple[int, float]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(len(prior), 40, 12, generator=generator, dtype=DOUBLE)
    labels = torch.zeros(40, 12, dtype=torch.long)
    answers = weights_of(rule, Sequences(logits, labels, labels == 0), stage).exp().numpy()
    p = Sequences(logits, labels, labels == 0).label_logprob(stage).exp().numpy()
    each = [np.abs(answers[:, b] - forecast(p[:, b], prior, stated.temperature, stated.rate)).max() for b in range(40)]
    return len(each), float(max(each))


@rechecks(KIND)
def recheck_forecaster(numbers: Numbers) -> bool:
    """Compute weights, losses and the sums behind the bound again on the stored instances."""
    prior, temperature, rate = np.asarray(numbers["prior"], dtype=float), numbers["temperature"], numbers.get("rate")
    is_sound = are_distributions(prior) and (prior > 0).all() and 1 <= temperature < math.inf
    is_sound &= rate is None or (0 < rate <= 1 and temperature == 1)
    if not is_sound or numbers["axiom"] not in _CLAIMS or len(numbers["instances"]) < 3:
        return False
    return all(_recheck_row(numbers["axiom"], prior, temperature, rate, stored) for stored in numbers["instances"])


def _recheck_row(axiom: str, prior: np.ndarray, temperature: float, rate: float | None, stored: Numbers) -> bool:
    p, weights = (np.asarray(stored[name], dtype=float) for name in ("p", "weights"))
    again = forecast(p, prior, temperature, rate)
    if not ((p > 0) & (p <= 1)).all() or np.abs(again - weights).max() > _EXACT:
        return False
    pooled = float(np.log((weights * p).sum(axis=0)).sum())
    if rate is None:
        # The product of (sum_k w_k p_k^(1/T))^T telescopes to (sum_k prior_k P_k^(1/T))^T.
        whole = temperature * math.log(float((prior * np.prod(p, axis=-1) ** (1 / temperature)).sum()))
        parts = np.log(prior) * temperature + np.log(p).sum(axis=-1)
        return axiom == "sequence.regret" and pooled >= whole - _EXACT and bool((parts <= whole + _EXACT).all())
    stay, change = 1 - rate + rate / len(prior), rate / len(prior)
    total = 0.0
    for path in itertools.product(range(len(prior)), repeat=p.shape[1]):
        switches = sum(a != b for a, b in itertools.pairwise(path))
        own = prior[path[0]] * change**switches * stay ** (p.shape[1] - 1 - switches)
        total += own * math.prod(p[k, t] for t, k in enumerate(path))
    return abs(math.log(total) - pooled) <= _EXACT  # a sum of positive terms is at least each of them
