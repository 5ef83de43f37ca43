"""Claims of section VIII: expected safety, the safety front, multipliers, and what a mixture says of a student."""

import math
from collections.abc import Callable

import torch

from mashbill.audit.verdicts import Certificate
from mashbill.guarantees import safety
from mashbill.guarantees.paper import Claim, certified, falsified, seen, survived
from mashbill.guarantees.proofs import bernoulli_kl
from mashbill.shapes import Float, Tensor


def _dilution() -> Claim:
    share, critical = 0.01, 0.0
    expected = safety.expected_safety(share, critical)
    return Claim(
        **falsified(
            "safety.dilution",
            "Definition VIII.3, as read",
            "a high expected safety means that safety-critical tokens are answered reliably",
            seen(
                f"a student that fails on every critical row, one row in a hundred, has expected safety {expected:.6g}",
                {"critical_share": share, "critical_safety": critical, "expected": expected},
                expected - critical,
                "share, critical = .01, 0.",
                "expected = (1 - share) * 1 + share * critical",
                "violation = expected - critical",
            ),
        ),
        **certified(
            f"Safety_D is at least 1 - P(critical) = {1 - share:g} for any student; safety conditional on critical "
            "rows is "
            f"{critical:g} here",
            Certificate(
                "expected safety",
                "Safety_D = (1 - s) + s f >= 1 - s",
                "Definition VIII.2 counts rows that are not critical as 1",
                {"share": share, "critical": critical, "expected": expected, "floor": 1 - share},
            ),
        ),
    )


