"""Claims about weights and their composition: Appendix A, Remark III.6, families A and B, Theorem IV.2."""

import math
from collections.abc import Callable

import torch

from mashbill.audit.pareto import domination_with_zero, search_domination
from mashbill.audit.verdicts import Certificate
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics, measure
from mashbill.guarantees.paper import Claim, certified, falsified, seen, survived
from mashbill.pools.projection import hull_project
from mashbill.shapes import Float, Tensor
from mashbill.weights import order
from mashbill.weights.bounds import composed_bounds
from mashbill.weights.compose import conform
from mashbill.weights.evidence import Evidence, WeightOperator
from mashbill.weights.order import SafetyOrder
from mashbill.weights.token import EntropySoftmax, InverseVariance

TEACHERS = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64)
"""The two teachers of Appendix A."""


def _appendix() -> Claim:
    entropy = -(TEACHERS * TEACHERS.log()).sum(dim=-1)
    w = (1 / entropy) / (1 / entropy).sum()
    gain = float((w @ TEACHERS)[0] / TEACHERS.mean(dim=0)[0] - 1)
    sure = torch.tensor([1 - 2e-6, 1e-6, 1e-6], dtype=torch.float64)
    pair = torch.stack([-(sure * sure.log()).sum(), entropy[1]])
    least = float(((1 / pair) / (1 / pair).sum())[1])
    violation = 1.52 - math.log(3)
    return Claim(
        **falsified(
            "appendix",
            "Appendix A",
            "teachers (.8, .15, .05) and (.4, .35, .25) have entropies .68 and 1.52, inverse-entropy weights .69 and "
            ".31 gain 13 %, and both weightings satisfy the axioms",
            seen(
                f"three entries have at most ln 3 = {math.log(3):.6g} nats; the entropies are "
                f"{float(entropy[0]):.6g} and "
                f"{float(entropy[1]):.6g}, and with p_1 = (1 - 2e-6, 1e-6, 1e-6) teacher 2 keeps {least:.2g}: no w_min",
                {"printed": 1.52, "largest": math.log(3), "entropies": entropy.tolist(), "least": least},
                violation,
                "import math",
                "printed = 1.52",
                "violation = printed - math.log(3)",
            ),
        ),
        **certified(
            f"inverse-entropy weights are ({float(w[0]):.6g}, {float(w[1]):.6g}), the gain is {100 * gain:.4g} %, and "
            "they have no lower bound: normalise H and guard the weights",
            Certificate(
                "inverse entropies",
                "weights and target from the distributions",
                "natural logarithms; weights do not depend on the base",
                {"teachers": TEACHERS.tolist(), "weights": w.tolist(), "target": (w @ TEACHERS).tolist(), "gain": gain},
            ),
        ),
    )


def _template() -> Claim:
    safety, entropy = torch.tensor([1.0, 0.9]).double(), torch.tensor([1.5, 0.2]).double()
    w = torch.softmax(safety - entropy, dim=0)
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2_000, 4, generator=generator, dtype=torch.float64)
    ranks = torch.randn(2_000, 4, generator=generator, dtype=torch.float64).round()
    fixed = order.project(torch.softmax(ranks - scores, dim=-1), safety=ranks, w_min=0.05, w_max=0.7, metric="kl")
    is_safer = ranks.unsqueeze(-1) > ranks.unsqueeze(-2)
    n_broken = int((is_safer & (fixed.unsqueeze(-1) < fixed.unsqueeze(-2) - 1e-12)).sum())
    n_broken += int(((fixed < 0.05 - 1e-12) | (fixed > 0.7 + 1e-12)).sum())
    return Claim(
        **falsified(
            "template",
            "Remark III.6",
            "weights f(H, s)/sum f with f continuous, positive, decreasing in H, increasing in s and bounded away "
            "from 0 "
            "satisfy the token axioms",
            seen(
                f"f = exp(s - H), safety (1, .9), entropies (1.5, .2): the safer teacher gets {float(w[0]):.6g}",
                {"safety": safety.tolist(), "entropy": entropy.tolist(), "weights": w.tolist()},
                float(w[1] - w[0]),
                "import math",
                "f = [math.exp(1 - 1.5), math.exp(.9 - .2)]",
                "violation = (f[1] - f[0]) / sum(f)",
            ),
        ),
        **survived(
            "the same scores, projected onto the safety order and then into the box, keep both", 2_000, n_broken
        ),
    )


