import itertools
import math

import pytest
import torch
from weights.labelled import evidence_of, random_logprobs

from mashbill.numerics import LOG_ZERO
from mashbill.weights.regret import (
    best_path_loss,
    best_rate,
    mixture_loss,
    regret_bound,
    teacher_losses,
    tracking_bound,
)
from mashbill.weights.sequential import Bayes, FixedShare

DOUBLE = torch.float64
N = 2_000  # sequences of each kind; five kinds


def contrary(rule: Bayes | FixedShare, n_teachers: int, n_positions: int) -> torch.Tensor:
    """Sequences in which whoever has most weight predicts worst, by several degrees."""
    values = random_logprobs(n_teachers, N, n_positions, seed=8, spread=0.5)
    harm = torch.linspace(0.1, 30.0, N, dtype=DOUBLE)
    for t in range(n_positions):
        trusted = rule(evidence_of(values))[..., t].argmax(dim=0, keepdim=True)
        values[..., t].scatter_add_(0, trusted, -harm[None])
    return values


def sequences(rule: Bayes | FixedShare, n_teachers: int, n_positions: int) -> torch.Tensor:
    """10,000 sequences: random, of changing domains, with zeros, with padding, and against the rule."""
    mild = random_logprobs(n_teachers, N, n_positions, seed=1)
    steep = random_logprobs(n_teachers, N, n_positions, seed=2, spread=60.0)
    zeros = torch.where(random_logprobs(n_teachers, N, n_positions, seed=3) < -1.5, LOG_ZERO, 0.0).to(DOUBLE)
    n_each = max(1, n_positions // 4)
    domain = random_logprobs(n_teachers, N, n_positions // n_each + 1, seed=4, spread=9.0)
    domains = domain.repeat_interleave(n_each, dim=-1)[..., :n_positions] + 0.1 * mild
    domains[:, random_logprobs(N, n_positions, seed=5) < -2.4] = torch.nan
    return torch.cat([mild, steep, zeros, domains, contrary(rule, n_teachers, n_positions)], dim=1)


@pytest.mark.parametrize(
    ("rule", "n_teachers"),
    [
        (Bayes(), 3),
        (Bayes(temperature=2.5), 4),
        (Bayes(prior={"t0": 0.01, "t1": 0.19, "t2": 0.8}), 3),
        (Bayes(temperature=1.5, prior={"t0": 0.01, "t1": 0.99}), 2),
    ],
)
def test_bayes_loses_no_more_than_its_bound_to_any_teacher(rule, n_teachers) -> None:
    values = sequences(rule, n_teachers, 16)
    assert values.shape[1] == 10_000
    loss, losses = mixture_loss(values, rule(evidence_of(values))), teacher_losses(values)
    for k in range(n_teachers):
        prior = None if rule.prior is None else rule.prior[f"t{k}"]
        bound = regret_bound(n_teachers, prior=prior, temperature=rule.temperature)
        slack = losses[k] + bound - loss
        assert bool((slack >= -1e-9 * (1 + loss)).all())


def test_a_temperature_below_one_breaks_the_bound() -> None:
    rule = Bayes(temperature=0.1)
    values = sequences(rule, 2, 16)
    regret = mixture_loss(values, rule(evidence_of(values))) - teacher_losses(values).amin(dim=0)
    assert float(regret.max()) > math.log(2) + 1


@pytest.mark.parametrize("prior", [None, {"t0": 0.05, "t1": 0.9, "t2": 0.05}])
def test_the_bound_of_bayes_is_attained_where_the_others_give_nothing(prior) -> None:
    values = torch.full((3, 1, 9), LOG_ZERO, dtype=DOUBLE)
    values[0] = random_logprobs(1, 9)
    regret = mixture_loss(values, Bayes(prior=prior)(evidence_of(values))) - teacher_losses(values)[0]
    assert float(regret) == pytest.approx(regret_bound(3, prior=0.05 if prior else None), abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "n_teachers"),
    [
        (FixedShare(rate=0.05), 3),
        (FixedShare(rate=0.6), 4),
        (FixedShare(rate=0.002), 2),
        (FixedShare(rate=1.0), 2),
    ],
)
def test_fixed_share_loses_no_more_than_its_bound_to_any_sequence_of_teachers(rule, n_teachers) -> None:
    values = sequences(rule, n_teachers, 16)
    n_positions = (~values[0].isnan()).sum(dim=-1)
    loss = mixture_loss(values, rule(evidence_of(values)))
    for n_switches in (0, 1, 2, 3, 7):
        best = best_path_loss(values, n_switches)
        bounds = [tracking_bound(n, min(n_switches, n - 1), n_teachers, rule.rate) for n in n_positions.tolist()]
        assert bool((loss <= best + torch.tensor(bounds, dtype=DOUBLE) + 1e-9 * (1 + loss)).all())


def test_the_tracking_bound_is_attained_by_every_path_that_alone_is_possible() -> None:
    rule = FixedShare(rate=0.13, prior={"t0": 0.5, "t1": 0.3, "t2": 0.2})
    paths = list(itertools.product(range(3), repeat=6))
    values = torch.full((3, len(paths), 6), LOG_ZERO, dtype=DOUBLE)
    values.scatter_(0, torch.tensor(paths)[None], random_logprobs(1, len(paths), 6))
    loss = mixture_loss(values, rule(evidence_of(values)))
    for b, path in enumerate(paths):
        n_switches = sum(i != j for i, j in itertools.pairwise(path))
        bound = tracking_bound(6, n_switches, 3, 0.13, prior=rule.prior[f"t{path[0]}"])
        own = -values[list(path), b, range(6)].sum()
        assert float(loss[b] - own) == pytest.approx(bound, abs=1e-10)
        assert float(best_path_loss(values[:, b], n_switches)) == pytest.approx(float(own), abs=1e-10)


def test_fixed_share_is_the_bayesian_mixture_over_all_paths() -> None:
    rate, values = 0.3, random_logprobs(3, 1, 5)
    total = -math.inf
    for path in itertools.product(range(3), repeat=5):
        log_prior = -math.log(3) + sum(math.log((1 - rate) * (i == j) + rate / 3) for i, j in itertools.pairwise(path))
        log_path = log_prior + float(values[list(path), 0, range(5)].sum())
        total = max(total, log_path) + math.log1p(math.exp(-abs(total - log_path)))
    loss = mixture_loss(values, FixedShare(rate=rate)(evidence_of(values)))
    assert float(loss) == pytest.approx(-total, abs=1e-12)


@pytest.mark.parametrize("n_switches", range(6))
def test_the_best_path_is_that_of_an_exhaustive_search(n_switches) -> None:
    values = random_logprobs(3, 2, 6, seed=n_switches)
    values[:, 1, 2] = torch.nan
    known = torch.nan_to_num(values)
    paths = [
        p for p in itertools.product(range(3), repeat=6) if sum(i != j for i, j in itertools.pairwise(p)) <= n_switches
    ]
    expected = [min(-float(known[list(p), b, range(6)].sum()) for p in paths) for b in range(2)]
    assert best_path_loss(values, n_switches).tolist() == pytest.approx(expected, abs=1e-12)
    # One sequence of axes [K T] is a batch of none.
    assert float(best_path_loss(values[:, 0], n_switches)) == pytest.approx(expected[0], abs=1e-12)


def test_no_switch_is_the_best_teacher() -> None:
    values = random_logprobs(4, 7, 20)
    torch.testing.assert_close(best_path_loss(values, 0), teacher_losses(values).amin(dim=0))
    torch.testing.assert_close(best_path_loss(values, 19), -values.amax(dim=0).sum(dim=-1))


@pytest.mark.parametrize(("n_positions", "n_switches", "n_teachers"), [(100, 3, 4), (50, 1, 2), (7, 5, 3), (6, 5, 2)])
def test_the_best_rate_minimises_the_bound(n_positions, n_switches, n_teachers) -> None:
    rate = best_rate(n_positions, n_switches, n_teachers)
    best = tracking_bound(n_positions, n_switches, n_teachers, rate)
    for other in torch.linspace(1e-3, 1, 400).tolist():
        assert best <= tracking_bound(n_positions, n_switches, n_teachers, other) + 1e-12
    bounds = [tracking_bound(n_positions, s, n_teachers, rate) for s in range(n_positions)]
    assert all(fewer <= more + 1e-12 for fewer, more in itertools.pairwise(bounds))


def test_without_a_switch_the_best_rate_is_none() -> None:
    assert best_rate(10, 0, 3) == 0.0
    assert tracking_bound(10, 0, 3, 1e-30) == pytest.approx(regret_bound(3))


def test_losses_leave_out_positions_without_label() -> None:
    values = random_logprobs(2, 3, 5)
    short = values[..., [0, 1, 3, 4]]
    values[1, :, 2] = torch.nan
    torch.testing.assert_close(teacher_losses(values), teacher_losses(short))
    even = torch.full((2, 3, 1), -math.log(2), dtype=DOUBLE)
    torch.testing.assert_close(mixture_loss(values, even), mixture_loss(short, even))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regret_bound(3, temperature=0.5), "temperature=0.5 gives no guarantee"),
        (lambda: regret_bound(3, prior=0.0), "prior=0.0 must be a probability above 0"),
        (lambda: regret_bound(0), "n_teachers=0 must be at least 1"),
        (lambda: tracking_bound(10, 10, 3, 0.1), "n_switches=10 must be from 0 to n_positions - 1 = 9"),
        (lambda: tracking_bound(10, 1, 3, 0.0), "rate=0.0 must be above 0"),
        (lambda: best_rate(10, 1, 1), "n_teachers=1 must be at least 2"),
        (lambda: best_path_loss(torch.zeros(2, 3), -1), "n_switches=-1 must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
