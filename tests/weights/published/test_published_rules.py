"""What every published rule keeps, and the witnesses of what it does not."""

import math
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, Statistics, measure
from mashbill.weights import conform, published
from mashbill.weights.evidence import Evidence, WeightOperator
from mashbill.weights.order import SafetyOrder
from mashbill.weights.published import camkd, ebkd, kendall, mtkdrl, nemorl
from mashbill.weights.published.camkd import CAMKD
from mashbill.weights.published.rows import mean_of_entries, mean_over_positions

DOUBLE = torch.float64
NAMES = ("AEKD", "AMTMLKD", "CAMKD", "EBKD", "Kendall", "MMKD", "MTKDRL", "MarginWeighted", "NeMoRL")


def rules() -> dict[str, WeightOperator]:
    """Every rule for three teachers, six entries and three features, and their main options."""
    p = published
    return {
        "aekd": p.AEKD(temperature=1),
        "aekd normalised": p.AEKD(w_max=0.5, normalise=True),
        "amtml": p.AMTMLKD(3, 3),
        "amtml of the student": p.AMTMLKD(3, 6, reads="student"),
        "camkd": p.CAMKD(),
        "ebkd": p.EBKD(),
        "kendall": p.Kendall(3),
        "margin": p.MarginWeighted(beta=3),
        "mmkd": p.MMKD(3, 6),
        "mtkdrl": p.MTKDRL(3, 6, n_hidden=7),
        "mtkdrl dynamic": p.MTKDRL(3, 6, n_hidden=7, dynamic=True),
        "nemo ce": p.NeMoRL(alpha=2),
        "nemo entropy": p.NeMoRL(metric="entropy"),
        "nemo max": p.NeMoRL(metric="max_prob", vocabulary_sizes={"t0": 10, "t1": 30, "t2": 20}),
    }


def with_losses(*losses: float, dtype: torch.dtype = DOUBLE) -> Evidence:
    """One row whose label has those losses."""
    logprob = -torch.tensor(losses, dtype=dtype)
    teachers = torch.stack([logprob, torch.log(-torch.expm1(logprob)).clamp_min(-1e4)], dim=-1)[:, None, None]
    each = [measure(Dense(p), labels=torch.zeros(1, 1, dtype=torch.long)) for p in teachers]
    names = tuple(f"t{k}" for k in range(len(losses)))
    return Evidence.plain(names, Statistics.stack(each), n_entries=2)


def test_every_name_is_public() -> None:
    assert all(hasattr(published, name) for name in NAMES)


@pytest.mark.parametrize("name", rules())
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_weights_are_normalised_pure_and_in_the_declared_range(sequences, name: str, dtype: torch.dtype) -> None:
    rule, evidence = rules()[name], sequences(dtype=dtype)
    log_weights = rule(evidence).detach()
    assert log_weights.shape == (3, 4, 5 if rule.scale == "token" else 1)
    assert log_weights.dtype == dtype
    torch.testing.assert_close(log_weights.exp().sum(0), torch.ones_like(log_weights[0]))
    promise = rule.declared(3)
    assert promise.lowest - 1e-6 <= float(log_weights.exp().min())
    assert float(log_weights.exp().max()) <= promise.highest + 1e-6
    assert torch.equal(rule(evidence).detach(), log_weights)


@pytest.mark.parametrize("name", rules())
@pytest.mark.parametrize("poison", [math.nan, 1e30])
def test_positions_that_do_not_count_are_not_read(sequences, name: str, poison: float) -> None:
    rule, clean, spoiled = rules()[name], sequences(), sequences(poison=poison)
    expected, found = rule(clean), rule(spoiled)
    if rule.scale == "token":
        expected, found = expected[:, clean.mask], found[:, clean.mask]
    assert torch.equal(found, expected)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", ["camkd", "ebkd"])
