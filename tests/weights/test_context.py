import math

import pytest
import torch

from mashbill.weights.context import PartitionOfUnity, RankedSafety

DOUBLE = torch.float64
NAMES = {"contexts": ("home", "away"), "context": torch.tensor([1, 1, 0, 0])}


def test_ranks_from_scores_average_ties(random_evidence) -> None:
    rule = RankedSafety(spread=0.6, safety={"t0": 0.2, "t1": 0.9, "t2": 0.9, "t3": 0.5})
    weights = rule(random_evidence(4, **NAMES)).exp()
    # Ranks 0, 2.5, 2.5, 1 of 0..3.
    expected = [(1 + 0.6 * (2 * rank / 3 - 1)) / 4 for rank in (0, 2.5, 2.5, 1)]
    assert weights[:, 0, 0].tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(1)
    assert rule.needs == frozenset()


def test_ranks_from_certified_orders_context_by_context(random_evidence) -> None:
    rule = RankedSafety(spread=0.5)
    evidence = random_evidence(3, **NAMES, orders={"away": ((2, 0), (0, 1)), "elsewhere": ((0, 1),)})
    weights = rule(evidence).exp()[..., 0]
    assert weights[:, 0].tolist() == pytest.approx([1 / 3, 0.5 / 3, 1.5 / 3])  # 2 > 0 > 1, the closure included
    assert weights[:, 2].tolist() == pytest.approx([1 / 3] * 3)
    assert rule.needs == {"orders"}
    promise = rule.declared(3)
    assert (promise.lowest, promise.highest) == (pytest.approx(0.5 / 3), pytest.approx(0.5))


def test_ranked_weights_keep_every_certified_pair(random_evidence) -> None:
    pairs = ((0, 3), (1, 3), (1, 4))
    evidence = random_evidence(5, **NAMES, orders={"home": pairs, "away": pairs})
    weights = RankedSafety()(evidence).exp()[..., 0]
    for safer, less in pairs:
        assert bool((weights[safer] > weights[less]).all())


def test_ranked_safety_refuses_bad_options(random_evidence) -> None:
    with pytest.raises(ValueError, match=r"^spread=1\.0 must be at least 0 and below 1"):
        RankedSafety(spread=1.0)
    with pytest.raises(ValueError, match=r"^safety\['a'\]=nan must be a number"):
        RankedSafety(safety={"a": math.nan})
    with pytest.raises(ValueError, match="safety names teacher 'tX'"):
        RankedSafety(safety={"t0": 1.0, "tX": 0.0})(random_evidence(2))
    with pytest.raises(ValueError, match="cycle"):
        RankedSafety()(random_evidence(2, **NAMES, orders={"home": ((0, 1), (1, 0))}))


WRITTEN = {"home": {"t0": 0.8, "t1": 0.2}, "away": {"t0": 0.3, "t1": 0.7}}
ANCHORS = {"home": [0.0, 0.0], "away": [3.0, 4.0]}


def test_without_anchors_a_row_has_its_contexts_weights(random_evidence) -> None:
    weights = PartitionOfUnity(WRITTEN)(random_evidence(2, **NAMES)).exp()
    assert weights[0, :, 0].tolist() == pytest.approx([0.3, 0.3, 0.8, 0.8])
    partly = PartitionOfUnity({"home": WRITTEN["home"]})(random_evidence(2, **NAMES)).exp()
    assert partly[0, :, 0].tolist() == pytest.approx([0.5, 0.5, 0.8, 0.8])


def test_without_weights_a_context_has_a_softmax_of_its_scores(random_evidence) -> None:
    scores = {"context": {"accuracy": torch.tensor([[0.9, 0.5], [0.7, 0.8]])}}
    rule = PartitionOfUnity(temperature=0.2)
    weights = rule(random_evidence(2, **NAMES, scores=scores)).exp()
    assert weights[:, 0, 0].tolist() == pytest.approx(torch.tensor([2.5, 4.0]).softmax(0).tolist())
    assert rule.needs == {"score:context:accuracy"}
    assert PartitionOfUnity(WRITTEN, ANCHORS).needs == {"features"}


def features(*rows):
    return {**NAMES, "features": torch.tensor(rows, dtype=DOUBLE)}


def test_between_anchors_weights_blend(random_evidence) -> None:
    rule = PartitionOfUnity(WRITTEN, ANCHORS, radius=2.0)
    rows = features([0.0, 0.0], [1.5, 2.0], [3.0, 4.0], [300.0, 400.0])
    weights = rule(random_evidence(2, **rows)).exp()[0, :, 0]
    far = math.exp(-25 / 8) / (1 + math.exp(-25 / 8))
    assert weights.tolist() == pytest.approx([0.8 - 0.5 * far, 0.55, 0.3 + 0.5 * far, 0.3])


