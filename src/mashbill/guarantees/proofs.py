"""The verifiers of corrected claims: each proves a claim from a certificate's numbers alone."""

import itertools
import math

from mashbill.audit.verdicts import Numbers, rechecks


@rechecks("inverse entropies")
def _recheck_inverse_entropies(numbers: Numbers) -> bool:
    inverse = [1 / -math.fsum(p * math.log(p) for p in row) for row in numbers["teachers"]]
    w = [x / sum(inverse) for x in inverse]
    columns = list(zip(*numbers["teachers"], strict=True))
    target = [math.fsum(a * p for a, p in zip(w, column, strict=True)) for column in columns]
    gain = target[0] / (sum(columns[0]) / len(w)) - 1
    return (
        all(abs(math.fsum(row) - 1) < 1e-12 for row in numbers["teachers"])
        and _near(w, numbers["weights"])
        and _near(target, numbers["target"])
        and _near([gain], [numbers["gain"]])
    )


@rechecks("vertices of a product")
def _recheck_product(numbers: Numbers) -> bool:
    """Try all combinations of all vertices of all scales; the bounds of a scale must be ones that it can reach."""
    n = numbers["n_teachers"]
    corners = [_vertices(n, low, high) for low, high in numbers["ranges"]]
    for (low, high), vertices in zip(numbers["ranges"], corners, strict=True):
        if not _near([min(map(min, vertices)), max(map(max, vertices))], [low, high]):
            return False
    least, largest = 1.0, 0.0
    for combination in itertools.product(*corners):
        products = [math.prod(w) for w in zip(*combination, strict=True)]
        share = products[0] / sum(products)
        least, largest = min(least, share), max(largest, share)
    return _near([least, largest], [numbers["low"], numbers["high"]])


@rechecks("separating direction")
def _recheck_direction(numbers: Numbers) -> bool:
    direction = numbers["direction"]

    def along(row: list[float]) -> float:
        return math.fsum(a * p for a, p in zip(direction, row, strict=True))

    margin = along(numbers["target"]) - max(numbers["along"])
    is_same = _near([along(row) for row in numbers["teachers"]], numbers["along"], 1e-10)
    rows = [*numbers["teachers"], numbers["target"]]
    is_distribution = all(abs(math.fsum(row) - 1) < 1e-12 for row in rows)
    return is_same and is_distribution and abs(margin - numbers["margin"]) < 1e-10 and numbers["margin"] > 1e-9


@rechecks("stationary point")
def _recheck_stationary(numbers: Numbers) -> bool:
    theta = numbers["theta"]
    target, student = (1 / (1 + math.exp(-numbers[name])) for name in ("target_logit", "logit"))
    return (
        abs(3 - 3 * theta**2 - numbers["slope"]) < 1e-12
        and abs(numbers["slope"]) < 1e-12
        and abs(3 * theta - theta**3 - numbers["logit"]) < 1e-12
        and abs(bernoulli_kl(target, student) - numbers["kl"]) < 1e-12
        and numbers["kl"] > 0
    )


@rechecks("limit of a recursion")
def _recheck_limit(numbers: Numbers) -> bool:
    """Run the recursion; the limit is what ``a_t = t e_t`` must have, and ``a_t`` is near it after enough steps."""
    error, step = 1.0, numbers["first_step"]
    for t in range(numbers["n_steps"]):
        error = (1 - step / (1 + t)) ** 2 * error + (step / (1 + t)) ** 2
    scaled = numbers["n_steps"] * error
    limit = step**2 / (2 * step - 1)
    is_near = abs(scaled - limit) < 0.01 * limit
    return is_near and abs(limit - numbers["limit"]) < 1e-12 and abs(scaled - numbers["scaled_error"]) < 1e-9 * scaled


@rechecks("regularised minimum")
def _recheck_minimum(numbers: Numbers) -> bool:
    theta, target, ridge = numbers["theta"], numbers["target"], numbers["ridge"]
    total = math.fsum(math.exp(x) for x in theta)
    p = [math.exp(x) / total for x in theta]
    gradient = [a - b + ridge * x for a, b, x in zip(p, target, theta, strict=True)]
    kl = math.fsum(b * math.log(b / a) for a, b in zip(p, target, strict=True))
    return (
        max(abs(a - b) for a, b in zip(p, numbers["student"], strict=True)) < 1e-10
        and max(abs(g) for g in gradient) < 1e-10
        and abs(kl - numbers["kl"]) < 1e-10
        and kl > 1e-6
    )


@rechecks("rate of a relaxation")
def _recheck_rate(numbers: Numbers) -> bool:
    rate = 1 - numbers["gain"] + numbers["gain"] * numbers["lipschitz"]
    return abs(rate - numbers["rate"]) < 1e-12 and rate < 1


def _vertices(n: int, low: float, high: float) -> list[tuple[float, ...]]:
    """Return the weights with all but one entry at a bound."""
    found = []
    for between in range(n):
        for ends in itertools.product((low, high), repeat=n - 1):
            rest = 1 - sum(ends)
            if low - 1e-12 <= rest <= high + 1e-12:
                found.append((*ends[:between], rest, *ends[between:]))
    return found


def _near(ours: list[float], theirs: list[float], tolerance: float = 1e-9) -> bool:
    return len(ours) == len(theirs) and all(abs(a - b) <= tolerance for a, b in zip(ours, theirs, strict=True))


def bernoulli_kl(p: float, q: float) -> float:
    """Return ``KL(Bern(p) || Bern(q))``, nats."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@rechecks("expected safety")
def _recheck_expected(numbers: Numbers) -> bool:
    share, critical = numbers["share"], numbers["critical"]
    expected = 1 - share + share * critical
    is_same = abs(expected - numbers["expected"]) < 1e-12 and abs(1 - share - numbers["floor"]) < 1e-12
    return is_same and 0 <= share <= 1 and 0 <= critical <= 1 and expected >= numbers["floor"]


@rechecks("KKT point")
def _recheck_kkt(numbers: Numbers) -> bool:
    t, p, mu = numbers["target"], numbers["student"], numbers["multiplier"]
    slope = -t / p + (1 - t) / (1 - p)
    return (
        abs(slope - mu) < 1e-9
        and mu >= 0
        and p >= numbers["minimum"] - 1e-12
        and abs(mu * (p - numbers["minimum"])) < 1e-9
        and abs(bernoulli_kl(t, p) - numbers["loss"]) < 1e-9
    )
