from dataclasses import replace

import pytest
import torch
from torch import nn

from mashbill.weights.compose import conform, product
from mashbill.weights.evidence import Evidence, Learner, Observation
from mashbill.weights.order import SafetyOrder
from mashbill.weights.token import EntropySoftmax
from mashbill.weights.tracked import Tracked
from mashbill.weights.tracking import DriftError

DOUBLE = torch.float64
TASKS = {"tasks": ("ui", "docs", "naïve"), "task": torch.tensor([0, 1, 0, 1])}
RULE = EntropySoftmax(beta=3.0)


def seen(evidence: Evidence, *, step: int = 1) -> Observation:
    shape = evidence.statistics.entropy.shape
    return Observation(step, evidence, torch.zeros(shape, dtype=DOUBLE), torch.zeros(shape, dtype=DOUBLE))


def cell_mean(evidence: Evidence, task: int) -> torch.Tensor:
    here = evidence.mask & (evidence.task == task).unsqueeze(-1)
    return RULE(evidence).exp().movedim(0, -1)[here].mean(dim=0)


def steps(random_evidence, n: int, **changes) -> list[Evidence]:
    found = []
    for seed in range(n):
        mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed)) < 0.7
        found.append(random_evidence(3, 4, 5, seed=seed, mask=mask, **TASKS, **changes))
    return found


def test_weights_follow_the_mean_of_each_cell(random_evidence) -> None:
    tracked, expected = Tracked(RULE, gain=0.3), {}
    for evidence in steps(random_evidence, 6):
        tracked.observe(seen(evidence))
        for task in (0, 1):
            value = cell_mean(evidence, task)
            expected[task] = expected[task] + 0.3 * (value - expected[task]) if task in expected else value
    new = random_evidence(3, 4, 5, seed=99, **TASKS)
    weights = tracked(new).exp()
    assert weights.shape == (3, 4, 1)
    for row, task in enumerate((0, 1, 0, 1)):
        assert torch.allclose(weights[:, row, 0], expected[task], atol=1e-12)
    assert tracked.count.tolist() == [6, 6, 0]
    assert isinstance(tracked, Learner)


def test_a_call_changes_nothing_and_needs_no_gradient(random_evidence) -> None:
    tracked, evidence = Tracked(RULE, gain=0.3), steps(random_evidence, 1)[0]
    before = tracked(evidence)
    assert torch.equal(before, tracked(evidence))
    assert tracked.state_dict()["mean"].numel() == 0
    tracked.observe(seen(evidence))
    state = {name: tensor.clone() for name, tensor in tracked.state_dict().items()}
    after = tracked(evidence)
    assert torch.equal(after, tracked(evidence))
    assert all(torch.equal(tensor, state[name]) for name, tensor in tracked.state_dict().items())
    assert not torch.equal(after, before)


def test_a_cell_that_was_never_seen_has_the_rules_own_weights(random_evidence) -> None:
    tracked = Tracked(RULE, gain=0.3)
    tracked.observe(seen(steps(random_evidence, 1)[0]))
    evidence = random_evidence(3, 2, 5, tasks=("docs", "new"), task=torch.tensor([1, 0]))
    weights = tracked(evidence).exp()[..., 0]
    assert torch.allclose(weights[:, 0], RULE(evidence).exp()[:, 0].mean(-1))
    assert torch.allclose(weights[:, 1], tracked.mean[1])  # found by name, though another index


def test_masked_rows_poison_nothing(random_evidence) -> None:
    evidence = steps(random_evidence, 1)[0]
    mask = evidence.mask.clone()
    mask[1] = mask[3] = False  # all rows of "docs"

    class Holed:
        def __call__(self, evidence):
            return RULE(evidence).masked_fill(~mask, torch.nan)

    tracked = Tracked(Holed(), gain=0.5)
    tracked.observe(seen(replace(evidence, mask=mask)))
    assert bool(tracked.mean.isfinite().all())
    assert tracked.count.tolist() == [1, 0, 0]


