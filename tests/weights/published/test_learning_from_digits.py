"""Rules that learn, on handwritten digits with small real teachers: what they lower, and where the weights go."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from mashbill.distributions import Dense, Statistics, measure
from mashbill.weights import published
from mashbill.weights.evidence import Evidence, Learner, Observation
from mashbill.weights.published import kendall, mtkdrl
from mashbill.weights.published.descent import Adam, Momentum
from mashbill.weights.published.mmkd import MMKD, MetaBatch

DOUBLE = torch.float64


class Linear(nn.Module):
    """A student of one layer that starts from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).unsqueeze(1)


def distil(rule, data, *, n_rows: int, labels: float = 0.0, n_steps: int = 120, learn: bool = True) -> Linear:
    """Train a student on the first rows as the training loop does: one step, then one look for the rule."""
    generator, student = torch.Generator().manual_seed(0), Linear()
    optimiser = torch.optim.SGD(student.parameters(), lr=1.0)
    for step in range(1, n_steps + 1):
        rows = data[torch.randint(n_rows, (64,), generator=generator)]
        logits = student(rows.x)[:, 0]
        log_weights = rule(rows.evidence(logits, needs=rule.needs)).detach()
        kl = (rows.teachers.exp() * (rows.teachers - logits.log_softmax(-1))).sum(-1)
        distance = (log_weights.exp().squeeze(-1) * kl).sum(0).mean()
        loss = (1 - labels) * distance + labels * nn.functional.cross_entropy(logits, rows.y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if learn and isinstance(rule, Learner):
            rule.observe(rows.observation(logits, log_weights, step, needs=rule.needs))
    return student


@torch.no_grad()
def judged(rule, student: Linear, data) -> tuple[float, torch.Tensor]:
    """Return the student's loss on the labels, and the weights ``[K B]``."""
    logits = student(data.x)[:, 0]
    return nn.functional.cross_entropy(logits, data.y).item(), rule(data.evidence(logits)).exp().squeeze(-1)


def test_the_teachers_are_what_they_are_said_to_be(specialists, unequal) -> None:
    def accuracy(data) -> list[float]:
        return (data.teachers.argmax(-1) == data.y).float().mean(1).tolist()

    assert all(0.45 < right < 0.5 for right in accuracy(specialists))
    good, noisy, shifted = accuracy(unequal)
    assert good > 0.9 > noisy > 0.8
    assert shifted < 0.05


# Kendall


def test_kendall_finds_the_optimum_of_its_objective(unequal) -> None:
    rule = published.Kendall(3, learning_rate=0.5)
    observation = unequal[:64].observation(torch.zeros(64, 10), torch.zeros(3, 64, 1), 1)
    losses = observation.losses.mean(dim=(1, 2))
    start = kendall.objective(rule.log_variances.detach()[:, 0], losses).sum()
    for _ in range(120):
        rule.observe(observation)
    found = rule.log_variances.detach()[:, 0]
    torch.testing.assert_close(found, losses.log(), atol=1e-5, rtol=0)
    assert float(kendall.objective(found, losses).sum()) < float(start) - 0.05
    weights = rule(observation.evidence).exp()[:, 0, 0]
    torch.testing.assert_close(weights, (1 / losses) / (1 / losses).sum(), atol=1e-5, rtol=0)


def test_kendall_follows_a_student_that_also_reads_labels_to_the_better_teacher(unequal) -> None:
    rule = published.Kendall(3, learning_rate=0.2)
    student = distil(rule, unequal, n_rows=800, labels=0.5)
    loss, weights = judged(rule, student, unequal[800:])
    good, noisy, shifted = weights.mean(1).tolist()
    assert good > 0.8
    assert noisy > shifted
    fixed_loss, _ = judged(
        rule, distil(published.Kendall(3), unequal, n_rows=800, labels=0.5, learn=False), unequal[800:]
    )
    assert loss < fixed_loss - 0.2


def test_kendall_without_labels_prefers_the_teacher_that_is_easiest_to_match(unequal) -> None:
    # The noisy one, whose answers are soft: an inverse loss is not a measure of quality.
    rule = published.Kendall(3, learning_rate=0.2)
    _, weights = judged(rule, distil(rule, unequal, n_rows=800), unequal[800:])
    assert float(weights.mean(1)[1]) > 0.9


def test_kendall_by_task_moves_only_the_tasks_it_sees(sequences) -> None:
    evidence = replace(sequences(), task=torch.tensor([0, 1, 0, 2]), tasks=("a", "b", "c"))
    rule = published.Kendall(3, n_tasks=3).double()
    losses = evidence.divergences["student"]
    rule.observe(Observation(1, evidence, rule(evidence).detach(), losses))
    assert rule.log_variances[:, 2].tolist() == [0.0, 0.0, 0.0]  # its one row counts nowhere
    for task, rows in ((0, [0, 2]), (1, [1])):
        mean = losses[:, rows][:, evidence.mask[rows]].mean(dim=1)
        torch.testing.assert_close(rule.log_variances.detach()[:, task], -0.1 * (1 - mean) / 2)
    few = published.Kendall(3, n_tasks=2)
    with pytest.raises(ValueError, match="n_tasks=2 is less than the 3 tasks"):
        few(evidence)


def test_one_huge_loss_moves_a_variance_by_one() -> None:
    even = measure(Dense.from_probs(torch.full((1, 1, 2), 0.5)))
    evidence = Evidence.plain(("a", "b"), Statistics.stack([even, even]), n_entries=2)
    rule = published.Kendall(2)
    rule.observe(Observation(1, evidence, rule(evidence).detach(), torch.full((2, 1, 1), 1e6)))
    assert rule.log_variances.flatten().tolist() == [1.0, 1.0]


# AMTML-KD


def test_amtml_kd_lowers_the_distance_of_pool_and_student(unequal) -> None:
    rule, rows = published.AMTMLKD(3, 64, seed=3), unequal[:400]
    student = distil(published.CAMKD(), unequal, n_rows=800, labels=0.5)
    observation = rows.observation(student(rows.x)[:, 0].detach(), torch.zeros(3, 400, 1), 1)
    start, before = float(rule.objective(observation.evidence).detach()), mean_weights(rule, observation.evidence)
    for _ in range(60):
        rule.observe(observation)
    assert float(rule.objective(observation.evidence).detach()) < 0.7 * start
    after = mean_weights(rule, observation.evidence)
    assert float(after[2]) < 0.02 < float(before[2])  # the teacher of shifted labels, whom the student contradicts


def test_amtml_kd_collapses_to_even_weights_under_the_released_decay(unequal) -> None:
    rule = published.AMTMLKD(3, 64, decay=0.1)
    student = distil(rule, unequal, n_rows=800)
    _, weights = judged(rule, student, unequal[800:])
    assert float((weights - 1 / 3).abs().max()) < 1e-4
    free = published.AMTMLKD(3, 64, decay=1e-3)
    _, weights = judged(free, distil(free, unequal, n_rows=800), unequal[800:])
    assert float((weights - 1 / 3).abs().max()) > 0.5


def mean_weights(rule, evidence: Evidence) -> torch.Tensor:
    return rule(evidence).detach().exp().mean(dim=(1, 2))


# MTKD-RL


def test_the_released_loss_of_the_mtkd_rl_agent_pulls_every_row_to_even_weights() -> None:
    # Over all weights: the minimum of -r sum log w on the simplex is 1/K for every r > 0.
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 5, generator=generator, dtype=DOUBLE, requires_grad=True)
    reward = torch.tensor([0.1, 0.4, 0.7, 1.0, 0.0], dtype=DOUBLE)
    for _ in range(500):
        (slope,) = torch.autograd.grad(mtkdrl.released_agent_loss(scores.softmax(0), reward), scores)
        scores = (scores - 20 * slope).detach().requires_grad_()
    found = scores.detach().softmax(0)
    torch.testing.assert_close(found[:, :4], torch.full((4, 4), 0.25, dtype=DOUBLE), atol=1e-6, rtol=0)
    assert float((found[:, 4] - 0.25).abs().max()) > 0.05  # no reward, no pull


