"""Claims about training: Theorem VI.2, Remark VI.4, Theorem VII.1, Lemma VII.4."""

import math
from collections.abc import Callable

import torch

from mashbill.audit.verdicts import Certificate
from mashbill.guarantees import convergence, perturbation, variance
from mashbill.guarantees.claims_of_weights import TEACHERS
from mashbill.guarantees.paper import Claim, certified, falsified, seen, survived
from mashbill.guarantees.proofs import bernoulli_kl
from mashbill.weights.contraction import relaxation_rate


def _vanishing() -> Claim:
    theta, target = 0.5, 1 / (1 + math.exp(-5))
    for _ in range(20_000):
        student = 1 / (1 + math.exp(theta**3 - 3 * theta))
        theta -= 0.1 * (student - target) * (3 - 3 * theta**2)
    student = 1 / (1 + math.exp(theta**3 - 3 * theta))
    kl = bernoulli_kl(target, student)
    return Claim(
        **falsified(
            "kl.vanishes",
            "Theorem VI.2 (ii)",
            "at every accumulation point the student equals the target",
            seen(
                "logit 3 theta - theta^3, target sigma(5), realisable at theta = -2.279: descent from .5 stops at "
                "theta = "
                f"{theta:.6g}, where the gradient is 0, with KL {kl:.6g}",
                {"theta": theta, "target": target, "student": student},
                kl,
                "from math import exp, log",
                "t, s = 1 / (1 + exp(-5)), 1 / (1 + exp(-2))  # logit 2 at theta = 1, where its slope is 0",
                "violation = t * log(t / s) + (1 - t) * log((1 - t) / (1 - s))",
            ),
        ),
        **certified(
            "the limit is a stationary point, no more: at theta = 1 the logit has slope 0 and the KL stays",
            Certificate(
                "stationary point",
                "the gradient vanishes and the divergence does not",
                "logit 3 theta - theta^3",
                {"theta": 1.0, "slope": 0.0, "logit": 2.0, "target_logit": 5.0, "kl": _trap()},
            ),
        ),
    )


def _trap() -> float:
    return bernoulli_kl(1 / (1 + math.exp(-5)), 1 / (1 + math.exp(-2)))


def _rate() -> Claim:
    slow = [
        n * convergence.mean_square(n, first_step=0.1, curvature=1, noise_variance=1, start=1)
        for n in (1_000, 10_000, 100_000)
    ]
    fast = 100_000 * convergence.mean_square(100_000, first_step=0.75, curvature=1, noise_variance=1, start=1)
    limit = convergence.asymptotic_constant(0.75, curvature=1, noise_variance=1)
    growth = convergence.transient_growth(0.6, smoothness=100.5)
    return Claim(
        **falsified(
            "rate",
            "Theorem VI.2 (iii)",
            "with steps eta_0/(1+t) and strong convexity the error is O(1/t)",
            seen(
                f"mu = 1, eta_0 = .1, noise 1: t times the error is {slow[0]:.4g}, {slow[1]:.4g}, {slow[2]:.4g} at t "
                "= 1e3, "
                "1e4, 1e5, without end; and at condition number 100.5, eta_0 = .6 iterates first grow "
                f"{growth:.2g}-fold",
                {"first_step": 0.1, "scaled_errors": slow, "growth": growth},
                slow[1] / slow[0] - 1,
                "from mashbill.guarantees.convergence import mean_square",
                "e = [n * mean_square(n, first_step=.1, curvature=1, noise_variance=1, start=1) for n in (1000, "
                "10000)]",
                "violation = e[1] / e[0] - 1",
            ),
        ),
        **certified(
            f"for eta_0 > 1/(2 mu) t times the error tends to eta_0^2 sigma^2/(2 mu eta_0 - 1) = {limit:.6g} at "
            "eta_0 = .75 "
            f"(at t = 1e5: {fast:.6g}); and eta_0 <= 2 gamma/L, or it blows up first",
            Certificate(
                "limit of a recursion",
                f"t e_t -> {limit:.6g}",
                "e <- (1 - eta_t mu)^2 e + eta_t^2 sigma^2, eta_t = eta_0/(1+t)",
                {"first_step": 0.75, "limit": limit, "n_steps": 100_000, "scaled_error": fast},
            ),
        ),
    )


def _exclusive() -> Claim:
    target, ridge = TEACHERS.mean(dim=0), 0.1
    theta = torch.zeros(3, dtype=torch.float64)
    for _ in range(50):
        p = torch.softmax(theta, dim=0)
        hessian = torch.diag(p) - torch.outer(p, p) + ridge * torch.eye(3, dtype=torch.float64)
        theta = theta - torch.linalg.solve(hessian, p - target + ridge * theta)
    p = torch.softmax(theta, dim=0)
    kl = float((target * (target / p).log()).sum())
    return Claim(
        **falsified(
            "rate.and.kl",
            "Theorem VI.2 (ii) with (iii)",
            "with an l2 regulariser for strong convexity the student still equals the target",
            seen(
                f"a student of biases alone with l2 weight .1 on the uniform target of Appendix A keeps KL {kl:.6g}",
                {"target": target.tolist(), "ridge": ridge, "student": p.tolist()},
                kl,
                f"p = {p.tolist()!r}  # (p - q) + .1 theta = 0, theta the centred logits",
                "from math import log",
                "violation = sum(q * log(q / s) for q, s in zip((.6, .25, .15), p))",
            ),
        ),
        **certified(
            "the regularised minimum has gradient 0 and is not the target",
            Certificate(
                "regularised minimum",
                f"KL {kl:.6g} at the only stationary point",
                "p - q + ridge theta = 0; the loss is strongly convex",
                {"theta": theta.tolist(), "student": p.tolist(), "target": target.tolist(), "ridge": ridge, "kl": kl},
            ),
        ),
    )