def test_a_row_without_any_position_counts_all_alike(sequences, name: str) -> None:
    log_weights = rules()[name](sequences())
    torch.testing.assert_close(log_weights[:, 3, 0], torch.full((3,), -math.log(3), dtype=DOUBLE))
    if name == "camkd":  # nor has the third row a label
        torch.testing.assert_close(log_weights[:, 2, 0], torch.full((3,), -math.log(3), dtype=DOUBLE))


@pytest.mark.parametrize("name", rules())
def test_what_a_rule_says_of_other_rows_and_of_the_student_is_so(sequences, name: str) -> None:
    rule, evidence, other = rules()[name], sequences(seed=0), sequences(seed=1)
    promise, first = rule.declared(3), rule(evidence)[:, :1]

    def mixed(row: torch.Tensor, rest: torch.Tensor, *, dim: int) -> torch.Tensor:
        return torch.cat([row.narrow(dim, 0, 1), rest.narrow(dim, 1, 3)], dim=dim)

    others_changed = replace(
        evidence,
        statistics=Statistics(
            **{n: mixed(v, getattr(other.statistics, n), dim=1) for n, v in vars(evidence.statistics).items()}
        ),
        logprobs=mixed(evidence.given("logprobs"), other.given("logprobs"), dim=1),
        student_logprobs=mixed(evidence.given("student_logprobs"), other.given("student_logprobs"), dim=0),
        mask=torch.ones_like(evidence.mask).index_copy(0, torch.tensor([0]), evidence.mask[:1]),
    )
    is_moved = not torch.allclose(rule(others_changed)[:, :1], first, atol=1e-12)
    assert is_moved == promise.mixes_rows
    student_changed = replace(evidence, student_logprobs=other.given("student_logprobs"))
    assert (not torch.allclose(rule(student_changed)[:, :1], first, atol=1e-12)) == promise.reads_student


@pytest.mark.parametrize("name", rules())
def test_a_guard_repairs_the_bounds_and_keeps_what_else_is_declared(sequences, name: str) -> None:
    rule = rules()[name]
    guarded = conform(rule, bounds=(0.1, 0.6), order=SafetyOrder(3, ((0, 1),)))
    weights, promise = guarded(sequences()).detach().exp(), guarded.declared(3)
    assert 0.1 - 1e-12 <= float(weights.min()) <= float(weights.max()) <= 0.6 + 1e-12
    assert bool((weights[0] >= weights[1] - 1e-12).all())
    assert promise.lowest >= 0.1
    assert (promise.reads_student, promise.mixes_rows) == (rule.declared(3).reads_student, rule.declared(3).mixes_rows)


@pytest.mark.parametrize("name", ["camkd", "ebkd", "margin", "nemo ce"])
def test_one_teacher_has_all_the_weight(name: str) -> None:
    rule = rules()[name]
    assert rule(with_losses(0.7)).exp().flatten().tolist() == [1.0]
    assert (rule.declared(1).lowest, rule.declared(1).highest) == (1.0, 1.0)


def test_ca_mkd_golden(golden) -> None:
    losses = torch.tensor([0.5, 1.5, 5.0], dtype=DOUBLE)
    assert camkd.released_weights(losses).tolist() == pytest.approx(golden("F65")["expected"], abs=1e-12)
    found = CAMKD()(with_losses(0.5, 1.5, 5.0)).exp().flatten()
    assert found.tolist() == pytest.approx(golden("F65")["expected"], abs=golden("F65")["tol"])
    assert float(camkd.released_coefficients(losses).sum()) == pytest.approx(1 / 3)


def test_ca_mkd_releases_a_zero_where_the_weight_is_small() -> None:
    losses = torch.tensor([0.0, 50.0], dtype=DOUBLE)
    assert camkd.released_weights(losses).tolist() == [1.0, 0.0]
    log_weights = camkd.log_complement_softmax(losses)
    assert log_weights.tolist() == pytest.approx([0.0, -50.0], abs=1e-12)
    assert camkd.released_weights(torch.tensor([1.0])).isnan().all()


