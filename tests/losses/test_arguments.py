"""Wrong arguments are named, and weights are those of a mixture: at every entry, and only where positions count."""

import math
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Logits, Projected, TopK
from mashbill.losses import arguments, diagnose, distillation_loss, sums

V, N = 50, 12
IMPLS = ["chunked", "reference", "auto"]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    student, *said = torch.randn(3, 1, N, V, generator=generator)
    weights = torch.randn(2, 1, N, generator=generator).log_softmax(0)
    return student, [Logits(one) for one in said], weights, torch.ones(1, N, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": torch.ones(1, N, dtype=torch.long)}, ValueError, r"pass mask.bool\(\)"),
        ({"student_logits": torch.zeros(N, V)}, ValueError, r"must be \[B T V\], or Projected"),
        ({"teachers": [torch.zeros(1, N, V)] * 2}, TypeError, r"teachers\[0\] is \[1 12 50\], but must be Logits"),
        (
            {"teachers": Logits(torch.zeros(1, N, V))},
            TypeError,
            r"teachers is a Logits, .* pass a single one as \[it\]",
        ),
        ({"teachers": torch.zeros(2, 1, N, V)}, TypeError, r"teachers is \[2 1 12 50\], but must be a list"),
        ({"teachers": (one for one in "ab")}, TypeError, "teachers is a generator, but must be a list"),
        ({"log_weights": None}, TypeError, "log_weights is a NoneType"),
    ],
)
def test_wrong_arguments_are_named(batch, change, error, message):
    given = dict(zip(("student_logits", "teachers", "log_weights", "mask"), batch, strict=True)) | change
    # The part that says so, because the checks that tests switch on would speak first.
    with pytest.raises(error, match=message):
        arguments._check_kinds(**given)


def test_nothing_to_tell_apart_is_refused(batch):
    _, _, weights, mask = batch
    none = torch.zeros(1, N, 0)
    with pytest.raises(ValueError, match=r"student_logits is \[1 12 V=0\], but there must be at least one entry"):
        distillation_loss(none, [Logits(none)] * 2, weights, mask=mask)


@pytest.mark.parametrize("name", ["student_logits", "teachers[1]", "log_weights", "mask", "labels", "classes"])
def test_what_holds_no_numbers_is_refused(batch, name):
    student, teachers, weights, mask = batch
    given = {"student_logits": student, "log_weights": weights, "mask": mask}
    given |= {"labels": torch.zeros(1, N, dtype=torch.long), "classes": torch.zeros(V, dtype=torch.long)}
    if name in given:
        given[name] = given[name].to("meta")
    else:
        head = Projected(torch.zeros(1, N, 3), torch.zeros(V, 3, device="meta"))
        lists = TopK.from_logprobs(teachers[1].values.log_softmax(-1), k=3)
        away = TopK(lists.ids, lists.logprobs, lists.log_tail.to("meta"), V)
        for one in (head, away, Logits(teachers[1].values.to("meta"))):
            with pytest.raises(ValueError, match=r"teachers\[1\] is on the meta device, which holds no numbers"):
                distillation_loss(teachers=[teachers[0], one], **given)
        return
    with pytest.raises(ValueError, match=f"{name} is on the meta device, which holds no numbers"):
        distillation_loss(teachers=teachers, **given)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (V, "labels has 50, but student_logits has the entries 0 to 49"),
        (-1, "labels has -1, which is no entry; pass -100 where there is no label"),
        (-101, "labels has -101, which is no entry"),
    ],
)
@pytest.mark.parametrize("impl", IMPLS)
def test_labels_that_do_not_exist_are_named_where_they_count(batch, impl, label, message):
    student, teachers, weights, mask = batch
    labels = torch.zeros(1, N, dtype=torch.long)
    labels[0, 1], labels[0, 3] = -100, label
    with pytest.raises(ValueError, match=message):
        distillation_loss(student, teachers, weights, mask=mask, labels=labels, impl=impl)
    mask[0, 3] = False
    distillation_loss(student, teachers, weights, mask=mask, labels=labels, impl=impl)


def forms(batch):
    """Return students and teachers in every form."""
    student, teachers, _, _ = batch
    head = Projected(torch.randn(1, N, 4), torch.randn(V, 4))
    lists = [TopK.from_logprobs(one.values.log_softmax(-1), k=4) for one in teachers]
    return [(student, teachers), (student, lists), (student, [lists[0], teachers[1]]), (head, [head, teachers[1]])]


