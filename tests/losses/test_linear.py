"""Hidden states and heads in, on both sides: the numbers of the logits that they would make."""

import pytest
import torch

from mashbill.distributions import Dense, Logits, Projected, TopK
from mashbill.losses import distillation_loss, linear, tiles


def noise(*sizes, seed=0, dtype=torch.float64):
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


SHAPE, WIDTH, V = (2, 7), 16, 211


def heads(*, dtype=torch.float64, n_teachers=3, bias=True, **options):
    """Return the student's parts and teachers by hidden states."""
    student = (noise(*SHAPE, WIDTH, dtype=dtype), noise(V, WIDTH, seed=1, dtype=dtype) / 4)
    student += (noise(V, seed=2, dtype=dtype) if bias else None,)
    teachers = [
        Projected(noise(*SHAPE, 8, seed=10 + k, dtype=dtype), noise(V, 8, seed=20 + k, dtype=dtype), **options)
        for k in range(n_teachers)
    ]
    weights = torch.log_softmax(noise(n_teachers, *SHAPE, seed=5), dim=0)
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(6)) < 0.7
    labels = torch.randint(0, V, SHAPE, generator=torch.Generator().manual_seed(7))
    return student, teachers, weights, mask, labels


def solve(parts, teachers, weights, mask, *, as_logits=False, scale=1.0, softcap=None, **options):
    leaves = [None if one is None else one.detach().clone().requires_grad_() for one in parts]
    student = Projected(*leaves, scale, softcap)
    loss = distillation_loss(student.logits() if as_logits else student, teachers, weights, mask=mask, **options)
    loss.total.backward()
    return loss, [None if one is None else one.grad for one in leaves]


@pytest.fixture(params=["one chunk", "many chunks"])
def memory(request, monkeypatch):
    if request.param == "many chunks":
        monkeypatch.setattr(linear, "MEMORY", 3 * 5 * V * 8)
        monkeypatch.setattr(tiles, "TILE", 64)
        monkeypatch.setattr(tiles, "COLUMNS", 5)
    return request.param


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js", "total_variation"])
@pytest.mark.parametrize(("scale", "softcap", "bias"), [(1.0, None, False), (0.5, None, True), (2.0, 3.0, True)])
def test_values_and_gradients_are_those_of_the_logits(divergence, scale, softcap, bias):
    student, teachers, weights, mask, labels = heads(bias=bias, softcap=softcap, scale=scale)
    own = {"scale": scale, "softcap": softcap}
    options = {"divergence": divergence, "temperature": 2.0, "labels": labels, "cross_entropy": 0.3} | own
    loss, grads = solve(student, teachers, weights, mask, **options)
    full = [Dense.from_logits(one.logits()) for one in teachers]
    twin, exact = solve(student, full, weights, mask, as_logits=True, impl="reference", **options)
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.cross_entropy, twin.cross_entropy, rtol=1e-10, atol=1e-12)
    for found, true in zip(grads, exact, strict=True):
        assert (found is None) == (true is None)
        if found is not None:
            torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("memory")
def test_teachers_of_every_kind_go_together():
    student, teachers, weights, mask, _ = heads(n_teachers=4)
    full = [one.logits() for one in teachers]
    said = [teachers[0], Logits(full[1]), Dense.from_logits(full[2]), TopK.from_logprobs(full[3].log_softmax(-1), k=9)]
    loss, grads = solve(student, said, weights, mask)
    twin, exact = solve(student, said, weights, mask, as_logits=True, impl="reference")
    torch.testing.assert_close(loss.total, twin.total)
    for found, true in zip(grads, exact, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-11)
    lists = [TopK.from_logprobs(one.log_softmax(-1), k=9) for one in full]
    alone, twin = (solve(student, lists, weights, mask, as_logits=it)[0] for it in (False, True))
    torch.testing.assert_close(alone.total, twin.total)