def front(n: int = 4_001) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return students ``p``, their loss ``KL(Bern(.3) || Bern(p))`` and safety ``p^4``; all ``p >= .3`` are optimal."""
    p = torch.linspace(0.3, 0.999, n, dtype=torch.float64)
    loss = 0.3 * (0.3 / p).log() + 0.7 * (0.7 / (1 - p)).log()
    return p, loss, p**4


def _front() -> Claim:
    p, loss, measure = front()
    # Log-spaced multipliers, and what each of them chooses.
    multipliers = torch.logspace(-4, 5, 4_000, dtype=torch.float64)
    chosen = (loss - multipliers.unsqueeze(-1) * measure).argmin(dim=-1).unique()
    at = int(p[chosen].diff().argmax())
    low, high = int(chosen[at]), int(chosen[at + 1])
    middle = (low + high) // 2
    share = float((measure[middle] - measure[low]) / (measure[high] - measure[low]))
    chord = float((1 - share) * loss[low] + share * loss[high])
    x = torch.linspace(-1, 1, 2_001, dtype=torch.float64)
    both = torch.stack([1 - (-((x - 1) ** 2)).exp(), 1 - (-((x + 1) ** 2)).exp()])
    mixes = torch.linspace(0, 1, 2_001, dtype=torch.float64)
    reached = x[(torch.stack([mixes, 1 - mixes]).T @ both).argmin(dim=-1)].abs().min()
    # The constraint reaches every point: least loss with at least this much safety, for each of them.
    by_constraint = torch.stack([loss.masked_fill(measure < level, torch.inf).argmin() for level in measure[::40]])
    n_missed = int((by_constraint != torch.arange(len(p))[::40]).sum())
    return Claim(
        **falsified(
            "safety.front",
            "Theorem VIII.5",
            "each Pareto-optimal trade-off of loss and safety minimises the Lagrangian for some multiplier",
            seen(
                f"loss KL((.3, .7) || p), safety p^4: no multiplier reaches p in ({float(p[low]):.3f}, "
                f"{float(p[high]):.3f}), "
                f"all of it Pareto optimal; on Fonseca and Fleming's front none reaches |x| < {float(reached):.3f}",
                {"low": float(p[low]), "high": float(p[high]), "fonseca": float(reached)},
                float(loss[middle]) - chord,
                "from mashbill.guarantees.claims_of_safety import front; p, loss, s = front()",
                f"a, b, m = {low}, {high}, {middle}; share = float((s[m] - s[a]) / (s[b] - s[a]))",
                "violation = float(loss[m]) - float((1 - share) * loss[a] + share * loss[b])  # above the chord",
            ),
        ),
        **survived(
            "with the constraint Safety >= s instead of a multiplier every optimal trade-off is reached; multipliers "
            "reach "
            "the convex hull of the front",
            len(by_constraint),
            n_missed,
        ),
    )


def _multiplier() -> Claim:
    slope_of_loss, slope_of_safety = 1.0, 0.0
    good = safety.constrained_target(
        torch.tensor([0.3, 0.7], dtype=torch.float64), entries=torch.tensor([True, False]), minimum=0.5
    )
    numbers = {
        "target": 0.3,
        "minimum": 0.5,
        "student": float(good.probabilities[0]),
        "multiplier": float(good.multiplier),
        "loss": float(good.divergence),
    }
    return Claim(
        **falsified(
            "safety.multiplier",
            "Theorem VIII.6",
            "every solution of the constrained problem has a multiplier",
            seen(
                "min theta subject to 1 - theta^2 >= 1: theta = 0 is the only feasible point, the loss has slope 1 "
                "there and "
                "the safety 0, so no multiplier balances them",
                {"slope_of_loss": slope_of_loss, "slope_of_safety": slope_of_safety},
                slope_of_loss,
                "loss, safety = lambda x: x, lambda x: 1 - x ** 2",
                "slope = lambda f: (f(1e-6) - f(-1e-6)) / 2e-6",
                "violation = min(abs(slope(loss) - mu * slope(safety)) for mu in (0, 1, 10, 1e3, 1e6))",
            ),
        ),
        **certified(
            "if some student is safer than required (Slater): target (.3, .7), p >= .5 gives p = "
            f"{numbers['student']:g}, "
            f"multiplier {numbers['multiplier']:.6g}, loss {numbers['loss']:.6g}",
            Certificate(
                "KKT point",
                "stationary, complementary and feasible",
                "KL((t, 1-t) || (p, 1-p)) is convex and p >= s is linear",
                numbers,
            ),
        ),
    )


def _preservation() -> Claim:
    # The student of Theorem VI.2 (ii)'s counter-example, logit 3 theta - theta^3, where descent stopped at theta = 1.
    teacher, student = 1 / (1 + math.exp(-5)), 1 / (1 + math.exp(-2))
    both = torch.tensor([[teacher, 1 - teacher], [student, 1 - student]], dtype=torch.float64)
    ensemble, reached = safety.brier_safety(both, torch.zeros(2, dtype=torch.long)).tolist()
    kl = bernoulli_kl(teacher, student)
    bound = safety.student_floor(ensemble, lipschitz=2, kl=kl)
    n_broken, n = _attack()
    return Claim(
        **falsified(
            "safety.preserved",
            "Corollary VIII.7",
            "for a concave measure the student is, at convergence, at least as safe as the weighted ensemble of its "
            "teachers",
            seen(
                f"safety 1 - Brier/2, teachers that say {teacher:.6g}, a student that could but whose training "
                "converged to "
                f"{student:.6g} (gradient 0): {reached:.6g} against {ensemble:.6g}",
                {"teachers": teacher, "student": student, "ensemble": ensemble, "reached": reached},
                ensemble - reached,
                "from math import exp",
                "teacher, student = 1 / (1 + exp(-5)), 1 / (1 + exp(-2))",
                "violation = (1 - student) ** 2 - (1 - teacher) ** 2  # 1 - Brier/2 is 1 - (1 - p)^2 for two entries",
            ),
        ),
        **survived(
            "S(student) >= sum_k w_k S(p_k) - Lip sqrt(KL(q || student)/2), and with weights in the order of S at "
            "least the "
            f"plain mean less that; here at least {bound:.6g}. Another mix of contexts multiplies the KL by up to "
            "the largest "
            "ratio of their shares",
            n,
            n_broken,
        ),
    )


def _attack() -> tuple[int, int]:
    """Return violations of the corrected corollary over random teachers, ordered weights and students."""
    generator, n = torch.Generator().manual_seed(0), 5_000
    p = torch.softmax(3 * torch.randn(3, n, 4, generator=generator, dtype=torch.float64), dim=-1)
    student = torch.softmax(3 * torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.zeros(n, dtype=torch.long)
    each = safety.brier_safety(p, labels.expand(3, n))
    raw = torch.rand(3, n, generator=generator, dtype=torch.float64)
    ordered = (raw / raw.sum(dim=0)).sort(dim=0).values
    w = torch.empty_like(ordered).scatter_(0, each.argsort(dim=0), ordered)
    q = (w.unsqueeze(-1) * p).sum(dim=0)
    kl = (q * (q / student).log()).sum(dim=-1)
    floors = safety.mixture_floor(w, each)
    n_broken = int((floors < each.mean(dim=0) - 1e-12).sum())
    n_broken += int((safety.brier_safety(q, labels) < floors - 1e-12).sum())
    found = safety.brier_safety(student, labels)
    bounds = torch.tensor(
        [safety.student_floor(float(a), lipschitz=2, kl=float(b)) for a, b in zip(floors, kl, strict=True)],
        dtype=torch.float64,
    )
    return n_broken + int((found < bounds - 1e-12).sum()), n


CLAIMS: tuple[Callable[[], Claim], ...] = (_dilution, _front, _multiplier, _preservation)
"""Each computes one claim."""