def test_what_the_released_agent_can_reach_is_water_filling() -> None:
    # Its own third h fills up the other two, c, to a common level: h = max(level - c, 0), sum h = 1.
    losses = torch.tensor([0.0, 0.5, 6.0, 6.0], dtype=DOUBLE)
    distances = torch.tensor([4.0, 0.0, 0.0, 0.0], dtype=DOUBLE)
    others = 3 * mtkdrl.released_weights(torch.zeros(4, dtype=DOUBLE), losses, distances) - 0.25
    scores = torch.zeros(4, dtype=DOUBLE, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-15)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        weights = mtkdrl.released_weights(scores, losses, distances)
        loss = mtkdrl.released_agent_loss(weights.unsqueeze(-1), torch.ones(1, dtype=DOUBLE))
        loss.backward()
        return loss

    optimiser.step(closure)
    low, high = 0.0, 3.0
    for _ in range(80):
        level = (low + high) / 2
        low, high = (level, high) if float((level - others).clamp_min(0).sum()) < 1 else (low, level)
    expected = (others + (low - others).clamp_min(0)) / 3
    assert float(others.max()) > 0.75  # so that even weights are out of reach
    torch.testing.assert_close(mtkdrl.released_weights(scores.detach(), losses, distances), expected, atol=1e-3, rtol=0)