def test_weights_stay_in_the_box_and_in_order(random_evidence) -> None:
    rule = conform(RULE, bounds=(0.1, 0.6), order=SafetyOrder(3, ((2, 0),)))
    tracked = Tracked(rule, gain=0.4)
    for evidence in steps(random_evidence, 8):
        tracked.observe(seen(evidence))
        weights = tracked(evidence).exp()
        assert bool((weights[2] >= weights[0] - 1e-15).all())
        assert 0.1 - 1e-12 <= float(weights.min()) <= float(weights.max()) <= 0.6 + 1e-12
    promise = tracked.declared(3)
    assert (promise.lowest, promise.highest) == (0.1, 0.6)
    assert promise.score_lipschitz is None


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("fixed", [False, True])
def test_state_is_restored_to_the_last_bit(fixed, dtype, random_evidence) -> None:
    def make() -> Tracked:
        return Tracked(RULE, gain=0.3, **({"names": TASKS["tasks"], "n_teachers": 3} if fixed else {}))

    evidences = steps(random_evidence, 6, dtype=dtype)
    whole, first, second = make(), make(), make()
    for evidence in evidences:
        whole.observe(seen(evidence))
    for evidence in evidences[:3]:
        first.observe(seen(evidence))
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for evidence in evidences[3:]:
        second.observe(seen(evidence))
    assert second.names == whole.names == ("ui", "docs", "naïve")
    assert torch.equal(second(evidences[0]), whole(evidences[0]))
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in whole.state_dict().items())
    if fixed:  # tensor by tensor, in place, as a checkpoint does it
        third = make()
        for name, tensor in third.state_dict().items():
            tensor.copy_(whole.state_dict()[name])
        assert torch.equal(third(evidences[0]), whole(evidences[0]))


def test_a_rule_that_learns_is_shown_each_step_once_and_saved_with_the_rest(random_evidence) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(()))

        def forward(self, evidence):
            return RULE(evidence)

        def observe(self, observation) -> None:
            self.n += 1

    tracked = Tracked(Counting(), gain=0.5)
    for evidence in steps(random_evidence, 3):
        tracked.observe(seen(evidence))
    assert tracked.state_dict()["op.n"] == 3


def test_the_certificate_bounds_how_far_the_weights_lag(random_evidence) -> None:
    class Drifting:
        """Log-odds that move so that the first weight falls by .01 a step."""

        step = 0

        def __call__(self, evidence):
            first = torch.tensor(0.9 - 0.01 * self.step, dtype=DOUBLE)
            return torch.stack([first, 1 - first]).log().reshape(2, 1, 1).expand(2, 4, 1)

    rule = Drifting()
    tracked = Tracked(rule, gain=0.2, by="all", drift=0.01, noise=0.1)
    assert tracked.certificate is not None
    for step in range(60):
        rule.step = step
        evidence = random_evidence(2, 4, 5)
        tracked.observe(seen(evidence))
        lag = float(tracked(evidence).exp()[0, 0, 0] - rule(evidence).exp()[0, 0, 0])
        assert lag <= tracked.certificate.lag + 1e-12
    assert lag == pytest.approx(0.04, abs=1e-6)
    assert tracked.certificate.variance == pytest.approx(0.01 / 9)
    assert Tracked(rule, gain=0.2).certificate is None
    with pytest.raises(DriftError, match="grows like"):
        Tracked(rule, gain=0.2, drift=0.01, decays=True)


def test_a_decaying_gain_gives_the_mean_of_all_steps(random_evidence) -> None:
    tracked, evidences = Tracked(RULE, gain=1, decays=True), steps(random_evidence, 5)
    for evidence in evidences:
        tracked.observe(seen(evidence))
    expected = torch.stack([cell_mean(each, 0) for each in evidences]).mean(0)
    assert torch.allclose(tracked.mean[0], expected, atol=1e-12)


def test_contexts_are_cells_too_and_products_take_it(random_evidence) -> None:
    tracked = Tracked(RULE, gain=0.5, by="context")
    names = {"contexts": ("a", "b"), "context": torch.tensor([0, 0, 1, 1])}
    evidence = random_evidence(3, **names)
    tracked.observe(seen(evidence))
    assert tracked.scale == "context"
    assert tracked.needs == {"entropy"}
    log_weights = product(context=tracked, bounds=(0.05, 0.9))(evidence)
    assert torch.equal(log_weights[:, 0], log_weights[:, 1])


def test_what_does_not_fit_is_refused(random_evidence) -> None:
    with pytest.raises(ValueError, match="give both or none"):
        Tracked(RULE, gain=0.5, names=("ui",))
    fixed = Tracked(RULE, gain=0.5, names=("ui",), n_teachers=3)
    with pytest.raises(ValueError, match="evidence names task 'docs'"):
        fixed.observe(seen(steps(random_evidence, 1)[0]))
    with pytest.raises(ValueError, match="n_teachers=3 were followed, but the evidence has 2"):
        fixed(random_evidence(2, tasks=("ui",)))