@pytest.mark.parametrize("n_teachers", [2, 3, 6])
def test_the_constants_of_ca_mkd_survive_an_attack(n_teachers: int) -> None:
    generator = torch.Generator().manual_seed(n_teachers)
    losses = 6 * torch.rand(n_teachers, 4000, generator=generator, dtype=DOUBLE)
    losses[:, ::2] *= 0.05  # near a tie weights move most
    signs = torch.randint(0, 2, losses.shape, generator=generator) * 2.0 - 1
    moved = losses + 1e-4 * signs
    first, second = camkd.log_complement_softmax(losses), camkd.log_complement_softmax(moved)
    promise = CAMKD().declared(n_teachers)
    assert promise.lipschitz is not None
    observed = float((first.exp() - second.exp()).abs().max() / 1e-4)
    assert 0.8 * promise.lipschitz < observed <= promise.lipschitz * (1 + 1e-6)
    change = first - second
    # Up to a number common to all teachers: half of the spread.
    assert float((change.amax(0) - change.amin(0)).max() / 2 / 1e-4) <= 1 + 1e-6


def test_ebkd_witnesses() -> None:
    entropy = torch.tensor([0.3, 1.2, 2.4], dtype=DOUBLE)
    assert float(ebkd.released_weights(entropy).sum()) == pytest.approx(2)
    assert float(ebkd.released_coefficients(entropy).sum()) == pytest.approx(2 / 3)
    expected = [(1 - h / 3.9) / 2 for h in (0.3, 1.2, 2.4)]
    assert weights_by_entropy(entropy) == pytest.approx(expected, abs=1e-12)
    assert weights_by_entropy(torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)) == [0.0, 0.5, 0.5]
    assert weights_by_entropy(torch.tensor([1e-200, 0.0, 0.0], dtype=DOUBLE)) == pytest.approx([0.0, 0.5, 0.5])
    assert weights_by_entropy(torch.zeros(3, dtype=DOUBLE)) == pytest.approx([1 / 3] * 3)
    assert ebkd.released_weights(torch.zeros(3)).isnan().all()


def weights_by_entropy(entropy: torch.Tensor) -> list[float]:
    plain = with_losses(*[0.5] * len(entropy))
    statistics = replace(plain.statistics, entropy=entropy[:, None, None])
    return published.EBKD()(replace(plain, statistics=statistics)).exp().flatten().tolist()


def test_kendall_golden(golden) -> None:
    losses = torch.tensor([0.2, 0.5, 1.0], dtype=DOUBLE)
    raw, normalised = golden("F64")["expected"]
    assert kendall.released_coefficients(losses.log()).tolist() == pytest.approx(raw, abs=golden("F64")["tol"])
    rule = published.Kendall(3).double()
    rule.log_variances.data = losses.log().unsqueeze(-1)
    found = rule(with_losses(1.0, 1.0, 1.0)).exp().flatten()
    assert found.tolist() == pytest.approx(normalised, abs=golden("F64")["tol"])


def test_kendall_coefficients_have_no_bound() -> None:
    raw = kendall.released_coefficients(torch.tensor([1.0, 1e-4], dtype=DOUBLE).log())
    assert raw.tolist() == pytest.approx([0.5, 5000.0])


def test_margin_weights(make_evidence) -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]], dtype=DOUBLE)
    weights = published.MarginWeighted(beta=4)(make_evidence(probabilities)).exp().flatten()
    first = 1 / (1 + math.exp(-4 * (0.5 - 0.05)))
    assert weights.tolist() == pytest.approx([first, 1 - first], abs=1e-12)


