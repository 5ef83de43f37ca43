"""What follows from what: implications between axioms, each with its proof, a proof object, and an attack on it."""

import itertools
import math
from dataclasses import dataclass

import torch

from mashbill.audit.independence_families import BOX, softmax_slope
from mashbill.audit.pareto import domination_with_zero, feedback_domination, search_domination
from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.shapes import Tensor

N_TEACHERS = 3
_MOST_POINTS = 1_000_000


@dataclass(frozen=True)
class Implication:
    """One thing that follows from others.

    Attributes:
        name: Short, e.g. ``"B => P"``.
        letter: The property that it makes redundant; empty if it makes none so.
        claim: What follows.
        proof: Why, in a line or two.
        certificate: What of the proof is numbers.
        attempts: Attacks that found nothing.
        is_proved: The certificate holds and no attack succeeded.
    """

    name: str
    letter: str
    claim: str
    proof: str
    certificate: Certificate | None
    attempts: int
    is_proved: bool


def implications() -> tuple[Implication, ...]:
    """Return them all, attacked anew."""
    return (_positivity(), _converse(), _upper_half(), _pareto(), _pareto_with_zero(), _pareto_student(), *_vacuous())


def _positivity() -> Implication:
    """``0 < w_min <= w_k``."""
    low, high = (float(w) for w in BOX)
    certificate = Certificate(
        "lower bound above 0",
        f"every weight is at least {low:g} > 0",
        "boundedness holds with this w_min",
        {"w_min": low, "twice": 2 * low},
    )
    boxed = _random_weights(low, high)
    return Implication(
        "B => P",
        "P",
        "positivity is implied by boundedness: III.2, III.11 and III.19 follow from III.3, III.12 and III.20",
        "0 < w_min <= w_k; so no family can break P alone, and 'not P' breaks B with it",
        certificate,
        len(boxed),
        certificate.recheck() and bool((boxed > 0).all()),
    )


def _converse() -> Implication:
    """``softmax(x^2, 0, -x^2)`` has no lower bound on the line and one on every interval."""
    coefficients, reach, n = (1, 0, -1), 1.5, 8_001
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)
    weights = torch.softmax(x.square().unsqueeze(-1) * torch.tensor(coefficients, dtype=torch.float64), dim=-1)
    numbers = {
        "coefficients": list(coefficients),
        "gaps": [1, 1],
        "reach": reach,
        "n_points": n,
        "step": 2 * reach / (n - 1),
        "least_on_grid": float(weights.min()),
        "slope": softmax_slope(coefficients),
        "bound": float(weights.min()) - softmax_slope(coefficients) * reach / (n - 1),
    }
    certificate = Certificate(
        "least value on a grid with a slope",
        f"on [-{reach:g}, {reach:g}] every weight is at least {numbers['bound']:.3g}",
        "w(x) = softmax(x^2, 0, -x^2) has the slope stated",
        numbers,
    )
    return Implication(
        "P + R => B on compact domains",
        "",
        "positive continuous weights on a compact domain have some w_min > 0; on the whole line they need not: "
        "there the third weight of softmax(x^2, 0, -x^2) is at most exp(-2 x^2), so 'not B' is below every w_min",
        "a continuous function has a least value on a compact set (extreme value theorem), and P makes it positive",
        certificate,
        n,
        certificate.recheck(),
    )


def _upper_half() -> Implication:
    low = float(BOX[0])
    bound = 1 - (N_TEACHERS - 1) * low
    certificate = Certificate(
        "weights sum to 1",
        f"with w_min = {low:g} no weight exceeds {bound:g}",
        "normalisation and positivity",
        {"n_teachers": N_TEACHERS, "w_min": low, "bound": bound, "others": N_TEACHERS - 1},
    )
    weights = _random_weights(low, 1.0)
    return Implication(
        "N + P => upper half of B",
        "",
        "w_max < infinity is empty: N and P keep every weight below 1, and a w_min keeps it at most 1-(K-1) w_min",
        "w_k = 1 - sum_(j != k) w_j <= 1 - (K-1) w_min",
        certificate,
        len(weights),
        certificate.recheck() and bool((weights <= bound + 1e-12).all()),
    )


