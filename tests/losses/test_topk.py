"""The loss over lists against the plain loss over all of V, at ordinary and extreme numbers, and what it allocates."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mashbill.distributions import Dense, TopK
from mashbill.losses import chunked, distillation_loss, topk
from mashbill.losses.objective import Objective
from mashbill.numerics import LOG_ZERO

ALL = ["forward_kl", "reverse_kl", "js", "skew_kl", "reverse_skew_kl", "alpha", "total_variation"]
COVERED = [*((name, "student") for name in ALL), ("forward_kl", "even")]


@dataclass(frozen=True)
class Case:
    logits: torch.Tensor
    teachers: tuple[TopK, ...]
    log_weights: torch.Tensor
    labels: torch.Tensor | None

    def to(self, dtype: torch.dtype) -> "Case":
        teachers = tuple(
            TopK(one.ids, one.logprobs.to(dtype), one.log_tail.to(dtype), one.n_entries) for one in self.teachers
        )
        return replace(self, logits=self.logits.to(dtype), teachers=teachers, log_weights=self.log_weights.to(dtype))

    def lists(self, *, expect_hard: bool = False, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return divergence, cross-entropy and gradient as the lists give them."""
        objective, out = Objective(**options), torch.empty_like(self.logits, dtype=self.teachers[0].logprobs.dtype)
        spare = torch.empty_like(out)
        done = topk.chunk(
            self.logits, self.teachers, self.log_weights, self.labels, objective=objective, out=out, spare=spare
        )
        assert (len(done.hard) > 0) == expect_hard
        return done.divergence, done.cross_entropy, out

    def loss(self, impl: str, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same by the whole call."""
        logits = self.logits.detach().unsqueeze(0).requires_grad_()
        teachers = [
            TopK(one.ids.unsqueeze(0), one.logprobs.unsqueeze(0), one.log_tail.unsqueeze(0), one.n_entries)
            for one in self.teachers
        ]
        labels = None if self.labels is None else self.labels.unsqueeze(0)
        mask = torch.ones(logits.shape[:-1], dtype=torch.bool)
        weights = self.log_weights.unsqueeze(1)
        loss = distillation_loss(logits, teachers, weights, mask=mask, labels=labels, impl=impl, **options)
        (gradient,) = torch.autograd.grad(loss.total, logits)
        return loss.divergence[0], loss.cross_entropy[0], gradient[0]


def noise(*shape, seed=0, scale=3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ragged(stored: TopK, *, drop: float, seed: int) -> TopK:
    """Leave slots unused at random; their mass joins the tail."""
    gone = torch.rand(stored.ids.shape, generator=torch.Generator().manual_seed(seed)) < drop
    moved = torch.where(gone, stored.logprobs, -torch.inf).logsumexp(-1)
    ids, logprobs = stored.ids.masked_fill(gone, -1), stored.logprobs.masked_fill(gone, LOG_ZERO)
    return TopK(ids, logprobs, torch.logaddexp(stored.log_tail, moved), stored.n_entries)


def build(*, n_rows=7, n_entries=29, sizes=(5, 3, 5), drop=0.2, seed=0, scale=3.0) -> Case:
    """Teachers who agree in part, so that their lists share entries, with gaps."""
    common = noise(n_rows, n_entries, seed=seed, scale=scale)
    teachers = []
    for k, size in enumerate(sizes):
        own = noise(n_rows, n_entries, seed=100 * seed + k + 1, scale=scale)
        stored = TopK.from_logprobs(torch.log_softmax((common + own) / 2**0.5, -1), k=size)
        teachers.append(ragged(stored, drop=drop, seed=seed + k))
    weights = torch.log_softmax(noise(len(sizes), n_rows, seed=seed + 50, scale=1.0), 0)
    labels = torch.randint(0, n_entries, (n_rows,), generator=torch.Generator().manual_seed(seed))
    labels[1::3] = -100
    return Case(noise(n_rows, n_entries, seed=seed + 70, scale=scale), tuple(teachers), weights, labels)


def agree(one, two, *, tolerance=1e-12):
    """Compare (divergence, cross-entropy, gradient): values by their size or 1 nat, the gradient by its norm."""
    for value, other in zip(one[:2], two[:2], strict=True):
        torch.testing.assert_close(value.double(), other.double(), rtol=tolerance, atol=tolerance)
    assert (one[2].double() - two[2].double()).norm() <= tolerance * two[2].double().norm() + tolerance / 10


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


def test_rows_of_a_hard_kind_come_back_whole():
    case = build(n_rows=4, drop=0)
    logits = case.logits.clone()
    # The student leaves nothing outside row 2's list, and row 3 has no list.
    logits[2, case.teachers[0].ids[2]] += 2000.0
    only = replace(case.teachers[0], ids=torch.stack([*case.teachers[0].ids[:3], torch.full((5,), -1)]))
    before = logits.clone()
    done = topk.chunk(logits, [only], torch.zeros(1, 4).double(), None, objective=Objective(), out=logits)
    assert done.hard.tolist() == [2, 3]
    assert torch.equal(done.logits, before[2:])


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


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_everything_stored(divergence, tail, temperature):
    case = build(n_entries=6, sizes=(6, 6), drop=0)
    options = {"divergence": divergence, "tail": tail, "temperature": temperature}
    agree(case.lists(**options), case.loss("reference", **options))
    dense = [Dense(one.densify().unsqueeze(0)) for one in case.teachers]
    loss = distillation_loss(
        case.logits.unsqueeze(0),
        dense,
        case.log_weights.unsqueeze(1),
        mask=torch.ones(1, 7, dtype=torch.bool),
        impl="reference",
        **options,
    )
    torch.testing.assert_close(case.lists(**options)[0], loss.divergence[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_a_teacher_that_stored_nothing(divergence, tail, temperature):
    case = build()
    empty = TopK(torch.full((7, 2), -1), torch.full((7, 2), LOG_ZERO).double(), torch.zeros(7).double(), 29)
    none = TopK(torch.zeros(7, 0).long(), torch.zeros(7, 0).double(), torch.zeros(7).double(), 29)
    options = {"divergence": divergence, "tail": tail, "temperature": temperature, "cross_entropy": 0.2}
    for silent in (empty, none):
        some = replace(case, teachers=(case.teachers[0], silent, case.teachers[2]))
        agree(some.lists(**options), some.loss("reference", **options))
        alone = replace(case, teachers=(silent,), log_weights=torch.zeros(1, 7).double())
        one, other = alone.loss("chunked", **options), alone.loss("reference", **options)
        if divergence == "total_variation":
            # The pool is the student itself, where this distance has a corner: any gradient will do.
            one = (*one[:2], other[2])
        agree(one, other)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("where", ["on the lists", "off the lists", "everywhere off the lists", "on all of one list"])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_masked_logits(divergence, tail, where, temperature):
    case = build()
    logits = case.logits.clone()
    stored = torch.zeros_like(logits, dtype=torch.bool)
    for one in case.teachers:
        stored |= torch.zeros_like(stored).scatter(-1, one.ids.clamp_min(0), one.ids >= 0)
    odd = torch.arange(29) % 2 == 1
    masked = {
        "on the lists": stored & odd,
        "off the lists": ~stored & odd,
        "everywhere off the lists": ~stored,
        "on all of one list": torch.zeros_like(stored).scatter(
            -1, case.teachers[0].ids.clamp_min(0), case.teachers[0].ids >= 0
        ),
    }[where]
    case = replace(case, logits=logits.masked_fill(masked, -torch.inf))
    options = {"divergence": divergence, "tail": tail, "temperature": temperature, "cross_entropy": 0.2}
    agree(case.loss("chunked", **options), case.loss("reference", **options))


@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_a_teacher_without_weight_has_no_say(divergence, tail):
    case = build()
    # What it stored has all the student's mass, so that its tail would have no shape.
    logits = case.logits.clone()
    logits.scatter_add_(-1, case.teachers[1].ids.clamp_min(0), torch.full((7, 3), 2000.0).double())
    weights = case.log_weights.clone()
    weights[1] = -torch.inf
    options = {"divergence": divergence, "tail": tail}
    off = replace(case, log_weights=weights)
    without = replace(case, teachers=case.teachers[::2], log_weights=weights[::2])
    agree(off.lists(**options), without.lists(**options), tolerance=1e-14)
    off, without = replace(off, logits=logits), replace(without, logits=logits)
    agree(off.loss("chunked", **options), without.loss("chunked", **options), tolerance=1e-13)


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


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_a_small_tail_keeps_its_digits(temperature):
    # The lists hold all but e^-60 of the student and of the teachers: 1 minus what is kept would be 0, or noise.
    case = build(n_rows=5, n_entries=40, sizes=(4, 4), drop=0)
    logits = case.logits.clone()
    for one in case.teachers:
        logits.scatter_(-1, one.ids, 62.0)
    teachers = tuple(replace(one, log_tail=one.log_tail - 60) for one in case.teachers)
    case = replace(case, logits=logits, teachers=teachers, labels=None).to(torch.float32)
    _, _, gradient = case.lists(temperature=temperature)
    _, _, exact = case.to(torch.float64).loss("reference", temperature=temperature)
    assert exact.abs().amin() < 1e-25 or temperature > 1
    torch.testing.assert_close(gradient.double(), exact, rtol=2e-5, atol=1e-37)


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