def test_logits_of_the_student_meet_hidden_states_of_teachers():
    student, teachers, weights, mask, _ = heads()
    loss, grads = solve(student, teachers, weights, mask, as_logits=True)
    twin, exact = solve(student, teachers, weights, mask, as_logits=True, impl="reference")
    torch.testing.assert_close(loss.total, twin.total)
    for found, true in zip(grads, exact, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("as_logits", [False, True])
def test_heads_of_teachers_are_constants_even_as_parameters(impl, as_logits):
    student, teachers, weights, mask, _ = heads()
    learning = [Projected(one.hidden, one.weight.clone().requires_grad_()) for one in teachers]
    loss, _ = solve(student, learning, weights, mask, impl=impl, as_logits=as_logits)
    torch.testing.assert_close(loss.total, solve(student, teachers, weights, mask)[0].total)
    assert not any(one.weight.grad is not None for one in learning)


def test_weights_may_want_a_gradient():
    student, teachers, weights, mask, _ = heads()
    weights.requires_grad_()
    solve(student, teachers, weights, mask)
    assert weights.grad.abs().max() > 0


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])  # the first adds teachers up as they come
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_narrow_heads_lose_no_more_than_the_plain_way(dtype, bias, divergence):
    student, teachers, weights, mask, _ = heads(dtype=dtype, bias=bias)
    _, grads = solve(student, teachers, weights, mask, divergence=divergence)
    wide = [Projected(one.hidden.double(), one.weight.double()) for one in teachers]
    parts = [None if one is None else one.double() for one in student]
    options = {"divergence": divergence, "impl": "reference"}
    _, exact = solve(parts, wide, weights, mask, as_logits=True, **options)
    leaves = [None if one is None else one.clone().requires_grad_() for one in student]
    logits = leaves[0] @ leaves[1].T + (0 if leaves[2] is None else leaves[2])
    full = [Logits(one.hidden @ one.weight.T) for one in teachers]
    distillation_loss(logits, full, weights, mask=mask, **options).total.backward()
    for found, leaf, true in zip(grads, leaves, exact, strict=True):
        if found is not None:
            assert found.dtype == dtype
            assert (found - true).norm() <= 1.2 * (leaf.grad - true).norm() + 1e-6 * true.norm()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("impl", ["auto", "chunked"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0, 100.0])
@pytest.mark.parametrize(
    "divergence", ["forward_kl", "reverse_kl", "js", "skew_kl", "reverse_skew_kl", "alpha", "total_variation"]
)
def test_float32_is_the_truth_up_to_rounding(divergence, temperature, impl):
    student, teachers, weights, mask, labels = heads(dtype=torch.float32)
    if divergence != "alpha":  # which is written for what sums to 1
        weights = weights - 9e-4  # taken as it is
    said = [*teachers[:2], Dense.from_logits(teachers[2].logits())]
    options = {"divergence": divergence, "temperature": temperature, "labels": labels, "cross_entropy": 0.2}
    loss, grads = solve(student, said, weights, mask, impl=impl, **options)
    wide = [Projected(one.hidden.double(), one.weight.double()) for one in teachers]
    parts = [one.double() for one in student]
    twin, exact = solve(parts, wide, weights, mask, as_logits=True, impl="reference", **options)
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=2e-5, atol=2e-6)
    for found, true in zip(grads, exact, strict=True):
        assert (found - true).norm() <= 2e-5 * true.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("divergence", "n", "n_each", "v"),
    [
        ("js", 150, 2, 3001),
        ("reverse_kl", 150, 3, 3001),
        ("forward_kl", 21, 5, 3001),
        ("js", 22, 7, 3001),
        ("reverse_kl", 1, 1, 40_009),
        ("forward_kl", 3, 3, 40_009),
    ],
)
def test_any_number_of_threads_gives_the_same_bits(dtype, divergence, n, n_each, v, monkeypatch):
    student = (noise(1, n, 96, dtype=dtype), noise(v, 96, seed=1, dtype=dtype) / 4, None)
    teachers = [
        Projected(noise(1, n, 40, seed=10 + k, dtype=dtype), noise(v, 40, seed=20 + k, dtype=dtype)) for k in range(3)
    ]
    weights, mask = noise(3, 1, n, seed=5).log_softmax(0), torch.ones(1, n, dtype=torch.bool)
    chunks, spread = [], linear.counted

    def counted(mask, *, n_each):
        chunks.append(n_each)
        return spread(mask, n_each=n_each)

    # The student's scores, and the pool or those of all teachers.
    of_row = 4 * dtype.itemsize if divergence == "reverse_kl" else dtype.itemsize + 4
    monkeypatch.setattr(linear, "MEMORY", n_each * v * of_row)
    monkeypatch.setattr(linear, "counted", counted)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            loss, grads = solve(student, teachers, weights, mask, divergence=divergence)
            found.append([loss.total, loss.divergence, *grads[:2]])
    finally:
        torch.set_num_threads(before)
    assert chunks == [n_each] * 3
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