def _pareto() -> Implication:
    attempts, found = search_domination()
    return Implication(
        "III.14 with lambda > 0",
        "Pareto",
        "III.14 asks nothing of weights that do not follow the student: it is a theorem for lambda > 0, "
        "and no weights satisfy it for a lambda of 0",
        "if another student were no worse on any task and better on one, its scalarised loss would be smaller too",
        None,
        attempts,
        found is None and domination_with_zero() > 0,
    )


def _pareto_with_zero() -> Implication:
    worst = domination_with_zero()
    return Implication(
        "III.14 with some lambda_j = 0",
        "",
        f"fails whatever the weights: a minimiser is dominated by at least {worst:.6g} nats for all weights of the box",
        "a task with lambda_j = 0 may be answered anyhow at no cost, also worse than it could be",
        None,
        0,
        worst > 0,
    )


def _pareto_student() -> Implication:
    reached, better = feedback_domination()
    return Implication(
        "III.14 with weights that follow the student",
        "",
        f"is an axiom: training can stop where both tasks lose {reached:.6g} nats although {better:.6g} is attainable",
        "the weights move with the student, so the objective at the point reached is not the one that is scalarised",
        None,
        0,
        reached > better,
    )


def _vacuous() -> tuple[Implication, ...]:
    said = (
        (
            "almost everywhere",
            "the a.e. of III.2, III.18 and III.19 adds nothing for continuous weights on the support of the measure, "
            "and says nothing off it",
            "a continuous function that keeps a closed condition on a dense set keeps it on the closure",
        ),
        ("measurable", "measurability in III.21 is implied by continuity", "continuous functions are Borel"),
        (
            "scales",
            "the axioms of one scale imply none of another",
            "they constrain different functions: give one scale a breaking family and the others the conforming one",
        ),
    )
    return tuple(Implication(name, "", claim, proof, None, 0, True) for name, claim, proof in said)


@rechecks("lower bound above 0")
def _recheck_lower(numbers: Numbers) -> bool:
    return numbers["w_min"] > 0 and numbers["twice"] == 2 * numbers["w_min"]


@rechecks("weights sum to 1")
def _recheck_sum(numbers: Numbers) -> bool:
    others, low = numbers["others"], numbers["w_min"]
    return (
        others == numbers["n_teachers"] - 1
        and low > 0
        and numbers["n_teachers"] * low <= 1
        and math.isclose(numbers["bound"], 1 - others * low, rel_tol=1e-12)
    )


@rechecks("least value on a grid with a slope")
def _recheck_grid(numbers: Numbers) -> bool:
    """Compute the grid again; between two points a weight falls by at most slope times half a step."""
    coefficients = tuple(numbers["coefficients"])
    n, reach = numbers["n_points"], numbers["reach"]
    if not (isinstance(n, int) and 2 <= n <= _MOST_POINTS and 0 < reach < math.inf):
        return False
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)
    weights = torch.softmax(x.square().unsqueeze(-1) * torch.tensor(coefficients, dtype=torch.float64), dim=-1)
    expected = {
        "step": 2 * reach / (n - 1),
        "least_on_grid": float(weights.min()),
        "slope": softmax_slope(coefficients),
        "bound": numbers["least_on_grid"] - numbers["slope"] * numbers["step"] / 2,
    }
    gaps = [a - b for a, b in itertools.pairwise(coefficients)]
    is_same = all(math.isclose(numbers[name], value, rel_tol=1e-9) for name, value in expected.items())
    return is_same and gaps == numbers["gaps"] and numbers["bound"] > 0


def _random_weights(low: float, high: float, n: int = 2_000) -> Tensor:
    """Return weights in a box, sharp and flat ones."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.empty(4 * n, N_TEACHERS, dtype=torch.float64).exponential_(generator=generator)
    raw = raw ** (4 * torch.rand(len(raw), 1, generator=generator, dtype=torch.float64))
    weights = low + (1 - N_TEACHERS * low) * raw / raw.sum(dim=-1, keepdim=True)
    return weights[(weights <= high).all(dim=-1)][:n]
