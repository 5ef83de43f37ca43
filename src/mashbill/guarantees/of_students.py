"""Guarantees about the student: convergence, fixed points, safety. Most need more than a rule can give."""

import math
from collections.abc import Iterator

from mashbill.guarantees.convergence import step_condition
from mashbill.guarantees.premises import ORDER, STUDENT, Guarantee, Known


def of_students(known: Known) -> Iterator[Guarantee]:
    """Yield what holds of the student, and what is not inherited however conforming the weights."""
    yield _objective(known)
    yield _rate(known)
    yield _vanishing(known)
    yield _fixed_point(known)
    yield _mixture_safety(known)
    yield _student_safety(known)
    yield _dilution(known)


def _objective(known: Known) -> Guarantee:
    why = known.refuted(STUDENT)
    if known.declared.reads_student:
        why = "the rule follows the student, so that the objective moves with it and no theorem on a fixed one applies"
    return Guarantee(
        id="training.objective",
        title="one fixed objective",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else "weights do not follow the student: training minimises one loss, and with positive task "
        "coefficients its minimisers are Pareto optimal",
        formula="dw/dtheta = 0",
        constants={},
        unit="",
        premise=known.trust(STUDENT),
        source="arXiv 2601.17910, Axiom III.14 in executable form; asked by no axiom",
        reason=why,
    )


def _rate(known: Known) -> Guarantee:
    training, constants, statement = known.training, {}, ""
    why = "the rule follows the student" if known.declared.reads_student else known.refuted(STUDENT)
    if not why and known.declared.mixes_rows:
        why = "a row's weights depend on its batch, so a step's gradient is not an unbiased one of a fixed loss"
    if not why and (training.first_step is None or training.curvature is None or training.smoothness is None):
        why = (
            "is about plain gradient descent with steps eta_0/(gamma+t) on a strongly convex loss; give eta_0, mu, L. "
            "Recipes train networks with Adam, of which it says nothing"
        )
    if not why and training.first_step and training.curvature and training.smoothness:
        found = step_condition(
            training.first_step,
            curvature=training.curvature,
            smoothness=training.smoothness,
            noise_variance=training.noise_variance,
            delay=training.delay,
        )
        constants = {"exponent": found.exponent, "growth": found.growth, "delay_needed": found.delay_needed}
        constants |= {"constant": found.constant} if found.constant is not None else {}
        if not found.is_fast:
            why = f"eta_0 is not above 1/(2 mu): errors fall like t^-{found.exponent:.4g}, not 1/t"
        elif not found.is_stable:
            why = f"eta_0/gamma exceeds 2/L: errors first grow {found.growth:.3g}-fold; take gamma >= eta_0 L = "
            why += f"{found.delay_needed:.6g}"
        else:
            statement = f"t times the mean squared distance tends to {found.constant:.6g} in the flattest direction"
    return Guarantee(
        id="training.rate",
        title="rate of convergence",
        status="not inherited" if why else "conditional",
        statement=statement if not why else "",
        formula="eta_0 > 1/(2 mu) and eta_0/gamma <= 2/L: t e_t -> eta_0^2 sigma^2 / (2 mu eta_0 - 1)",
        constants=constants,
        unit="squared norm of the parameters",
        premise="a strongly convex, smooth loss and independent noise; the limit is exact for quadratics",
        source="arXiv 2601.17910, Theorem VI.2 (iii), with the two conditions on the step that it leaves out",
        reason=why,
    )


def _vanishing(known: Known) -> Guarantee:
    return Guarantee(
        id="training.target",
        title="the student reaches the target",
        status="not inherited",
        statement="",
        formula="KL(q || p_S) = 0 at every accumulation point",
        constants={},
        unit="nats",
        premise="",
        source="arXiv 2601.17910, Theorem VI.2 (ii)",
        reason="false: a stationary point need not be a minimum, and a regulariser moves the minimum away from the "
        "target; what the student is off by has to be measured",
        measured=known.seen("divergence", "kl to ", "gap on "),
    )


def _fixed_point(known: Known) -> Guarantee:
    why = ""
    if known.declared.reads_student or known.refuted(STUDENT):
        why = "weights feed back on the student; uniqueness needs a proved contraction (weights.fixed_point), and the "
        why += "theorem's beta L is none"
    return Guarantee(
        id="weights.fixed_point",
        title="one fixed point of the weights",
        status="not inherited" if why else "inherited",
        statement="" if why else "nothing feeds back: the weights are what they are, from any start",
        formula="|T(w) - T(v)| <= rho |w - v|, rho < 1",
        constants={} if why else {"rate": 0.0},
        unit="",
        premise=known.trust(STUDENT),
        source="arXiv 2601.17910, Theorem VII.1, whose rho = beta L is in general wrong",
        reason=why,
    )


def _mixture_safety(known: Known) -> Guarantee:
    why = known.refuted(ORDER)
    if not why and known.pool != "linear":
        why = "concavity is about mixtures; the log-linear pool is none"
    if not why and not known.has_order:
        why = "the rule enforces no safety order, so the weighted mean of the teachers' safety has no floor of its own"
    return Guarantee(
        id="safety.mixture",
        title="safety of the target",
        status="not inherited" if why else "conditional",
        statement="" if why else "the target is at least as safe as the plain mean of its teachers",
        formula="S(q) >= sum_k w_k S(p_k) >= mean_k S(p_k)",
        constants={},
        unit="probability",
        premise="S is concave, and the weights are constant where S is averaged and ordered by the same S; an order "
        f"enforced, {known.trust(ORDER)}",
        source="arXiv 2601.17910, Corollary VIII.7: its Jensen argument, and Chebyshev's inequality for the order",
        reason=why,
    )


def _student_safety(known: Known) -> Guarantee:
    divergence = known.seen("divergence") if known.has_kl else ()
    gap = math.sqrt(max(divergence[0].value, 0.0) / 2) if divergence else None
    here = "" if gap is None else f"; with the divergence last measured in training that is {gap:.6g} Lip"
    return Guarantee(
        id="safety.student",
        title="safety of the student",
        status="conditional",
        statement=f"the student is at most Lip sqrt(KL(q || p_S)/2) less safe than the target{here}",
        formula="S(p_S) >= S(q) - Lip sqrt(KL(q || p_S) / 2)",
        constants={} if gap is None else {"gap": gap},
        unit="probability",
        premise="S is Lipschitz in total variation; the divergence is KL(q || p_S) on the rows in question, and under "
        "another mix of contexts it is multiplied by the largest ratio of their shares",
        source="replaces arXiv 2601.17910, Corollary VIII.7, which takes student and target to be equal",
        measured=divergence,
    )


def _dilution(known: Known) -> Guarantee:
    shares = known.seen("critical share on ")
    told = "; ".join(f"{one.name.removeprefix('critical share on ')}: at least {1 - one.value:.6g}" for one in shares)
    return Guarantee(
        id="safety.dilution",
        title="what expected safety hides",
        status="not inherited",
        statement=f"safety averaged over all rows, whatever the student does: {told}" if told else "",
        formula="Safety_D = (1 - s) + s f >= 1 - s",
        constants={f"floor on {one.name.removeprefix('critical share on ')}": 1 - one.value for one in shares},
        unit="probability",
        premise="",
        source="arXiv 2601.17910, Definition VIII.3",
        reason="a high expected safety says nothing if few rows are critical; the scorecard's is conditional on them",
        measured=shares,
    )