def as_rule(weights):
    return lambda _, places: weights.expand(-1, 1, N).flatten(1)[:, places]


class Lasting:
    """A rule that says once for all whose memory it answers for."""

    def __init__(self, weights):
        self.answer = as_rule(weights)

    def __call__(self, statistics, places):
        return self.answer(statistics, places)

    def over(self, statistics):
        return lambda places: self.answer(statistics, places)


PROBABILITIES = torch.full((2, 1, 1), 0.5)
WRONG = [
    (PROBABILITIES, r"that sum to 3\.29744 over .* pass log_weights\.log\(\), for these are probabilities"),
    (PROBABILITIES.log() + 2e-3, r"that sum to 1\.002 .* pass log_weights\.log_softmax\(dim=0\)"),
    (PROBABILITIES.log() - 2e-3, r"that sum to 0\.998002"),
    (torch.full((2, 1, 1), -torch.inf), "that sum to 0 .* leave a position that nobody teaches out by mask="),
    (torch.full((2, 1, 1), torch.inf), "that sum to inf"),
]


@pytest.mark.parametrize(("weights", "message"), WRONG, ids=[message[:20] for _, message in WRONG])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_weights_that_do_not_sum_to_one_are_refused(batch, impl, pool, weights, message):
    mask = batch[3]
    for student, teachers in forms(batch):
        for given, where in (
            (weights, r"log_weights\[:, 0, 0\] are "),
            (weights.expand(2, 1, N), r"log_weights\[:, 0, 0\] are "),
            (as_rule(weights), "log_weights, asked at place 0, gave "),
            (Lasting(weights), "log_weights, asked at place 0, gave "),
            (Lasting(weights.double()), "log_weights, asked at place 0, gave "),
        ):
            with pytest.raises(ValueError, match=where + "logs of weights " + message):
                distillation_loss(student, teachers, given, mask=mask, impl=impl, pool=pool)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_weights_of_one_place_are_refused_before_its_neighbours_are_overwritten(divergence):
    teachers = [Logits(torch.randn(1, N, V)) for _ in range(2)]
    weights = torch.full((2, 1, N), 0.5).log()
    weights[:, 0, N - 1] += 1
    before = torch.randn(1, N, V)
    given = before.clone().requires_grad_() * 1
    options = {"mask": torch.ones(1, N, dtype=torch.bool), "divergence": divergence, "impl": "native", "in_place": True}
    with pytest.raises(ValueError, match=f"asked at place {N - 1}, gave"):
        distillation_loss(given, teachers, Lasting(weights), **options)
    assert torch.equal(given.detach(), before)


def test_weights_on_another_device_are_fetched_or_refused(batch):
    student, teachers, weights, mask = batch
    with pytest.raises(NotImplementedError, match="meta"):
        distillation_loss(student, teachers, Lasting(weights.to("meta")), mask=mask, impl="native")


def test_weights_by_class_are_looked_at_class_by_class(batch):
    student, teachers, weights, mask = batch
    by_class, classes = weights.repeat(3, 1, 1, 1), torch.arange(V) % 3
    by_class[1, :, 0, 7] = 0.5
    message = r"log_weights\[1, :, 0, 7\] are logs of weights that sum to 3\.29744.*log_weights\.log\(\)"
    with pytest.raises(ValueError, match=message):
        distillation_loss(student, teachers, by_class, mask=mask, classes=classes)
    by_class[1, :, 0, 7] = 1.0
    with pytest.raises(ValueError, match=r"pass log_weights\.log_softmax\(dim=1\)"):
        distillation_loss(student, teachers, by_class, mask=mask, classes=classes)


