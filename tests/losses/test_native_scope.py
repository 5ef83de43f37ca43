"""What the compiled loops are given and what they leave to PyTorch, with the same numbers either way."""

from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, Logits, Projected
from mashbill.losses import distillation_loss, native


def same(one, two):
    """Whether two pairs of loss and gradient are the same bit for bit; NaN is itself."""
    (loss, gradient), (other, expected) = one, two
    pairs = [(loss.total, other.total), (loss.divergence, other.divergence), (gradient, expected)]
    return all(torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)) for a, b in pairs)


COVERED = [
    {},
    {"divergence": "reverse_kl"},
    {"divergence": "js", "beta": 0.3},
    {"divergence": "skew_kl", "skew": 0.0},
    {"divergence": "alpha", "alpha": 0.0},
    {"temperature": 50.0},
    {"cross_entropy": 0.999},
    {"tail": "even"},
]


@pytest.mark.parametrize("options", COVERED, ids=str)
@pytest.mark.parametrize("kind", ["dense", "logits"])
@pytest.mark.parametrize("impl", ["auto", "native"])
def test_what_the_loops_cover_they_do(problem, mixed, kind, impl, options):
    case = problem(kind=kind, dtype=torch.float32)
    loss, gradient = case.solve(impl=impl, **options)
    assert mixed.n == case.mask.sum()
    twin, expected = case.solve(impl="chunked", **options)
    assert mixed.n == case.mask.sum()
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=3e-6, atol=2e-6)
    assert (gradient - expected).norm() <= 3e-6 * expected.norm() + 1e-6 * options.get("temperature", 1)


LEFT = [
    ("logits", {"pool": "log_linear"}, "pool='log_linear' is not compiled"),
    ("logits", {"divergence": "skew_kl"}, "divergence='skew_kl' is not compiled, only forward_kl, reverse_kl, js are"),
    ("logits", {"divergence": "total_variation"}, "divergence='total_variation' is not compiled"),
    ("logits", {"cross_entropy": 1.0}, r"cross_entropy=1\.0 reads no teacher"),
    ("dense", {"temperature": 51.0}, r"temperature=51\.0 is above 50, and teachers\[0\] is Dense"),
    ("mixed", {}, r"teachers\[1\] is TopK"),
    ("topk", {}, r"teachers\[0\] is TopK"),
]


def check_left(case, mixed, why, **options):
    """``auto`` leaves a case to PyTorch, and ``native`` insists and says what it cannot do."""
    assert same(case.solve(**options), case.solve(impl="chunked", **options))
    with pytest.raises(ValueError, match=f"impl='native' cannot do this: .*{why}.*; use impl='auto'"):
        case.solve(impl="native", **options)
    assert mixed.n == 0


@pytest.mark.parametrize(("kind", "options", "why"), LEFT, ids=str)
def test_what_they_do_not_cover_is_left_to_pytorch(problem, mixed, kind, options, why):
    check_left(problem(kind=kind, dtype=torch.float32), mixed, why, **options)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_double_precision_is_left_to_pytorch(problem, mixed, who):
    case = problem(kind="logits", dtype=torch.float64)
    if who == "teacher":
        single = case.to(torch.float32)
        case = replace(single, teachers=(*single.teachers[:2], case.teachers[2]))
    name = "student_logits" if who == "student" else r"teachers\[2\]"
    check_left(case, mixed, f"{name} is torch.float64")


def test_weights_by_class_are_left_to_pytorch(problem, mixed):
    case = problem(kind="logits", dtype=torch.float32)
    by_class = replace(case, log_weights=case.log_weights.expand(2, -1, -1, -1))
    check_left(by_class, mixed, "log_weights by class are not compiled", classes=torch.arange(23) % 2)


def test_more_teachers_than_there_is_room_for_are_left_to_pytorch(problem, mixed):
    case = problem(kind="logits", n_teachers=65, dtype=torch.float32)
    check_left(case, mixed, "teachers has 65, and there is room for 64")


def test_a_head_of_a_teacher_is_compiled_beside_a_head_of_the_student_alone(problem, mixed):
    case = problem(kind="logits", n_teachers=1, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(*sizes, generator=generator) for sizes in ((2, 5, 4), (23, 4)))
    said = replace(case, teachers=(Projected(hidden, head),))
    check_left(said, mixed, r"teachers\[0\] is Projected")
    arguments = {"mask": case.mask, "impl": "native", "divergence": "js"}
    distillation_loss(Projected(hidden, head), said.teachers, case.log_weights, **arguments)
    assert mixed.n == case.mask.sum()
    wide = Projected(hidden.double(), head)
    with pytest.raises(ValueError, match=r"student_logits is torch\.float64"):
        distillation_loss(wide, said.teachers, case.log_weights, **arguments)