def _family(id: str, name: str, rule: WeightOperator) -> Callable[[], Claim]:
    def make() -> Claim:
        w = rule(evidence_of(TEACHERS.unsqueeze(1))).exp().flatten()
        safer = SafetyOrder(2, ((1, 0),))
        finished = conform(rule, bounds=(0.2, 0.8), order=safer)
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(2, 2_000, 5, generator=generator, dtype=torch.float64)
        fixed = finished(evidence_of(torch.softmax(logits, dim=-1))).exp()
        n_broken = int((fixed[1] < fixed[0] - 1e-12).sum() + (fixed < 0.2 - 1e-12).sum())
        module, made = "token", repr(rule)
        return Claim(
            **falsified(
                id,
                f"Theorem V.2, {name}",
                f"{name} as sketched satisfies all axioms, the token scale's safety order (III.5) among them",
                seen(
                    f"{made} reads no safety: on Appendix A's teachers the second, if it is the safer one, gets "
                    f"{float(w[1]):.6g} against {float(w[0]):.6g}",
                    {"teachers": TEACHERS.tolist(), "safer": [1, 0], "weights": w.tolist()},
                    float(w[0] - w[1]),
                    "from mashbill.guarantees.claims_of_weights import TEACHERS, evidence_of; from "
                    f"mashbill.weights.{module} "
                    f"import {type(rule).__name__}",
                    f"w = {made}(evidence_of(TEACHERS.unsqueeze(1))).exp().flatten()",
                    "violation = float(w[0] - w[1])",
                ),
            ),
            **survived("the same rule under conform(..., order=...) keeps order and box", 2_000, n_broken),
        )

    return make


def evidence_of(probabilities: Float[Tensor, "K B V"]) -> Evidence:
    """Return evidence of teachers with these answers, one position a row."""
    each = [measure(Dense.from_probs(rows.unsqueeze(1))) for rows in probabilities]
    names = tuple(f"t{k}" for k in range(len(probabilities)))
    return Evidence.plain(names, Statistics.stack(each), n_entries=probabilities.shape[-1])


def _product_bounds() -> Claim:
    low, high = composed_bounds([(0.2, 0.8)] * 3, n_teachers=2)
    return Claim(
        **falsified(
            "product.bounds",
            "Theorem IV.2 (2)",
            "if every scale keeps [w_min, w_max], so do the unified weights",
            seen(
                f"three scales at (.2, .8) multiply to ({low:.6g}, {high:.6g})",
                {"scales": [[0.2, 0.8]] * 3, "weights": [low, high]},
                0.2 - low,
                "a, b = .2 ** 3, .8 ** 3",
                "w = a / (a + b)",
                "violation = .2 - w",
            ),
        ),
        **certified(
            f"exactly [{low:.6g}, {high:.6g}]: the least and largest weight over all vertices; a guard after the "
            "product, "
            "or sum 1/T_s <= 1, brings the bounds back",
            Certificate(
                "vertices of a product",
                f"weights of the product are within [{low:.6g}, {high:.6g}], both attained",
                "a weight of the product is linear-fractional in each scale, so extremes are at vertices",
                {"ranges": [[0.2, 0.8]] * 3, "n_teachers": 2, "low": low, "high": high},
            ),
        ),
    )