def _noise() -> Claim:
    w = torch.tensor([0.5, 0.5], dtype=torch.float64)
    noise = torch.tensor([0.05, -0.05], dtype=torch.float64)
    found = perturbation.target_shift(TEACHERS, w, noise)
    generator = torch.Generator().manual_seed(0)
    n, delta, low = 5_000, 0.05, 0.1
    p = torch.softmax(3 * torch.randn(3, n, 4, generator=generator, dtype=torch.float64), dim=-1)
    raw = torch.rand(3, n, generator=generator, dtype=torch.float64)
    weights = (low + delta) + (1 - 3 * (low + delta)) * raw / raw.sum(dim=0)
    jitter = torch.rand(3, n, generator=generator, dtype=torch.float64) - 0.5
    jitter = jitter - jitter.mean(dim=0)
    jitter = delta * jitter / jitter.abs().amax(dim=0)
    each = perturbation.target_shift(p, weights, jitter)
    bounds = torch.tensor([perturbation.excess_loss_bound(delta, n_teachers=3, w_min=low)], dtype=torch.float64)
    n_broken = int(
        (each.l1 > each.bound + 1e-12).sum() + (each.kl > bounds * perturbation.tv_diameter(p) + 1e-12).sum()
    )
    return Claim(
        **falsified(
            "noise",
            "Remark VI.4",
            "with noise of at most delta in the weights the loss comes within O(delta L) of its optimum, L the "
            "Lipschitz "
            "constant of the weights",
            seen(
                "constant weights have L = 0; (.5, .5) with noise (.05, -.05) on Appendix A's teachers loses "
                f"{float(found.kl):.6g} nats",
                {"weights": w.tolist(), "noise": noise.tolist(), "kl": float(found.kl), "l1": float(found.l1)},
                float(found.kl),
                "from math import log",
                "q, r = (.6, .25, .15), (.62, .24, .14)",
                "violation = sum(a * log(a / b) for a, b in zip(q, r))",
            ),
        ),
        **survived(
            f"|q~ - q|_1 <= |eps|_1 D_TV (here {float(found.l1):.6g} = {float(found.bound):.6g}) and "
            "KL(q || q~) <= 2 floor(K/2) delta^2 D_TV / w_min",
            n,
            n_broken,
        ),
    )


def _contraction() -> Claim:
    gain, slope = 0.5, 1.0
    added = 1 + gain * slope
    return Claim(
        **falsified(
            "contraction",
            "Theorem VII.1 (i)",
            "for beta < 1/L the update is a contraction with factor beta L",
            seen(
                f"T(w) = w + beta L w with beta L = {gain * slope:g} has the factor {added:g}",
                {"beta": gain, "lipschitz": slope, "factor": added},
                added - gain * slope,
                "beta, L = .5, 1.",
                "factor = ((2. + beta * L * 2.) - (1. + beta * L * 1.)) / (2. - 1.)",
                "violation = factor - beta * L",
            ),
        ),
        **certified(
            "relaxation w <- (1-b) w + b F(w) has the factor (1-b) + b L_F: a contraction if L_F < 1; otherwise it "
            "has to "
            "be proved of the map (weights.fixed_point)",
            Certificate(
                "rate of a relaxation",
                f"(1-b) + b L_F = {relaxation_rate(gain, lipschitz=0.4):g} for b = .5, L_F = .4",
                "triangle inequality",
                {"gain": gain, "lipschitz": 0.4, "rate": relaxation_rate(gain, lipschitz=0.4)},
            ),
        ),
    )


def _variance() -> Claim:
    anti = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    pair = torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64)
    uniform, adaptive = variance.gradient_variance(pair, anti).tolist()
    generator = torch.Generator().manual_seed(0)
    n = 5_000
    factor = torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    covariance = factor @ factor.mT
    w = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    w = w / w.sum(dim=-1, keepdim=True)
    found = variance.gradient_variance(w, covariance)
    sds = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    n_broken = int((found.sqrt() > variance.sd_bound(w, sds) + 1e-9).sum())
    even = torch.full_like(w, 1 / 3)
    positive = factor.abs() @ factor.abs().mT
    limit = (3 * w.amax(dim=-1)) ** 2 * variance.gradient_variance(even, positive)
    n_broken += int((variance.gradient_variance(w, positive) > limit * (1 + 1e-9)).sum())
    return Claim(
        **falsified(
            "variance",
            "Lemma VII.4",
            "the adaptive gradient's variance is at most (w_max/w_min)^2 times the uniform one",
            seen(
                f"two teachers whose gradients cancel: uniform variance {uniform:g}, that of (.6, .4) "
                f"{adaptive:.6g}, so no "
                "multiple bounds it",
                {"covariance": anti.tolist(), "weights": [0.6, 0.4], "uniform": uniform, "adaptive": adaptive},
                adaptive - (0.6 / 0.4) ** 2 * uniform,
                "w = .6, .4",
                "uniform, adaptive = (.5 - .5) ** 2, (w[0] - w[1]) ** 2",
                "violation = adaptive - (w[0] / w[1]) ** 2 * uniform",
            ),
        ),
        **survived(
            "sd <= sum_k w_k sigma_k always; Var <= (K w_max)^2 Var_uniform for nonnegative covariances; sd <= "
            "sd_uniform + "
            "R D for weights that vary",
            2 * n,
            n_broken,
        ),
    )


CLAIMS: tuple[Callable[[], Claim], ...] = (
    _vanishing,
    _rate,
    _exclusive,
    _noise,
    _contraction,
    _variance,
)
"""Each computes one claim."""