def test_mtkd_rl_learns_even_weights_as_released_and_the_better_teacher_by_gain(unequal) -> None:
    held_out, blank = unequal[800:], torch.zeros(397, 10)
    found = {}
    for learns in ("released", "gain"):
        rule = published.MTKDRL(3, 10, learns=learns, temperature=1)
        before = mean_weights(rule, held_out.evidence(blank))
        student = distil(rule, unequal, n_rows=800)
        loss, weights = judged(rule, student, held_out)
        found[learns] = before, loss, weights.mean(1)
    before, loss, after = found["released"]
    assert float((after - 1 / 3).abs().max()) < 0.01 < 0.1 < float((before - 1 / 3).abs().max())
    before, better_loss, after = found["gain"]
    assert int(after.argmax()) == 0 != int(before.argmax())
    assert float(after[0]) > float(before[0]) + 0.15
    assert better_loss < loss - 0.25


@pytest.mark.parametrize("learns", ["agreement", "gain"])
def test_the_policy_gradient_of_mtkd_rl_raises_the_expected_reward(unequal, learns: str) -> None:
    rows, rule = unequal[:300], published.MTKDRL(3, 10, learns=learns, temperature=1)
    observation = rows.observation(0.3 * torch.ones(300, 10), torch.zeros(3, 300, 1), 1)
    start = float(rule.objective(observation.evidence).detach())
    for _ in range(40):
        rule.observe(observation)
    assert float(rule.objective(observation.evidence).detach()) < start - 0.02


def test_the_policy_gradient_of_mtkd_rl_is_that_of_drawn_teachers(fixed) -> None:
    # REINFORCE: draw a teacher a from w, move up (R_a - mean R) grad log w_a; its mean is our gradient.
    rule, evidence = published.MTKDRL(3, 4, learns="agreement", n_hidden=5).double(), fixed()
    learned = list(rule.parameters())
    exact = torch.autograd.grad(-rule.objective(evidence), learned)
    log_weights = rule(evidence).squeeze(-1)
    rewards = -rule._divergence(evidence)
    n_draws = 200_000
    drawn = torch.distributions.Categorical(log_weights.detach().exp().T)
    torch.manual_seed(0)
    choice = drawn.sample((n_draws,)).T  # [B draws]
    advantage = rewards.T.gather(1, choice) - rewards.mean(0)[:, None]
    surrogate = (log_weights.T.gather(1, choice) * advantage).mean(1).mean(0)
    sampled = torch.autograd.grad(surrogate, learned)
    for one, other in zip(sampled, exact, strict=True):
        assert float((one - other).norm()) < 0.05 * float(other.norm()) + 1e-6


def test_the_gain_of_a_teacher_is_what_a_step_towards_it_takes_off_the_students_loss(fixed, student_logits) -> None:
    evidence = fixed()
    gain = mtkdrl._gain(evidence)
    labels, rate = torch.tensor([0, 1]), 1e-6
    teachers, student = evidence.given("logprobs")[:, :, 0].exp(), student_logits.softmax(-1)
    before = nn.functional.cross_entropy(student_logits, labels, reduction="none")
    for k in range(3):
        moved = student_logits - rate * (student - teachers[k])
        drop = before - nn.functional.cross_entropy(moved, labels, reduction="none")
        torch.testing.assert_close(drop / rate, gain[k], atol=1e-4, rtol=0)


