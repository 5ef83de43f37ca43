import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from mashbill.weights.certification import (
    PairTest,
    _with_implied,
    certify_orders,
    orders_of,
    rows_to_certify,
    sign_p_value,
)


def compare(success, *, context=None, n_contexts: int = 1, confidence: float = 0.95, **options) -> tuple[PairTest, ...]:
    table = np.asarray(success, dtype=float)
    return certify_orders(
        table,
        teachers=[f"t{k}" for k in range(len(table))],
        context=np.zeros(table.shape[1], int) if context is None else context,
        contexts=[f"c{d}" for d in range(n_contexts)],
        confidence=confidence,
        **options,
    )


def pairs_of(tests, n_contexts: int = 1) -> dict:
    return orders_of(tests, contexts=[f"c{d}" for d in range(n_contexts)])


def test_rows_to_certify_agrees_with_the_golden_value(golden) -> None:
    assert rows_to_certify(0.05) == golden("F76")["expected"]
    assert rows_to_certify(0.05, n_teachers=3, n_contexts=4) > 2952
    with pytest.raises(ValueError, match="gap=0"):
        rows_to_certify(0.0)
    with pytest.raises(ValueError, match="n_teachers=1"):
        rows_to_certify(0.1, n_teachers=1)
    with pytest.raises(ValueError, match=r"discordant=0\.01 must lie in \[0\.1, 1\]"):
        rows_to_certify(0.1, discordant=0.01)


def test_p_values_are_exact() -> None:
    for wins, losses in [(0, 0), (0, 5), (5, 0), (3, 3), (12, 4), (300, 250), (1000, 1)]:
        m = wins + losses
        exact = Fraction(sum(math.comb(m, k) for k in range(wins, m + 1)), 2**m)
        assert sign_p_value(wins, losses) == pytest.approx(float(exact), rel=1e-12)
    assert sign_p_value(40, 20) == pytest.approx(stats.binomtest(40, 60, alternative="greater").pvalue, rel=1e-12)


def test_the_sign_test_rejects_a_truth_no_more_often_than_its_level() -> None:
    # Exactly, for each number of discordant rows: the chance under a fair coin of a p-value at most the level.
    for m in range(1, 80):
        p_values = np.array([sign_p_value(w, m - w) for w in range(m + 1)])
        for level in (0.2, 0.05, 0.025, 0.004):
            assert stats.binom.pmf(np.arange(m + 1), m, 0.5)[p_values <= level].sum() <= level * (1 + 1e-12)


def test_the_sign_test_is_never_weaker_than_hoeffding() -> None:
    for n in (5, 50, 400):
        for wins in range(n + 1):
            for losses in range(0, min(wins, n - wins) + 1, 3):
                assert sign_p_value(wins, losses) <= math.exp(-((wins - losses) ** 2) / (2 * n)) * (1 + 1e-12)


def test_one_pair_is_reported_in_full() -> None:
    first, second = np.ones(400), np.ones(400)
    first[:4], second[4:30] = 0, 0
    (found,) = compare([second, first])
    assert found == PairTest(
        "c0", "t1", "t0", "certified", "sign", 400, 26, 4, 22 / 400, sign_p_value(26, 4), (1 - 0.95) / 2
    )
    # The same rows under Hoeffding's bound certify nothing.
    (bound,) = compare([second, first], test="hoeffding")
    assert (bound.decision, bound.test) == ("undecided", "hoeffding")
    assert bound.p_value == pytest.approx(math.exp(-400 * (22 / 400) ** 2 / 2))
    assert bound.p_value > 0.5


def test_success_in_between_falls_back_to_hoeffding() -> None:
    def decision(n_rows: int) -> str:
        (found,) = compare([np.full(n_rows, 0.5), np.full(n_rows, 0.3)])
        assert found.test == "hoeffding"
        return found.decision

    enough = rows_to_certify(0.2)
    assert decision(enough) == "certified"
    assert decision(enough - 1) == "undecided"
    with pytest.raises(ValueError, match="test='sign' compares means only where success is 0 or 1"):
        compare([[0.5], [0.3]], test="sign")


@pytest.mark.parametrize(("gap", "discordant"), [(0.05, 0.05), (0.05, 0.1), (0.2, 0.5), (1.0, 1.0)])
def test_the_stated_number_of_rows_certifies(gap, discordant) -> None:
    def p_value(n: int) -> float:
        return sign_p_value(math.floor(n * (discordant + gap) / 2 + 1e-9), math.ceil(n * (discordant - gap) / 2 - 1e-9))

    n = rows_to_certify(gap, discordant=discordant)
    assert p_value(n) <= 0.025 * (1 + 1e-9)
    assert all(p_value(fewer) > 0.025 for fewer in range(1, n))
    assert n <= rows_to_certify(gap)


def test_orders_are_kept_for_each_context_and_may_differ() -> None:
    n = rows_to_certify(1.0, n_contexts=2, discordant=1.0)  # the third has no rows and costs nothing
    good, bad = np.ones(n), np.zeros(n)
    success = np.stack([np.concatenate([good, bad]), np.concatenate([bad, good])])
    found = compare(success, context=np.repeat([0, 2], n), n_contexts=3)
    assert pairs_of(found, 3) == {"c0": (("t0", "t1"),), "c1": (), "c2": (("t1", "t0"),)}
    assert {each.level for each in found} == {(1 - 0.95) / 4}
    fewer = compare(success[:, np.r_[1:n, n : 2 * n]], context=np.repeat([0, 2], [n - 1, n]), n_contexts=3)
    assert [each.decision for each in fewer] == ["undecided", "undecided", "certified"]
    empty = found[1]
    assert (empty.n, empty.p_value, empty.gap, empty.decision) == (0, 1.0, 0.0, "undecided")