@pytest.mark.parametrize("n_entries", [2, 5])
def test_the_constant_of_margin_weights_survives_an_attack(make_evidence, n_entries: int) -> None:
    rule, generator = published.MarginWeighted(beta=3), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4000, 1, n_entries, generator=generator, dtype=DOUBLE) * 0.3
    logits[..., :2] += 1.5 * (n_entries > 2)  # two answers share nearly all
    up = torch.where(logits == logits.amax(-1, keepdim=True), 1.0, -1.0)
    other = logits + 1e-4 * torch.stack([up[0], -up[1]])
    first, second = (rule(make_evidence(x.softmax(-1))).exp() for x in (logits, other))
    observed = float((first - second).abs().max() / 1e-4)
    constant = rule.declared(2).lipschitz
    assert constant is not None
    assert 0.7 * constant < observed <= constant


def test_margins_do_not_move_more_than_probabilities() -> None:
    generator = torch.Generator().manual_seed(1)
    p, q = (torch.randn(5000, 4, generator=generator, dtype=DOUBLE).softmax(-1) for _ in range(2))

    def margin(x: torch.Tensor) -> torch.Tensor:
        top = x.topk(2, dim=-1).values
        return top[:, 0] - top[:, 1]

    assert bool(((margin(p) - margin(q)).abs() <= (p - q).abs().sum(-1)).all())


def test_ae_kd_is_neither_positive_nor_continuous_nor_kept_by_its_bound_when_normalised() -> None:
    def weights(*gradients: tuple[float, float], **options) -> list[float]:
        return published.aekd.released_weights(torch.tensor(gradients, dtype=DOUBLE).unsqueeze(1), **options).tolist()

    assert weights((1, 0), (2, 0), w_max=1) == pytest.approx([1.0, 0.0])
    assert weights((1, 0), (1 - 1e-6, 0), w_max=1) == pytest.approx([0.0, 1.0])
    assert weights((1, 0), (1 + 1e-6, 0), w_max=1) == pytest.approx([1.0, 0.0])
    assert max(weights((1, 0), (0, 1), (0.5, 0.6), w_max=0.4)) <= 0.4 + 1e-12
    assert max(weights((1, 0), (0, 1), (0.2, 0.2), w_max=0.4, normalise=True)) > 0.46
    assert weights((1, 0), (0, 0), w_max=1, normalise=True) == pytest.approx([0.0, 1.0])
    assert weights((0, 0), (0, 0), w_max=1) == pytest.approx([0.5, 0.5])


def test_ae_kd_cuts_its_bound_as_released() -> None:
    assert (published.AEKD(w_max=0.1).declared(4).lowest, published.AEKD(w_max=0.1).declared(4).highest) == (0.25, 0.25)
    assert published.AEKD(w_max=0.6).declared(2).lowest == pytest.approx(0.4)


def test_scores_of_mmkd_and_amtml_kd_have_no_bound() -> None:
    assert float(torch.tensor([100.0, 0.0]).softmax(0)[1]) == pytest.approx(3.8e-44, rel=0.01)
    theta, one = torch.tensor([[10.0], [-10.0]], dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    found = published.amtmlkd.released_weights(theta, 10 * one.unsqueeze(0), one)
    assert found.flatten().tolist() == pytest.approx([1.0, 1.4e-87], rel=0.02)


@pytest.mark.parametrize("n_teachers", [2, 3, 5])
def test_mtkd_rl_reaches_its_upper_bound_and_no_lower_one(n_teachers: int) -> None:
    # The first teacher has all of the agent's third, all of the distance's, and as much as any of the losses'.
    best = torch.zeros(n_teachers, dtype=DOUBLE)
    best[0] = 99.0
    worst_loss = torch.zeros(n_teachers, dtype=DOUBLE)
    worst_loss[-1] = 99.0
    highest = mtkdrl.released_weights(best, worst_loss, best)
    bound = published.MTKDRL(n_teachers, 4, n_hidden=2).declared(n_teachers).highest
    assert float(highest[0]) == pytest.approx(min(1.0, (2 + 1 / (n_teachers - 1)) / 3))
    assert float(highest[0]) == pytest.approx(bound)
    lowest = mtkdrl.released_weights(-best, best, -best)
    assert float(lowest[0]) < 1e-42
    if n_teachers == 3:
        assert float(lowest[0]) == pytest.approx(7e-44, rel=0.05)


def test_a_teacher_further_from_the_student_gets_more_in_mtkd_rl() -> None:
    even = torch.zeros(3, dtype=DOUBLE)
    weights = mtkdrl.released_weights(even, even, torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE))
    assert weights.tolist() == sorted(weights.tolist())
    assert float(weights[2]) > 0.4