@pytest.mark.parametrize("impl", IMPLS)
def test_weights_are_looked_at_only_where_positions_count(batch, impl):
    student, teachers, weights, mask = batch
    expected = distillation_loss(student, teachers, weights, mask=mask.clone(), impl=impl).divergence
    weights[:, 0, 5] = 7
    with pytest.raises(ValueError, match=r"log_weights\[:, 0, 5\] are"):
        distillation_loss(student, teachers, weights, mask=mask, impl=impl)
    mask[0, 5] = False
    found = distillation_loss(student, teachers, weights, mask=mask, impl=impl).divergence
    assert torch.equal(found[mask], expected[mask])
    # One weight for all positions of a row counts where any of them does.
    of_rows = torch.tensor([[0.5, 3.0], [0.5, 3.0]]).log()[:, :, None]
    two = student.expand(2, -1, -1), [Logits(one.values.expand(2, -1, -1)) for one in teachers]
    counts = torch.tensor([[True], [False]]).expand(2, N)
    distillation_loss(*two, of_rows, mask=counts, impl=impl)
    with pytest.raises(ValueError, match=r"log_weights\[:, 1, 0\] are logs of weights that sum to 6"):
        distillation_loss(*two, of_rows, mask=~counts, impl=impl)


def test_a_weight_that_is_no_number_is_left_to_show(batch):
    student, teachers, weights, mask = batch
    weights[0, 0, 5] = torch.nan
    for impl in IMPLS:
        found = distillation_loss(student, teachers, weights, mask=mask, impl=impl).divergence[0].isnan()
        assert found.tolist() == [place == 5 for place in range(N)]


def test_diagnostics_ask_the_same_of_weights(batch):
    student, teachers, weights, mask = batch
    with pytest.raises(ValueError, match=r"log_weights\[:, 0, 0\] are logs of weights"):
        diagnose(student, teachers, weights.exp(), mask=mask)


ROUNDED = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("n_teachers", [1, 2, 4, 64])
@pytest.mark.parametrize("form", ["probabilities", "logs"])
def test_rounding_is_no_mistake(dtype, n_teachers, form):
    scores = 2 * torch.randn(n_teachers, 50, 40, generator=torch.Generator().manual_seed(0))
    weights = scores.softmax(0).to(dtype).log() if form == "probabilities" else scores.log_softmax(0).to(dtype)
    assert sums.off(weights, axis=0) is None
    assert sums.off(weights + 0.1, axis=0).any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("answers", [False, True])
def test_weights_in_16_bits_weigh_one_in_all(batch, impl, dtype, answers):
    student, _, _, mask = batch
    for share in (0.1, 0.3, 0.45):
        weights = torch.tensor([share, 1 - share]).log().to(dtype).view(2, 1, 1)
        given = as_rule(weights) if answers else weights
        teachers = [Logits(student.log_softmax(-1))] * 2
        loss = distillation_loss(student, teachers, given, mask=mask, look=True, impl=impl)
        assert loss.divergence.abs().max() < 2e-6
        assert (loss.seen.log_weights.double().exp().sum(0) - 1).abs().max() < 1e-6
        assert diagnose(student, teachers, weights, mask=mask).disagreement.min() > -2e-6


WAYS = [(impl, kind) for impl in ("chunked", "reference") for kind in ("dense", "logits", "topk", "mixed")]


@pytest.mark.parametrize(("impl", "kind"), [*WAYS, ("native", "dense"), ("native", "logits")])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_a_teacher_that_says_no_number_shows_even_without_weight(problem, request, impl, kind, divergence):
    if impl == "native":
        request.getfixturevalue("mixed")
    case = problem(kind=kind, dtype=torch.float32)
    case = replace(case, mask=torch.ones_like(case.mask))
    off = case.log_weights[1:].log_softmax(0)
    case = replace(case, log_weights=torch.cat([torch.full_like(off[:1], -torch.inf), off]))
    teacher = case.teachers[0]
    said = teacher.values if isinstance(teacher, Logits) else teacher.logprobs
    said[0, 3] = torch.nan
    loss, gradient = case.solve(impl=impl, divergence=divergence)
    expected = torch.zeros_like(case.mask)
    expected[0, 3] = True
    assert torch.equal(loss.divergence.isnan(), expected)
    assert torch.equal(gradient.isnan().any(-1), expected)


def test_equal_weights_in_16_bits_are_equal_weights(batch):
    student, teachers, _, mask = batch
    narrow = torch.full((2, 1, 1), -math.log(2), dtype=torch.bfloat16)
    one, two = (distillation_loss(student, teachers, w, mask=mask).total for w in (narrow, PROBABILITIES.log()))
    torch.testing.assert_close(one, two)
