import pytest
import torch

from mashbill import numerics
from mashbill.weights.task import DataVolume, InverseLoss, Performance

DOUBLE = torch.float64
TASKS = {"tasks": ("read", "write"), "task": torch.tensor([0, 1, 1, 0])}


def scored(random_evidence, measure, table):
    return random_evidence(2, 4, 3, **TASKS, scores={"task": {measure: torch.tensor(table)}})


def test_performance_is_a_softmax_of_the_tasks_scores(random_evidence) -> None:
    log_weights = Performance(temperature=0.2)(scored(random_evidence, "accuracy", [[0.9, 0.5], [0.7, 0.8]]))
    assert log_weights.shape == (2, 4, 1)
    read, write = torch.tensor([4.5, 3.5]).softmax(0), torch.tensor([2.5, 4.0]).softmax(0)
    expected = torch.stack([read, write, write, read], dim=1).to(DOUBLE)
    torch.testing.assert_close(log_weights[..., 0].exp(), expected, atol=1e-6, rtol=0)


def test_gibbs_golden(golden, random_evidence) -> None:
    # softmax(-d/tau): distances enter as scores 1 - d, which differ by a constant.
    table = 1 - torch.tensor([[0.1], [0.4], [1.2]], dtype=DOUBLE)
    evidence = random_evidence(3, scores={"task": {"accuracy": table}})
    weights = Performance(temperature=0.5)(evidence).exp()[:, 0, 0]
    assert weights.tolist() == pytest.approx(golden("F12")["expected"], abs=golden("F12")["tol"])


def test_performance_reads_the_measure_it_names(random_evidence) -> None:
    rule = Performance(measure="safety")
    assert rule.needs == {"score:task:safety"}
    weights = rule(scored(random_evidence, "safety", [[1.0, 0.0], [0.0, 1.0]])).exp()
    assert float(weights[0, 0, 0]) > 0.99
    with pytest.raises(ValueError, match="measure='safety' by task is not in the evidence"):
        rule(scored(random_evidence, "accuracy", [[1.0, 0.0], [0.0, 1.0]]))


def test_inverse_loss_is_inverse_to_the_loss(random_evidence) -> None:
    weights = InverseLoss(epsilon=0.1)(scored(random_evidence, "loss", [[0.1, 0.9], [0.3, 0.4]])).exp()
    assert weights[:, 0, 0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    assert weights[:, 1, 0].tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-6)


def test_a_score_that_was_not_measured_is_named(random_evidence) -> None:
    evidence = scored(random_evidence, "accuracy", [[0.9, 0.5], [0.7, float("nan")]])
    with pytest.raises(ValueError, match="measure='accuracy' of teacher 't1' on task 'write' was not measured"):
        Performance()(evidence)


@pytest.mark.parametrize(
    ("rule", "measure", "top"), [(Performance(temperature=0.3), "accuracy", 1.0), (InverseLoss(0.05), "loss", 4.0)]
)
def test_promises_survive_random_scores(rule, measure, top, random_evidence) -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(3000)
    scores = top * torch.rand(3, 3000, generator=generator, dtype=DOUBLE)
    scores[:, :1000] *= 1e-2
    scores[:, 1000:1100] = top * scores[:, 1000:1100].round()
    names = tuple(map(str, range(3000)))
    changes = {"tasks": names, "task": index}

    def weights(table):
        return rule(random_evidence(3, 3000, 1, **changes, scores={"task": {measure: table}})).exp()[..., 0]

    promise = rule.declared(3)
    found = weights(scores)
    assert promise.lowest - 1e-12 <= float(found.min()) <= float(found.max()) <= promise.highest + 1e-12
    step = 1e-4 * (torch.randint(0, 2, scores.shape, generator=generator) * 2 - 1)
    moved = torch.where((scores + step < 0) | (scores + step > top), scores - step, scores + step)
    ratio = ((weights(moved) - found).abs().amax(0) / 1e-4).max()
    assert 0.3 * promise.lipschitz < float(ratio) <= promise.lipschitz + 1e-9


def test_volume_counts_to_a_power(random_evidence) -> None:
    volumes = {"t1": 1_000_000, "t0": 9e6}
    for exponent, expected in [(1, [0.9, 0.1]), (0.5, [0.75, 0.25]), (0, [0.5, 0.5])]:
        found = DataVolume(volumes, exponent=exponent)(random_evidence(2, 4))
        assert found.shape == (2, 4, 1)
        assert found.exp()[:, 2, 0].tolist() == pytest.approx(expected, abs=1e-12)
    promise = DataVolume(volumes).declared(2)
    assert (promise.lowest, promise.highest, promise.lipschitz) == (pytest.approx(0.1), pytest.approx(0.9), 0.0)
    huge = DataVolume({"t0": 1e300, "t1": 1e299}, exponent=10)(random_evidence(2, 1))
    assert huge.exp()[:, 0, 0].tolist() == pytest.approx([1, 1e-10], rel=1e-6)


def test_volumes_by_task(random_evidence) -> None:
    rule = DataVolume({"read": {"t0": 1, "t1": 3}})
    found = rule(random_evidence(2, 4, 3, **TASKS)).exp()[..., 0]
    assert found.T.tolist() == [pytest.approx(w) for w in ([0.25, 0.75], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75])]
    with pytest.raises(ValueError, match="volumes names task 'speak', which does not exist"):
        DataVolume({"speak": {"t0": 1, "t1": 3}})(random_evidence(2, 4, 3, **TASKS))
    with pytest.raises(ValueError, match="volumes says nothing about teacher 't1'"):
        DataVolume({"t0": 1})(random_evidence(2, 4))


def test_a_teacher_that_has_seen_nothing_counts_nothing(random_evidence) -> None:
    found = DataVolume({"t0": 5, "t1": 0})(random_evidence(2, 1, dtype=torch.float32))
    assert found[:, 0, 0].tolist() == [0.0, numerics.LOG_ZERO]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Performance(temperature=0.0), r"temperature=0\.0 must be finite and positive"),
        (lambda: Performance(measure="loss"), r"measure='loss' must be one of accuracy, safety: .*InverseLoss"),
        (lambda: InverseLoss(epsilon=-1.0), r"epsilon=-1\.0 must be positive"),
        (lambda: DataVolume({"a": 1}, exponent=-1), r"exponent=-1 must be finite and not negative"),
        (lambda: DataVolume({}), r"volumes=\{\} must map"),
        (lambda: DataVolume({"a": -1}), r"volumes\['a'\]=-1 must be a number of examples"),
        (lambda: DataVolume({"x": {"a": True}}), r"volumes\['x'\]\['a'\]=True must be a number of examples"),
        (lambda: DataVolume({"x": {"a": 1}, "y": {}}), r"volumes\['y'\]=\{\} must map each teacher"),
        (lambda: DataVolume({"a": 0, "b": 0}), r"volumes=\{'a': 0, 'b': 0\} must hold a positive number"),
        (lambda: DataVolume({"a": 1}).declared(2), r"volumes are of 1 teachers, but n_teachers=2"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


@pytest.mark.parametrize("exponent", [1e-3, 0.5, 1.0])
def test_a_teacher_that_saw_nothing_counts_for_nothing_whatever_the_exponent(random_evidence, exponent) -> None:
    rule = DataVolume({"t0": 0, "t1": 10}, exponent=exponent)
    found = rule(random_evidence(2, 1)).flatten()
    assert found.exp().tolist() == [0.0, 1.0]
    assert float(found[0]) == numerics.LOG_ZERO
    assert (rule.declared(2).lowest, rule.declared(2).highest) == (0.0, 1.0)