def test_anchors_select_scores_by_name(random_evidence) -> None:
    scores = {"context": {"accuracy": torch.tensor([[0.9, 0.5], [0.7, 0.8]], dtype=DOUBLE)}}
    rule = PartitionOfUnity(anchors={"away": [5.0], "home": [0.0]}, radius=0.5, temperature=0.2)
    rows = features([0.0], [5.0], [0.0], [5.0])
    weights = rule(random_evidence(2, **rows, scores=scores)).exp()[:, :, 0]
    assert weights[:, 1].tolist() == pytest.approx(torch.tensor([2.5, 4.0]).softmax(0).tolist())
    assert weights[:, 0].tolist() == pytest.approx(torch.tensor([4.5, 3.5]).softmax(0).tolist())


def test_range_and_lipschitz_constant_survive_an_attack(random_evidence) -> None:
    rule = PartitionOfUnity(WRITTEN, ANCHORS, radius=1.5)
    generator = torch.Generator().manual_seed(0)
    # Most of the change is across the middle, along the line between the anchors.
    rows = torch.tensor([1.5, 2.0], dtype=DOUBLE) + torch.randn(4000, 2, generator=generator, dtype=DOUBLE)
    step = 1e-3 * torch.randn(4000, 2, generator=generator, dtype=DOUBLE)

    def weights(c):
        at_home = torch.zeros(4000, dtype=torch.long)
        return rule(random_evidence(2, 4000, 1, contexts=NAMES["contexts"], context=at_home, features=c)).exp()[..., 0]

    promise, found = rule.declared(2), weights(rows)
    assert promise.lowest <= float(found.min()) <= float(found.max()) <= promise.highest
    assert promise.lipschitz is not None
    ratio = ((weights(rows + step) - found).abs().amax(0) / step.norm(dim=-1)).max()
    assert 0.9 * promise.lipschitz < float(ratio) <= promise.lipschitz * (1 + 1e-6)


@pytest.mark.parametrize("anchors", [None, ANCHORS])
def test_measured_scores_are_an_input_of_the_lipschitz_constant(anchors, random_evidence) -> None:
    rule = PartitionOfUnity(anchors=anchors, radius=5.0, temperature=0.2, measure="safety")
    rows = features([0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [3.0, 4.0])

    def weights(gap):
        scores = torch.tensor([[0.5 + gap, 0.5 + gap], [0.5 - gap, 0.5 - gap]], dtype=DOUBLE)
        return rule(random_evidence(2, **rows, scores={"context": {"safety": scores}})).exp()

    promise = rule.declared(2)
    assert "measured safety, sup" in promise.metric
    assert promise.lipschitz is not None
    ratio = float((weights(1e-4) - weights(0.0)).abs().max()) / 1e-4
    assert 2.49 < ratio <= promise.lipschitz
    if anchors is None:
        assert promise.lipschitz == 2.5
        assert promise.score_lipschitz == 5.0


def test_a_blend_keeps_an_order_that_all_contexts_keep(random_evidence) -> None:
    rule = PartitionOfUnity({"home": {"t0": 0.8, "t1": 0.2}, "away": {"t0": 0.5, "t1": 0.5}}, ANCHORS)
    rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    log_weights = rule(random_evidence(2, **NAMES, features=rows))
    assert bool((log_weights[0] >= log_weights[1] - 1e-12).all())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PartitionOfUnity(radius=0.0), r"radius=0\.0 must be finite and positive"),
        (lambda: PartitionOfUnity({"home": {"a": 0.5}}), r"weights\['home'\]=.* sum to 0\.5"),
        (lambda: PartitionOfUnity({}), r"weights=\{\} must map each context"),
        (lambda: PartitionOfUnity(anchors={"home": [0.0], "away": [0.0, 1.0]}), r"anchors=.* same number of features"),
        (lambda: PartitionOfUnity(anchors={"home": [math.inf]}), r"anchors\['home'\]=\[inf\] must be finite"),
        (lambda: PartitionOfUnity(WRITTEN, {"home": [0.0]}), r"weights names context with an anchor 'away'"),
        (lambda: PartitionOfUnity(temperature=-1.0), r"temperature=-1\.0 must be"),
        (lambda: PartitionOfUnity(measure="loss"), r"measure='loss' must be one of"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_what_the_rows_do_not_have_is_refused(random_evidence) -> None:
    with pytest.raises(ValueError, match="weights names context 'sea', which does not exist; there are home, away"):
        PartitionOfUnity({"sea": {"t0": 0.5, "t1": 0.5}})(random_evidence(2, **NAMES))
    with pytest.raises(ValueError, match="anchors have 2 features, but the rows have 0"):
        PartitionOfUnity(WRITTEN, ANCHORS)(random_evidence(2, **NAMES))
    scores = {"context": {"accuracy": torch.rand(2, 2)}}
    with pytest.raises(ValueError, match="anchors names context 'sea'"):
        PartitionOfUnity(anchors={"sea": [0.0]})(
            random_evidence(2, **features([0.0], [0.0], [0.0], [0.0]), scores=scores)
        )