def test_nemo_rl_weights_depend_on_the_batch_and_sum_to_more_than_one_by_vocabulary() -> None:
    sizes = torch.tensor([50257.0, 32000.0, 151936.0], dtype=DOUBLE)
    even = nemorl.released_coefficients(torch.zeros(3, dtype=DOUBLE), vocabulary_sizes=sizes)
    assert float(even.sum()) == pytest.approx(1.065, abs=5e-4)
    score = torch.full((3,), -1.0, dtype=DOUBLE)
    by_loss, by_certainty = (nemorl.released_weights(s, vocabulary_sizes=sizes) for s in (score, -score))
    assert int(by_loss.argmin()) == 2
    assert int(by_certainty.argmax()) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: published.AEKD(w_max=0), "w_max=0 must be a probability"),
        (lambda: published.AEKD(temperature=0), "temperature=0 must be finite and positive"),
        (lambda: published.MarginWeighted(beta=-1), "beta=-1 must be finite"),
        (lambda: published.NeMoRL(metric="loss"), "metric='loss' must be"),
        (lambda: published.AMTMLKD(2, 3, reads="text"), "reads='text' must be"),
        (lambda: published.MTKDRL(2, 3, learns="all"), "learns='all' must be"),
        (lambda: published.NeMoRL(alpha=math.nan), "alpha=nan must be"),
        (lambda: published.NeMoRL(vocabulary_sizes={"t0": 1}), r"vocabulary_sizes\['t0'\]=1 must be"),
        (lambda: published.Kendall(0), "n_teachers=0 must be at least 1"),
        (lambda: published.Kendall(2, learning_rate=0), "learning_rate=0 must be"),
        (lambda: published.MMKD(2, 1, factor=4), "factor=4 leaves no hidden unit"),
        (lambda: published.AMTMLKD(2, 3, momentum=1), "momentum=1 must be"),
        (lambda: published.AMTMLKD(2, 3, decay=-1), "decay=-1 must be"),
        (lambda: published.MTKDRL(2, 3, temperature=0), "temperature=0 must be"),
    ],
)
def test_bad_options_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "rule", [published.Kendall(2), published.MMKD(2, 6), published.AMTMLKD(2, 3), published.MTKDRL(2, 6)]
)
def test_a_rule_for_other_teachers_says_so(sequences, rule) -> None:
    with pytest.raises(ValueError, match="n_teachers=2 is what the rule was made for, but there are 3 teachers"):
        rule(sequences())


@pytest.mark.parametrize("rule", [published.MMKD(3, 5), published.MTKDRL(3, 5), published.AMTMLKD(3, 5)])
def test_a_rule_for_other_sizes_says_so(sequences, rule) -> None:
    with pytest.raises(ValueError, match=r"n_(entries|features)=5 is what the rule was made for"):
        rule(sequences())


def test_a_mean_reads_only_what_counts() -> None:
    values = torch.tensor([[[1.0, math.nan, 3.0, math.inf]]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    mean = mean_over_positions(values, mask)
    assert mean.tolist() == [[2.0]]
    mean.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[[0.5, 0.0, 0.5, 0.0]]]
    assert mean_over_positions(values, ~torch.ones_like(mask)).tolist() == [[0.0]]
    entries = torch.tensor([[[[1.0, 2.0], [math.nan, 4.0], [3.0, 6.0], [5.0, 5.0]]]])
    assert mean_of_entries(entries, mask).tolist() == [[[2.0, 4.0]]]