def test_rows_that_all_do_alike_have_no_reward() -> None:
    weights, divergence = torch.full((2, 3), 0.5), torch.ones(2, 3)
    assert mtkdrl.released_reward(torch.ones(3), weights, divergence).tolist() == [0.0, 0.0, 0.0]
    assert mtkdrl.released_reward(torch.ones(1), weights[:, :1], divergence[:, :1]).tolist() == [0.0]


# MMKD


def lesson(data, *, logprobs: bool = True) -> MetaBatch:
    mask = torch.ones(len(data.y), 1, dtype=torch.bool)
    return MetaBatch((data.x,), data.y[:, None], mask, data.teachers.unsqueeze(2) if logprobs else None)


def test_mmkd_learns_which_specialist_to_ask(specialists) -> None:
    rule, held_out = MMKD(2, 10, learning_rate=1e-2), specialists[800:]
    generator, student = torch.Generator().manual_seed(0), Linear()
    optimiser = torch.optim.SGD(student.parameters(), lr=1.0)
    for _ in range(150):
        rows = specialists[torch.randint(600, (64,), generator=generator)]
        logits = student(rows.x)[:, 0]
        weights = rule(rows.evidence(logits)).detach().exp().squeeze(-1)
        kl = (rows.teachers.exp() * (rows.teachers - logits.log_softmax(-1))).sum(-1)
        optimiser.zero_grad()
        (weights * kl).sum(0).mean().backward()
        optimiser.step()
        rule.hypergradient_step(student, lesson(rows), inner_learning_rate=1.0, temperature=1.0)
    _, weights = judged(rule, student, held_out)
    of_low, of_high = weights[0, held_out.y < 5].mean(), weights[1, held_out.y >= 5].mean()
    assert min(float(of_low), float(of_high)) > 0.7

    def distilled_with(rule) -> float:
        return judged(rule, distil(rule, specialists, n_rows=600), held_out)[0]

    assert distilled_with(rule) < distilled_with(MMKD(2, 10)) - 0.3


def test_the_hypergradient_of_mmkd_is_the_slope_of_the_held_out_loss(specialists) -> None:
    rows, held_out = (
        replace(data, x=data.x.double(), teachers=data.teachers.double())
        for data in (specialists[:12], specialists[600:620])
    )
    rule, student = MMKD(2, 10, factor=6).double(), Linear().double()
    with torch.no_grad():
        # Without the student's answer in its state the unrolled steps leave nothing out, at whatever depth.
        rule.first.weight[:, -10:] = 0

    def loss() -> torch.Tensor:
        return rule.outer_loss(
            student,
            lesson(rows),
            held_out=lesson(held_out),
            inner_learning_rate=0.7,
            n_inner=3,
            temperature=2.0,
            weight_decay=0.01,
        )

    learned = rule._learned()
    slopes = torch.autograd.grad(loss(), learned)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for parameter, slope in zip(learned, slopes, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        if parameter is rule.first.weight:
            direction[:, -10:] = 0
        ends = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            ends.append(float(loss().detach()))
            parameter.data -= sign * step * direction
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((slope * direction).sum()), rel=1e-5, abs=1e-10)
    assert float(slopes[0].norm()) > 1e-4


