"""Pareto compatibility (III.14): when a minimiser of the scalarised task losses can be dominated.

Students here answer tasks independently, each with a Bernoulli distribution, so everything is a formula: the loss of
task ``j`` is ``KL(q_j || s_j)`` with ``q_j`` the weighted mean of the teachers' answers.
"""

import torch

from mashbill.shapes import Bool, Float, Int, Tensor

_AT_ONCE = 50
"""Problems looked at together: few enough that torch starts no threads."""
_LOW, _RHO = 0.05, 0.85
"""Guard of the feedback: weights of at least .05 for three teachers."""


def search_domination(n: int = 2_000) -> tuple[int, Tensor | None]:
    """Look for a dominated minimiser among random problems with positive coefficients.

    Each problem has 2, 3 or 4 tasks, three teachers, fixed weights and 100 students to choose from, convex or not.

    Returns:
        Problems tried, and the losses ``[students, tasks]`` of one whose minimiser is dominated, None if there is none.
    """
    generator = torch.Generator().manual_seed(0)
    for first in range(0, n, _AT_ONCE):
        n_problems, n_tasks = min(_AT_ONCE, n - first), 2 + (first // _AT_ONCE) % 3
        raw = torch.rand(n_problems, n_tasks, 7, generator=generator, dtype=torch.float64)
        students = 0.02 + 0.96 * torch.rand(n_problems, 100, n_tasks, generator=generator, dtype=torch.float64)
        answers, weights, coefficients = raw[..., :3], (4 * raw[..., 3:6]).exp(), (4 * raw[..., 6:]).exp()
        target = (weights * answers).sum(dim=-1) / weights.sum(dim=-1)
        losses = bernoulli_kl(target.clamp(1e-6, 1 - 1e-6).unsqueeze(1), students)
        # Students that answer alike cost alike: ties are where a dominated minimiser would hide.
        losses = (losses * 20).round() / 20
        found = dominated(losses, (losses @ coefficients).squeeze(-1).argmin(dim=-1))
        if bool(found.any()):
            return first + n_problems, losses[found][0]
    return n, None


def dominated(losses: Float[Tensor, "n S M"], chosen: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Return whether some student is no worse than the chosen one on any task, and better on one."""
    best = losses.gather(1, chosen.reshape(-1, 1, 1).expand(-1, 1, losses.shape[-1]))
    is_better = (losses <= best).all(dim=-1) & ((best - losses).amax(dim=-1) > 1e-12)
    return is_better.any(dim=-1)


def domination_with_zero() -> float:
    """Return by how much a minimiser with coefficients (1, 0) is dominated, for the weights that suit it best.

    Teachers say .2, .3, .4 on the second task; a student with the first task's target there and .99 on the second
    minimises the scalarised loss, and one with both targets is better on the second task. The least over the box
    [.05, .8], exact: ``KL(q || .99)`` falls in ``q``, so the least is at the corner of the largest target, which is on
    the lattice of weights looked at. Nats.
    """
    steps = torch.arange(0.05, 0.8001, 0.05, dtype=torch.float64)
    first, second = torch.meshgrid(steps, steps, indexing="ij")
    weights = torch.stack([first, second, 1 - first - second], dim=-1).flatten(0, 1)
    weights = weights[(weights[:, 2] >= 0.05 - 1e-12) & (weights[:, 2] <= 0.8 + 1e-12)]
    target = weights @ torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64)
    careless = bernoulli_kl(target, torch.full_like(target, 0.99))
    return float((careless - bernoulli_kl(target, target)).min())


def feedback_domination() -> tuple[float, float]:
    """Return the loss of two fixed points of training with weights that follow the student, the worse one first.

    Teachers (.95, .05, .5); ``w = .15/3 + .85 softmax(-20 KL(p_k || s))``; each step the student learns its target
    exactly, as gradient descent with the gradient stopped at the weights would. Both tasks are alike, and the loss is
    the cross-entropy of Definition VI.1, nats. The first point is dominated by the second on both tasks, for all
    positive coefficients.
    """
    teachers = torch.tensor([0.95, 0.05, 0.5], dtype=torch.float64)

    def loss_after(student: Tensor) -> float:
        for _ in range(500):
            student = follow_student(teachers, student) @ teachers
        target = follow_student(teachers, student) @ teachers
        return float(-(target * student.log() + (1 - target) * (1 - student).log()))

    middle, edge = (torch.tensor(start, dtype=torch.float64) for start in (0.55, 0.9))
    return loss_after(middle), loss_after(edge)


def follow_student(teachers: Float[Tensor, " K"], student: Float[Tensor, ""]) -> Float[Tensor, " K"]:
    """Return the weights of the feedback: normalised, positive, bounded and continuous, and not independent of it."""
    return _LOW + _RHO * torch.softmax(-20 * bernoulli_kl(teachers, student.expand_as(teachers)), dim=0)


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """Return ``KL(Bern(p) || Bern(q))`` in nats; both inside (0, 1), of shapes that broadcast."""
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