def test_a_compiler_without_16_bit_floats_leaves_those_to_pytorch(problem, mixed, monkeypatch):
    monkeypatch.setattr(native, "has_float16", lambda: False)
    case = problem(kind="logits", dtype=torch.float32)
    for place in ("student", "teacher"):
        half = replace(case, logits=case.logits.half()) if place == "student" else case
        said = tuple(Logits(one.values.half()) for one in case.teachers) if place == "teacher" else case.teachers
        check_left(replace(half, teachers=said), mixed, r"is torch\.float16, which the C compiler does not know")
    case.solve(impl="native")
    assert mixed.n > 0


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_masked_positions_are_never_read(problem, mixed, spoilt):
    case = problem(kind="logits", dtype=torch.float32)
    out = ~case.mask.unsqueeze(-1)
    other = replace(
        case,
        logits=case.logits.masked_fill(out, spoilt),
        teachers=tuple(Logits(one.values.masked_fill(out, spoilt)) for one in case.teachers),
        log_weights=case.log_weights.masked_fill(~case.mask, spoilt),
        labels=case.labels.masked_fill(~case.mask, 10**6),
    )
    options = {"impl": "native", "divergence": "js", "cross_entropy": 0.5}
    (loss, gradient), (twin, expected) = other.solve(**options), case.solve(**options)
    assert same((loss, gradient), (twin, expected))
    assert (gradient[~case.mask] == 0).all()
    assert (loss.divergence[~case.mask] == 0).all()
    assert mixed.n == 2 * case.mask.sum()


@pytest.mark.parametrize("impl", ["auto", "native", "chunked", "reference"])
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 5)])
@pytest.mark.parametrize("asks", [False, True])
def test_no_position_at_all(problem, impl, shape, asks):
    if impl == "native" and native.why_not() is not None:
        pytest.skip(native.why_not())
    full = problem(kind="logits", shape=(2, 3, 5), dtype=torch.float32)
    n_rows, n_positions, _ = shape
    logits = full.logits[:n_rows, :n_positions].clone().requires_grad_()
    mask = torch.zeros(n_rows, n_positions, dtype=torch.bool)
    said = [Logits(one.values[:n_rows, :n_positions]) for one in full.teachers]
    options = {"mask": mask, "labels": full.labels[:n_rows, :n_positions], "cross_entropy": 0.5, "look": asks}
    weights = (lambda *_: pytest.fail("asked")) if asks else full.log_weights[:, :n_rows, :n_positions]
    loss = distillation_loss(logits, said, weights, impl=impl, **options)
    loss.total.backward()
    assert loss.total.item() == 0
    assert (logits.grad == 0).all()
    assert loss.divergence.shape == mask.shape
    assert not asks or loss.seen.log_weights.shape == (3, *mask.shape)


def test_labels_may_be_of_any_integer_type(problem, mixed):
    case = problem(kind="logits", dtype=torch.float32)
    expected = case.solve(impl="native", cross_entropy=0.3)
    for dtype in (torch.int8, torch.int32):
        assert same(case.solve(impl="native", cross_entropy=0.3, labels=case.labels.to(dtype)), expected)
    assert mixed.n > 0


@pytest.mark.parametrize("impl", ["native", "chunked"])
def test_a_label_that_does_not_exist_is_an_error_and_not_a_look_at_foreign_memory(problem, mixed, impl):
    case = problem(kind="logits", dtype=torch.float32)
    case.labels[0, 0] = 23
    with pytest.raises(ValueError, match="labels has 23, but student_logits has the entries 0 to 22"):
        case.solve(impl=impl, cross_entropy=0.3)
    assert mixed.n == 0


def test_who_insists_is_told_before_anything_is_overwritten(problem, mixed):
    case = problem(kind="topk", dtype=torch.float32)
    leaf = case.logits.clone().requires_grad_()
    logits = leaf * 1
    with pytest.raises(ValueError, match="impl='native' cannot do this"):
        distillation_loss(logits, case.teachers, case.log_weights, mask=case.mask, impl="native", in_place=True)
    assert torch.equal(logits.detach(), case.logits)
    assert mixed.n == 0


def test_pytorch_may_put_new_tensors_elsewhere(problem, mixed):
    case = problem(kind="logits", dtype=torch.float32)
    expected = case.solve(impl="native", look=True)
    with torch.device("meta"):
        found = case.solve(impl="native", look=True)
    assert same(found, expected)
    assert mixed.n == 2 * case.mask.sum()


CUTS = {
    "every other entry": lambda x: x[..., ::2],
    "columns cut off": lambda x: x[..., 1:-2],
    "positions cut off": lambda x: x[:, :4],
    "turned": lambda x: x[:, :2].transpose(0, 1),
    "one for all": lambda x: x[:1, :1].expand(2, 6, -1),
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize(("kind", "is_full"), [("dense", True), ("logits", True), ("logits", False)])
def test_numbers_that_do_not_lie_side_by_side(problem, mixed, name, kind, is_full):
    case, cut = problem(kind=kind, shape=(2, 6, 1402), dtype=torch.float32), CUTS[name]
    logits = cut(case.logits)
    assert not logits.is_contiguous()
    n_rows, n_positions, n_entries = logits.shape

    def cut_all(keep):
        return tuple(
            Dense(keep(cut(one.logprobs))) if kind == "dense" else Logits(keep(cut(one.values)))
            for one in case.teachers
        )

    loose = replace(
        case,
        logits=logits,
        teachers=cut_all(lambda one: one),
        log_weights=case.log_weights[:, :n_rows, :n_positions],
        # With holes the rows are copied in any case.
        mask=torch.ones(n_rows, n_positions, dtype=torch.bool) if is_full else case.mask[:n_rows, :n_positions],
        labels=case.labels[:n_rows, :n_positions] % n_entries,
    )
    tidy = replace(loose, logits=logits.contiguous(), teachers=cut_all(torch.Tensor.contiguous))
    assert same(loose.solve(impl="native", cross_entropy=0.3), tidy.solve(impl="native", cross_entropy=0.3))
    assert mixed.n == 2 * loose.mask.sum()