def test_the_unrolled_steps_are_those_of_gradient_descent(specialists) -> None:
    rows = specialists[:20]
    rule, student, batch = MMKD(2, 10), Linear(), lesson(rows)
    found = rule.outer_loss(
        student, batch, inner_learning_rate=0.5, n_inner=2, temperature=4.0, weight_decay=0.1
    ).detach()
    walker = Linear()
    optimiser = torch.optim.SGD(walker.parameters(), lr=0.5, weight_decay=0.1)
    for step in range(3):
        logits = walker(rows.x)[:, 0]
        weights = rule(rows.evidence(logits)).detach().exp().squeeze(-1)
        teacher, own = (rows.teachers / 4).log_softmax(-1), (logits / 4).log_softmax(-1)
        kl = 16 * (teacher.exp() * (teacher - own)).sum(-1)
        loss = (weights * kl).sum(0).mean() if step < 2 else nn.functional.cross_entropy(logits, rows.y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(found, nn.functional.cross_entropy(walker(rows.x)[:, 0], rows.y).detach())


def test_mmkd_leaves_the_student_alone(specialists) -> None:
    class Normed(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(64)
            self.frozen = nn.Parameter(torch.ones(10), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.norm(x)) * self.frozen

    rule, student = MMKD(2, 10), Normed()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    rule_before = rule.first.weight.detach().clone()
    loss = rule.hypergradient_step(student, lesson(specialists[:30]), inner_learning_rate=0.5)
    assert not loss.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in [*student.parameters(), *rule.parameters()])
    assert not torch.equal(rule.first.weight, rule_before)


def test_positions_that_do_not_count_do_not_spoil_a_hypergradient(specialists) -> None:
    rows, clean = specialists[:6], MMKD(2, 10)
    spoiled, student = MMKD(2, 10), Linear()
    whole = lesson(rows)
    assert whole.logprobs is not None
    mask = torch.tensor([[True], [True], [False], [True], [False], [True]])
    some = replace(whole, mask=mask, labels=whole.labels.masked_fill(~mask, -100))
    poison = replace(some, logprobs=whole.logprobs.masked_fill(~mask.unsqueeze(-1), float("nan")))
    for rule, batch in ((clean, some), (spoiled, poison)):
        rule.hypergradient_step(student, batch, inner_learning_rate=0.5)
    assert torch.equal(clean.first.weight, spoiled.first.weight)
    assert bool(clean.first.weight.isfinite().all())
    with pytest.raises(ValueError, match=r"batch=MetaBatch\(logprobs=None\)"):
        clean.hypergradient_step(student, replace(some, logprobs=None), inner_learning_rate=0.5)


# All


MAKERS: dict[str, Callable[[int], nn.Module]] = {
    "kendall": lambda seed: published.Kendall(3),
    "amtml": lambda seed: published.AMTMLKD(3, 64, seed=seed),
    "mtkdrl": lambda seed: published.MTKDRL(3, 10, dynamic=True, seed=seed),
    "mtkdrl gain": lambda seed: published.MTKDRL(3, 10, learns="gain", seed=seed),
    "mmkd": lambda seed: MMKD(3, 10, seed=seed),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_state_restores_weights_and_next_steps_bit_for_bit(unequal, name: str) -> None:
    rows, generator = unequal[:32], torch.Generator().manual_seed(0)
    logits = torch.randn(32, 10, generator=generator)
    rule, other, student = MAKERS[name](0), MAKERS[name](7), Linear()

    def learn(rule) -> None:
        if isinstance(rule, MMKD):
            rule.hypergradient_step(student, lesson(rows), inner_learning_rate=0.5)
        else:
            rule.observe(rows.observation(logits, torch.zeros(3, 32, 1), 1))

    for _ in range(3):
        learn(rule)
    other.load_state_dict(rule.state_dict())
    assert torch.equal(rule(rows.evidence(logits)), other(rows.evidence(logits)))
    before = rule(rows.evidence(logits)).detach()
    learn(rule)
    learn(other)
    assert torch.equal(rule(rows.evidence(logits)), other(rows.evidence(logits)))
    assert not torch.equal(rule(rows.evidence(logits)), before)


@pytest.mark.parametrize("name", ["kendall", "amtml", "mtkdrl"])
def test_observing_spoiled_positions_teaches_the_same(sequences, name: str) -> None:
    make = {"kendall": published.Kendall, "amtml": published.AMTMLKD, "mtkdrl": published.MTKDRL}[name]
    size = {"kendall": (), "amtml": (3,), "mtkdrl": (6,)}[name]
    states = []
    for poison in (None, float("nan")):
        rule, evidence = make(3, *size).double(), sequences(poison=poison)
        for step in (1, 2):
            rule.observe(Observation(step, evidence, rule(evidence).detach(), evidence.divergences["student"]))
        states.append(rule.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])
        assert bool(value.isfinite().all())


def test_making_a_rule_draws_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    for make in MAKERS.values():
        make(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_adam_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]
    theirs = [p.clone().requires_grad_() for p in ours]
    mine = Adam(ours, learning_rate=0.05, weight_decay=0.1)
    reference = torch.optim.Adam(theirs, lr=0.05, weight_decay=0.1)
    for _ in range(5):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours]
        mine.step(ours, gradients)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-6, rtol=1e-5)


def test_momentum_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, generator=generator)]
    theirs = [ours[0].clone().requires_grad_()]
    mine, reference = Momentum(ours, learning_rate=0.1, momentum=0.9), torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for _ in range(4):
        gradient = torch.randn(3, generator=generator)
        mine.step(ours, [gradient])
        theirs[0].grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(ours[0], theirs[0].detach())
