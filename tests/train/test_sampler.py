"""Batches as a function of seed and step, and the shares of a declared mix."""

import pytest
import torch

from mashbill.errors import MashbillError
from mashbill.train.sampler import Sampler, derived_seed, mix_probabilities


def test_an_epoch_sees_every_row_once() -> None:
    sampler = Sampler(n_rows=23, batch_size=5, seed=1)
    assert sampler.steps_per_epoch == 5
    for epoch in range(3):
        rows = torch.cat([sampler.batch(epoch * 5 + step) for step in range(5)])
        assert rows.sort().values.tolist() == list(range(23))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    batches = [Sampler(100, 8, 3).batch(step) for step in range(30)]
    for step in (17, 2, 29, 0):
        assert torch.equal(Sampler(100, 8, 3).batch(step), batches[step])
    assert not torch.equal(Sampler(100, 8, 4).batch(0), batches[0])
    assert not torch.equal(batches[0], batches[13])


def test_the_global_random_state_does_not_matter() -> None:
    torch.manual_seed(1)
    before = Sampler(50, 4, 0).batch(3)
    torch.manual_seed(2)
    assert torch.equal(Sampler(50, 4, 0).batch(3), before)


def test_neighbouring_seeds_are_unrelated() -> None:
    seeds = {derived_seed(seed, "step", step) for seed in range(30) for step in range(30)}
    assert len(seeds) == 900
    assert derived_seed(1, 23) != derived_seed(12, 3)


def group(names: list[str], index: list[int], shares: dict[str, float]):
    return torch.tensor(index), names, shares


def totals(chance: torch.Tensor, index: list[int], n: int) -> list[float]:
    return torch.zeros(n, dtype=torch.float64).index_add(0, torch.tensor(index), chance).tolist()


def test_no_shares_mean_no_mix() -> None:
    assert mix_probabilities({"task": group(["a"], [0, 0], {})}) is None


def test_names_left_out_divide_the_rest_as_in_the_data() -> None:
    index = [0] * 2 + [1] * 3 + [2] * 5
    chance = mix_probabilities({"task": group(["a", "b", "c"], index, {"a": 0.6})})
    assert chance is not None
    assert totals(chance, index, 3) == pytest.approx([0.6, 0.4 * 3 / 8, 0.4 * 5 / 8], abs=1e-12)


def test_two_groupings_hold_at_once_and_match_the_closed_form() -> None:
    # On a full 2 x 2 table with equal counts the fit is the product of the margins.
    task, context = [0, 0, 1, 1], [0, 1, 0, 1]
    chance = mix_probabilities(
        {"task": group(["a", "b"], task, {"a": 0.7, "b": 0.3}), "context": group(["x", "y"], context, {"x": 0.1})}
    )
    assert chance is not None
    assert chance.tolist() == pytest.approx([0.07, 0.63, 0.03, 0.27], abs=1e-12)


@pytest.mark.parametrize("share", [0.501, 0.5])
def test_shares_that_almost_or_quite_exclude_a_kind_of_row_are_met(share: float) -> None:
    # Half of x comes from a alone, which leaves a row of a in y the chance `share` - 1/2.
    task, context = [0] * 6 + [1] * 5, [0] * 5 + [1] * 6
    chance = mix_probabilities(
        {"task": group(["a", "b"], task, {"a": share}), "context": group(["x", "y"], context, {"x": 0.5})}
    )
    assert chance is not None
    assert float(chance[5]) == pytest.approx(share - 0.5, abs=1e-4)
    assert chance[:5].tolist() == pytest.approx([0.1] * 5, abs=1e-4)
    assert chance[6:].tolist() == pytest.approx([(1 - share) / 5] * 5, abs=1e-4)


def test_impossible_shares_are_refused() -> None:
    # Task a occurs only in context x, so x cannot be rarer than a.
    with pytest.raises(MashbillError, match="cannot be met together"):
        mix_probabilities(
            {
                "task": group(["a", "b"], [0, 1, 1], {"a": 0.9}),
                "context": group(["x", "y"], [0, 0, 1], {"x": 0.1}),
            }
        )


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 0.7, "b": 0.7}, "add up to 1.4"),
        ({"a": 0.2, "b": 0.2}, "add up to 0.4"),
        ({"A": 0.2}, "no training row has task `A`"),
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(MashbillError, match=message):
        mix_probabilities({"task": group(["a", "b"], [0, 1], shares)})


def test_draws_follow_the_mix() -> None:
    index = [0] * 90 + [1] * 10
    chance = mix_probabilities({"task": group(["a", "b"], index, {"b": 0.5})})
    sampler = Sampler(100, 200, seed=0, probabilities=chance)
    rows = torch.cat([sampler.batch(step) for step in range(100)])
    n_b = int((rows >= 90).sum())
    # Binomial(20000, 1/2): five standard deviations are 354.
    assert abs(n_b - 10_000) < 354
    counts = torch.bincount(rows[rows >= 90] - 90).double()
    # Chi-squared with 9 degrees of freedom; 33.7 is its upper 1e-4 quantile.
    assert float(((counts - n_b / 10) ** 2 / (n_b / 10)).sum()) < 33.7


def test_a_share_of_zero_is_never_drawn() -> None:
    chance = mix_probabilities({"task": group(["a", "b"], [1, 0, 1, 0, 1], {"b": 0.0})})
    sampler = Sampler(5, 1000, seed=0, probabilities=chance)
    assert set(sampler.batch(0).tolist()) == {1, 3}


def test_nothing_to_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="n_rows=0"):
        Sampler(0, 4, 0)
