"""What follows from the forecaster that a rule declares in ``form``: Bayes' rule, or fixed share.

``{"forecaster": "bayes"}`` is ``w_t ~ prior exp(-loss before t / temperature)``, ``{"forecaster": "fixed_share"}`` is
``w' = (1 - rate) posterior + rate/K``, with the rule's own ``prior``, ``temperature`` and ``rate``. Both mixtures are
sums over teachers, or over all sequences of teachers, of which every single one is a part: minus the log of a
sequence's share is ``ln(1/prior) - S ln(rate/K) - (n-1-S) ln(1 - rate + rate/K)``, with the prior of its own first
teacher and ``S`` changes (Herbster & Warmuth, *Tracking the Best Expert*, 1998, for log-loss). For a temperature above
1 it is ``sum_k w_k p_k >= (sum_k w_k p_k^(1/T))^T``. That the rule computes the forecaster is the premise, attacked and
not proved.
"""

import itertools
import math

import numpy as np
import torch

from mashbill.audit.comparing import EXACT as _EXACT
from mashbill.audit.comparing import TEACHERS, Comparison, drawn_sizes
from mashbill.audit.hull import are_distributions
from mashbill.audit.moods import Stage
from mashbill.audit.searching import Tally
from mashbill.audit.sequences import Stated, random_rows, weights_of
from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.forms import form_of
from mashbill.weights.evidence import WeightOperator

KIND = "forecaster"
_LONG = 200
_SIZES = ((2, 1), (3, 12), (2, _LONG), (4, _LONG), *((k, 24) for k in TEACHERS))  # teachers and positions
_CLAIMS = {
    "sequence.regret": "the mixture's probability of a row is a sum in which each teacher's is a term, weighted",
    "sequence.tracking": "the mixture's probability of a row is at least that of any sequence of teachers, weighted",
}


def forecast(p: np.ndarray, prior: np.ndarray, temperature: float, rate: float | None) -> np.ndarray:
    """Return the weights ``[K T]`` of a row with label probabilities ``p``, ``[K T]``; NaN is no label."""
    log_weights, columns = np.log(prior), []
    with np.errstate(divide="ignore"):
        stay, share = np.log1p(-(rate or 0.0)), np.log((rate or 0.0) / len(prior))
        said = np.log(p) / temperature
    for column in said.T:
        columns.append(np.exp(log_weights))
        if np.isnan(column).any():
            continue
        log_weights = log_weights + column
        log_weights = log_weights - np.logaddexp.reduce(log_weights)
        if rate is not None:
            log_weights = np.logaddexp(stay + log_weights, share)
    return np.stack(columns, axis=-1)


def certify(
    axiom: str, rule: WeightOperator, stated: Stated, stage: Stage, *, seed: int, tally: Tally
) -> Certificate | None:
    """Return the certificate of a bound; None if no forecaster is declared, or another one is computed."""
    kind = form_of(rule).get("forecaster")
    if stated.constant is not None or kind != ("bayes" if stated.rate is None else "fixed_share"):
        return None
    seen = _compare(rule, stated, stage, seed)
    if not seen.is_same:
        tally.notes.append(f"it declares {kind}, but differs from it by {seen.worst:.3g}")
        return None
    teachers = stage.teachers_for(3)
    chance, prior = np.random.default_rng(0), stated.log_prior(teachers).exp().numpy()
    numbers = {"axiom": axiom, "temperature": stated.temperature, "prior": prior.tolist(), "instances": []}
    numbers |= {} if stated.rate is None else {"rate": stated.rate}
    for n_positions in (3, 4, 5):
        p = chance.integers(5, 96, size=(len(teachers), n_positions)) / 100
        weights = forecast(p, prior, stated.temperature, stated.rate)
        numbers["instances"].append({"p": p.tolist(), "weights": weights.tolist(), "loss": _loss(p, weights)})
    return Certificate(
        kind=KIND,
        claim=f"{kind}: {_CLAIMS[axiom]}; it loses at most {stated.told()} more",
        premise=f"the rule computes the forecaster that it declares; {seen.told(seed)}",
        numbers=numbers,
    )


def _loss(p: np.ndarray, weights: np.ndarray) -> float:
    return -float(np.log((weights * p).sum(axis=0)).sum())


@torch.no_grad()
def _compare(rule: WeightOperator, stated: Stated, stage: Stage, seed: int) -> Comparison:
    """Compare the rule with the forecaster on rows with and without changes of the best teacher and missing labels."""
    generator, seen = torch.Generator().manual_seed(seed + 1), Comparison()
    sizes = [*_SIZES, *drawn_sizes(generator, most_rows=TEACHERS[-1], most_columns=2 * _LONG, n=5)]
    for n_wanted, n_positions in sizes:
        teachers = stage.teachers_for(n_wanted)
        prior = stated.log_prior(teachers).exp().numpy()
        rows = random_rows(generator, len(teachers), 8, n_positions)
        answers = weights_of(rule, rows, stage).exp().numpy()
        for b, p in enumerate(rows.label_logprob(stage).exp().unbind(dim=1)):
            expected = forecast(p.numpy(), prior, stated.temperature, stated.rate)
            seen.add(answers[:, b], expected, teachers=len(teachers), positions=n_positions)
    return seen


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
    is_sound = bool(((p > 0) & (p <= 1)).all())
    if not (is_sound and np.abs(forecast(p, prior, temperature, rate) - weights).max() <= _EXACT):
        return False
    pooled = -_loss(p, weights)
    if not abs(pooled + stored["loss"]) <= _EXACT:
        return False
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