def _product_order() -> Claim:
    scales = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.55, 0.45]], dtype=torch.float64)
    w = torch.softmax(scales.log().sum(dim=0), dim=0)
    fixed = order.project(w, safety=(2, 1), w_min=0.2, w_max=0.8)
    generator = torch.Generator().manual_seed(0)
    ordered = torch.randn(3, 5_000, 3, generator=generator, dtype=torch.float64).sort(descending=True).values
    n_broken = int((ordered.log_softmax(dim=-1).sum(dim=0).diff(dim=-1) > 1e-12).sum())
    told = ", ".join(f"{x:.6g}" for x in fixed.tolist())
    return Claim(
        **falsified(
            "product.order",
            "Theorem IV.2",
            "unified weights satisfy the axioms that the scales satisfy, the safety order among them",
            seen(
                f"token (.6, .4), task (.3, .7), context (.55, .45), teacher 1 safer: unified ({float(w[0]):.6g}, "
                f"{float(w[1]):.6g}); task weights are under no order",
                {"scales": scales.tolist(), "weights": w.tolist()},
                float(w[1] - w[0]),
                "a, b = .6 * .3 * .55, .4 * .7 * .45",
                "w = a / (a + b), b / (a + b)",
                "violation = w[1] - w[0]",
            ),
        ),
        **survived(
            f"projected onto the order last: ({told}); or if every scale is ordered, so is the product", 5_000, n_broken
        ),
    )


def _token_weights() -> Claim:
    by_token = torch.tensor([[0.7, 0.3, 0.3], [0.3, 0.7, 0.7]], dtype=torch.float64)
    mixed = (by_token * TEACHERS).sum(dim=0)
    q = mixed / mixed.sum()
    found = hull_project(q.log(), TEACHERS.log())
    direction, total = found.separator.tolist(), float(mixed.sum())
    along = (TEACHERS @ found.separator).tolist()
    margin = float(q @ found.separator) - max(along)
    return Claim(
        **falsified(
            "token.hull",
            "Definition III.7, Theorem IV.2 (3)",
            "weights w_k(x, i) of tokens give a normalised target that is a convex combination of the teachers",
            seen(
                f"weights (.7, .3, .3) and the rest on Appendix A's teachers: mass {total:.6g}; renormalised, "
                f"{float(found.distance):.6g} from every mixture",
                {"by_token": by_token.tolist(), "target": mixed.tolist(), "normalised": q.tolist()},
                total - 1,
                "p, r = (.8, .15, .05), (.4, .35, .25)",
                "w = (.7, .3, .3)",
                "violation = sum(a * x + (1 - a) * y for a, x, y in zip(w, p, r)) - 1",
            ),
        ),
        **certified(
            f"after renormalising the target is outside the teachers' mixtures by a margin of {margin:.3g}; weights "
            "of a "
            "position stay inside",
            Certificate(
                "separating direction",
                "no mixture of the teachers is the target",
                "every mixture lies between the teachers along the direction",
                {
                    "teachers": TEACHERS.tolist(),
                    "target": q.tolist(),
                    "direction": direction,
                    "along": along,
                    "margin": margin,
                },
            ),
        ),
    )


def _pareto() -> Claim:
    attempts, found = search_domination(500)
    worst = domination_with_zero()
    return Claim(
        **falsified(
            "pareto",
            "Axiom III.14",
            "for all non-negative coefficients, minimisers of the scalarised objective are Pareto optimal",
            seen(
                f"coefficients (1, 0): a minimiser is dominated by {worst:.6g} nats or more, whatever the weights",
                {"coefficients": [1, 0], "dominated_by": worst},
                worst,
                "from math import log",
                "q, s = .05 * .2 + .15 * .3 + .8 * .4, .99  # the second task's target under the mildest weights",
                "violation = q * log(q / s) + (1 - q) * log((1 - q) / (1 - s))",
            ),
        ),
        **survived(
            "for positive coefficients and weights that do not follow the student it is a theorem, not an axiom",
            attempts,
            int(found is not None),
        ),
    )


CLAIMS: tuple[Callable[[], Claim], ...] = (
    _appendix,
    _template,
    _family("family.A", "family A", EntropySoftmax()),
    _family("family.B", "family B", InverseVariance()),
    _product_bounds,
    _product_order,
    _token_weights,
    _pareto,
)
"""Each computes one claim."""