@pytest.mark.parametrize("is_binary", [True, False])
def test_certified_pairs_have_larger_means_are_closed_and_have_no_cycle(is_binary) -> None:
    generator, n_certified = np.random.default_rng(0), 0
    for _ in range(150):
        success = generator.random((5, 300)) ** generator.uniform(0.3, 3, size=(5, 1))
        if is_binary:
            success = (success > 0.5).astype(float)
        tests = compare(success, confidence=0.5)
        held = {(int(k[1]), int(j[1])) for k, j in pairs_of(tests)["c0"]}
        mean = success.mean(axis=1)
        assert all(mean[k] > mean[j] for k, j in held)
        assert all((k, m) in held for k, j in held for i, m in held if i == j)
        assert len(tests) == 10
        for each in tests:
            assert each.decision != "certified" or (each.p_value <= each.level and each.gap > 0)
            if is_binary:
                assert each.wins - each.losses == round(each.gap * each.n)
        n_certified += sum(each.decision == "certified" for each in tests)
    assert n_certified > 100


def test_a_pair_that_follows_is_implied() -> None:
    # Whole samples hardly ever leave such a pair open, so the tests are written down.
    def one(safer: int, less_safe: int, decision: str) -> PairTest:
        return PairTest("c", f"t{safer}", f"t{less_safe}", decision, "sign", 9, 1, 0, 0.1, 0.5, 0.1)

    certain = {(0, 1), (1, 2), (2, 4)}
    pairs = [(k, j) for k in range(5) for j in range(k + 1, 5)]
    closed = _with_implied({(k, j): one(k, j, "certified" if (k, j) in certain else "undecided") for k, j in pairs})
    decisions = {(int(each.safer[1]), int(each.less_safe[1])): each.decision for each in closed}
    assert {pair for pair, decision in decisions.items() if decision == "certified"} == certain
    assert {pair for pair, decision in decisions.items() if decision == "implied"} == {(0, 2), (0, 4), (1, 4)}
    assert set(orders_of(closed, contexts=["c"])["c"]) == {("t0", "t1"), ("t0", "t2"), ("t0", "t4")} | {
        ("t1", "t2"),
        ("t1", "t4"),
        ("t2", "t4"),
    }


def test_ties_and_lone_teachers_certify_nothing() -> None:
    tie = compare([[1, 0] * 50, [0, 1] * 50], confidence=0.01)
    assert tie[0].decision == "undecided"
    assert tie[0].p_value > 0.5
    assert compare(np.ones((1, 5))) == ()
    assert compare(np.ones((3, 0)))[0].decision == "undecided"


@pytest.mark.parametrize("correlated", [False, True])
def test_a_false_order_is_certified_less_often_than_promised(correlated) -> None:
    generator, n_runs, delta = np.random.default_rng(1), 500, 0.2
    n_false = 0
    for _ in range(n_runs):
        noise = generator.random((4, 60))
        if correlated:  # rows that are hard for one are hard for all
            noise = np.where(generator.random(60) < 0.7, generator.random(60), noise)
        success = (noise < 0.8).astype(float)  # all alike: whatever is certified is false
        n_false += any(
            pairs_of(compare(success, context=np.arange(60) % 2, n_contexts=2, confidence=1 - delta), 2).values()
        )
    assert n_false <= delta * n_runs
    assert n_false > 0 or correlated  # the test can err, so the rate says something


def test_the_rate_comes_near_the_promise_where_the_test_is_not_conservative() -> None:
    # Two teachers, one context, all rows discordant: one level of .1 in each direction, up to the coin's steps.
    generator, n_runs = np.random.default_rng(2), 4000
    wins = generator.binomial(101, 0.5, n_runs).tolist()
    rate = np.mean([min(sign_p_value(w, 101 - w), sign_p_value(101 - w, w)) <= 0.1 for w in wins])
    attained = 2 * stats.binom.sf(stats.binom.isf(0.1, 101, 0.5), 101, 0.5)
    assert rate == pytest.approx(attained, abs=4 * math.sqrt(0.2 * 0.8 / n_runs))
    assert 0.12 < rate <= 0.2 + 4 * math.sqrt(0.2 * 0.8 / n_runs)


def test_power_on_400_rows_against_hoeffding() -> None:
    # Three teachers of .97, .92 and .85 in two contexts of 200 rows each: a scorecard of ordinary size.
    generator, certified = np.random.default_rng(3), {"auto": 0, "hoeffding": 0}
    for _ in range(200):
        success = (generator.random((3, 400)) < np.array([[0.97], [0.92], [0.85]])).astype(float)
        for test in certified:
            found = compare(success, context=np.arange(400) % 2, n_contexts=2, test=test)
            certified[test] += sum(each.decision != "undecided" for each in found)
    share = {test: count / (200 * 6) for test, count in certified.items()}
    assert share["hoeffding"] < 0.02
    assert share["auto"] > 0.35


def test_certifying_refuses_what_is_no_success() -> None:
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        compare([[0.0, 2.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        compare([[0.0, math.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"context of shape \(1,\)"):
        compare([[0.0, 1.0], [0.0, 1.0]], context=[0])
    with pytest.raises(ValueError, match="confidence=1"):
        compare([[0.0], [1.0]], confidence=1.0)