def test_float16_heads_add_up_gradients_that_are_too_small_for_it():
    # Each of the last entries has a probability below all numbers of float16; together they pull on the second state.
    n_small, small = 4000, 19.0
    head = torch.zeros(2 + n_small, 2)
    head[0, 0], head[2:, 0], head[2:, 1] = 1.0, 1 - small, 8.0
    student = [torch.tensor([[[1.0, 0.0]]]).half(), head.half(), None]
    teacher = Logits(torch.tensor([[[1.0, 0.0, *[-torch.inf] * n_small]]]))
    arguments = [[teacher], torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)]
    loss, grads = solve(student, *arguments)
    twin, exact = solve([student[0].double(), student[1].double(), None], *arguments, as_logits=True, impl="reference")
    torch.testing.assert_close(loss.total.double(), twin.total, rtol=1e-3, atol=1e-6)
    assert exact[0][0, 0, 1] > 1e-5
    torch.testing.assert_close(grads[0][0, 0, 1].double(), exact[0][0, 0, 1], rtol=2e-2, atol=0)


def test_nothing_counts_and_nobody_asks():
    student, teachers, weights, mask, _ = heads()
    loss, grads = solve(student, teachers, weights, torch.zeros_like(mask))
    assert loss.total == 0
    assert not any(one.any() for one in grads)
    plain = distillation_loss(Projected(*student), teachers, weights, mask=mask)
    assert not plain.total.requires_grad
    again = distillation_loss(Projected(student[0].requires_grad_(), *student[1:]), teachers, weights, mask=mask)
    torch.testing.assert_close(plain.total, again.total.detach())
    for _ in range(2):
        again.total.backward(retain_graph=True)


def test_wrong_sizes_are_refused():
    student, teachers, weights, mask, _ = heads()
    with pytest.raises(ValueError, match="same width"):
        Projected(student[0], teachers[0].weight)
    with pytest.raises(ValueError, match="softcap"):
        Projected(student[0], student[1], softcap=0.0)
    with pytest.raises(ValueError, match="in_place=True needs student_logits"):
        distillation_loss(Projected(*student), teachers, weights, mask=mask, in_place=True)
    with pytest.raises(ValueError, match=r"teachers\[0\] is"):
        distillation_loss(Projected(student[0][:1], *student[1:]), teachers, weights[:, :1], mask=mask[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_teachers", [1, 3])
def test_memory_is_the_heads_gradient_in_float32_and_a_fixed_amount(n_teachers, dtype, peak_mib):
    n, v, width = 96, 120_000, 512
    head = torch.full((v, width), 0.01, dtype=dtype)  # so large that a copy is more than the fixed amount
    student = Projected(noise(1, n, width, dtype=dtype).requires_grad_(), head.requires_grad_())
    teachers = [Projected(student.hidden.detach(), student.weight.detach())] * n_teachers
    weights = torch.full((n_teachers, 1, 1), 1 / n_teachers).log()

    def run():
        loss = distillation_loss(student, teachers, weights, mask=torch.ones(1, n, dtype=torch.bool))
        loss.total.backward()
        student.weight.grad = None

    run()
    assert max(peak_mib(run) for _ in range(2)) <= v * width * 4 / 2**20 + 100
