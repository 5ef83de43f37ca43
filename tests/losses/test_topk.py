"""The loss over lists against the plain loss over all of V, and what it allocates."""

import math
from dataclasses import replace

import pytest
import torch
from losses.captured import COVERED, agree, build
from torch.utils._python_dispatch import TorchDispatchMode

from mashbill.distributions import Dense, TopK
from mashbill.losses import chunked, distillation_loss, topk
from mashbill.losses.objective import Objective


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_equals_the_reference(divergence, tail, temperature):
    for seed, cross_entropy in ((0, 0.0), (1, 0.3)):
        case = build(seed=seed)
        options = {
            "divergence": divergence,
            "tail": tail,
            "temperature": temperature,
            "cross_entropy": cross_entropy,
            "scale": 0.5,
        }
        agree(case.lists(**options), case.loss("reference", **options))


@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_without_labels(divergence, tail):
    case = replace(build(), labels=None)
    for temperature in (1.0, 2.0):
        options = {"divergence": divergence, "tail": tail, "temperature": temperature}
        agree(case.lists(**options), case.loss("reference", **options))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_float32_is_as_good_as_float64_up_to_rounding(divergence, tail, temperature):
    # Lists in float32 are the truth here; their own rounding is not at issue.
    case = build(n_rows=8, n_entries=5003, sizes=(16, 16, 8)).to(torch.float32)
    options = {"divergence": divergence, "tail": tail, "temperature": temperature, "cross_entropy": 0.1}
    value, _, gradient = case.lists(**options)
    truth, _, exact = case.to(torch.float64).loss("reference", **options)
    assert (gradient - exact).norm() <= 2e-6 * exact.norm()
    torch.testing.assert_close(value.double(), truth, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("tail", ["student", "even"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_read_as_they_are(dtype, tail):
    case = build(n_entries=400).to(torch.float32)
    narrow = replace(case, logits=case.logits.to(dtype))
    wide = replace(case, logits=narrow.logits.float())
    for one, other in zip(narrow.lists(tail=tail), wide.lists(tail=tail), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tail", ["student", "even"])
def test_in_place_gives_the_same_bits(tail, temperature):
    case = build()
    options = {"tail": tail, "temperature": temperature, "cross_entropy": 0.3}
    expected = case.lists(**options)
    logits = case.logits.clone()
    done = topk.chunk(
        logits,
        case.teachers,
        case.log_weights,
        case.labels,
        objective=Objective(**options),
        out=logits,
        spare=torch.empty_like(logits),
    )
    assert torch.equal(done.divergence, expected[0])
    assert torch.equal(logits, expected[2])


def test_order_and_repetition_of_teachers_do_not_matter():
    case = build(drop=0)
    expected = case.lists()
    turned = tuple(TopK(t.ids.flip(-1), t.logprobs.flip(-1), t.log_tail, t.n_entries) for t in case.teachers[::-1])
    agree(replace(case, teachers=turned, log_weights=case.log_weights.flip(0)).lists(), expected, tolerance=1e-14)
    twice = replace(
        case, teachers=case.teachers * 2, log_weights=torch.cat([case.log_weights, case.log_weights]) - math.log(2)
    )
    agree(twice.lists(), expected, tolerance=1e-14)


def test_many_teachers():
    case = build(sizes=(2, 3) * 20)
    agree(case.lists(), case.loss("reference"))


def test_ids_of_any_integer_type():
    case = build()
    narrow = tuple(replace(one, ids=one.ids.int()) for one in case.teachers)
    agree(replace(case, teachers=narrow).lists(), case.lists(), tolerance=0.0)


def test_masked_positions_are_never_read():
    case = build()
    mask = torch.arange(7) % 3 != 1
    logits = case.logits.clone()
    logits[~mask] = torch.nan
    teachers = [TopK(t.ids[None], t.logprobs[None], t.log_tail[None], 29) for t in case.teachers]
    leaf = logits[None].requires_grad_()
    loss = distillation_loss(leaf, teachers, case.log_weights[:, None], mask=mask[None], labels=case.labels[None])
    (gradient,) = torch.autograd.grad(loss.total, leaf)
    expected = case.loss("reference")
    torch.testing.assert_close(loss.divergence[0], expected[0].where(mask, 0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient[0], expected[2].where(mask[:, None], 0), rtol=1e-11, atol=1e-13)


def test_chunks_do_not_change_a_bit(monkeypatch):
    case = build().to(torch.float32)
    runs = []
    for n_each in (1, 3, 100):
        monkeypatch.setattr(chunked, "rows_at_once", lambda *_, n=n_each: n)
        runs.append(case.loss("chunked", temperature=2.0, cross_entropy=0.3))
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


class Allocations(TorchDispatchMode):
    """Counts the elements of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)]
        known = {x.untyped_storage().data_ptr() for x in given}
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else [made]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, x.numel())
        return made


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_nothing_of_the_vocabularys_size_is_made(divergence, tail, temperature):
    case = build(n_rows=4, n_entries=20_000, sizes=(6, 6, 6)).to(torch.float32)
    objective = Objective(divergence=divergence, tail=tail, temperature=temperature, cross_entropy=0.1)
    spare = torch.empty_like(case.logits)
    with Allocations() as made:
        topk.chunk(
            case.logits,
            case.teachers,
            case.log_weights,
            case.labels,
            objective=objective,
            out=case.logits,
            spare=spare,
        )
    n_slots = 3 * 6
    assert 0 < made.largest <= 4 * 3 * (n_slots + 1)


def test_what_it_covers():
    lists, dense = build().teachers, Dense.from_logits(torch.zeros(7, 29))
    cpu = torch.device("cpu")
    assert topk.fits(lists, Objective(), cpu)
    assert topk.fits(lists, Objective("js"), cpu)
    assert topk.fits(lists, Objective(tail="even"), cpu)
    assert not topk.fits(lists, Objective("js", tail="even"), cpu)
    assert not topk.fits(lists, Objective(pool="log_linear"), cpu)
    assert not topk.fits(lists, Objective(cross_entropy=1.0), cpu)
    assert not topk.fits([*lists, dense], Objective(), cpu)
    assert not topk.fits(lists, Objective(), torch.device("mps"))


def test_a_missing_buffer_is_named():
    case = build()
    with pytest.raises(ValueError, match=r"temperature=2\.0 needs a second buffer"):
        topk.chunk(
            case.logits,
            case.teachers,
            case.log_weights,
            None,
            objective=Objective(temperature=2.0),
            out=torch.empty_like(case.logits),
        )
