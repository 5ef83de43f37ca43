import pytest
import torch

from mashbill import numerics, pools
from mashbill.weights.token_classes import marginalise, normaliser_bounds

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE).log()
BY_CLASS = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=DOUBLE).log()  # [C K]: .7 for the first teacher on class 0
CLASSES = torch.tensor([0, 1, 1])
EVEN = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()


def random_problem(n_classes=3, n_teachers=3, n_cases=200, n_entries=8, *, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    logprobs = (2 * torch.randn(n_teachers, n_cases, n_entries, generator=generator, dtype=DOUBLE)).log_softmax(-1)
    by_class = torch.randn(n_classes, n_teachers, n_cases, generator=generator, dtype=DOUBLE).log_softmax(1)
    classes = torch.randint(n_classes, (n_entries,), generator=generator)
    return logprobs.to(dtype), by_class.to(dtype), classes


def test_golden_of_weights_by_token(golden) -> None:
    unnormalised, mass, renormalised = golden("F29")["expected"]
    u = pools.token_mixture(APPENDIX_A, BY_CLASS, classes=CLASSES)
    assert u.exp().tolist() == pytest.approx(unnormalised, abs=1e-9)
    found = pools.token_renormalise(APPENDIX_A, BY_CLASS, classes=CLASSES)
    assert float(found.mass) == pytest.approx(mass[0], abs=1e-9)
    assert found.logprobs.exp().tolist() == pytest.approx(renormalised, abs=1e-9)
    assert float(found.hull_distance) == pytest.approx(0.009753, abs=5e-7)


def test_a_class_for_every_token_is_a_weight_for_every_token(golden) -> None:
    by_token = BY_CLASS[CLASSES]
    found = pools.token_renormalise(APPENDIX_A, by_token, classes=torch.arange(3))
    assert found.logprobs.exp().tolist() == pytest.approx(golden("F29")["expected"][2], abs=1e-9)
    last = pools.token_renormalise(APPENDIX_A, BY_CLASS, classes=torch.tensor([0, -1, -1]))
    assert torch.equal(last.logprobs, pools.token_renormalise(APPENDIX_A, BY_CLASS, classes=CLASSES).logprobs)


def test_golden_of_marginalised_weights(golden) -> None:
    """The first repair: one weight a teacher, by the mass of the classes under the mean teacher."""
    class_mass = torch.tensor([[[0.6, 0.4]]], dtype=DOUBLE)
    weights = marginalise(BY_CLASS.reshape(2, 2, 1, 1), class_mass)
    expected_weights, expected_target = golden("F34")["expected"]
    assert weights.exp().flatten().tolist() == pytest.approx(expected_weights, abs=1e-9)
    target = pools.linear(APPENDIX_A.reshape(2, 1, 1, 3), weights)
    assert target.exp().flatten().tolist() == pytest.approx(expected_target, abs=1e-9)


def test_golden_of_the_gradient_with_a_target_that_does_not_sum_to_1(golden) -> None:
    u = pools.token_mixture(APPENDIX_A, BY_CLASS, classes=CLASSES).exp()
    z = torch.tensor([0.2, -0.1, 0.4], dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(-(u * z.log_softmax(-1)).sum(), z)
    assert gradient.tolist() == pytest.approx(golden("F35")["expected"], abs=golden("F35")["tol"])
    mass = pools.token_renormalise(APPENDIX_A, BY_CLASS, classes=CLASSES).mass
    torch.testing.assert_close(mass * z.softmax(-1) - u, gradient)


def test_unanimity_breaks() -> None:
    teachers = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.1, 0.4]], dtype=DOUBLE).log()
    by_token = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.3, 0.7]], dtype=DOUBLE).log()
    found = pools.token_renormalise(teachers, by_token, classes=torch.arange(3))
    assert float(found.logprobs[0].exp()) == pytest.approx(0.446429, abs=5e-7)
    repaired = pools.token_project(teachers, by_token, classes=torch.arange(3))
    assert float(repaired.logprobs[0].exp()) == pytest.approx(0.5, abs=1e-12)


def test_masses_stay_in_their_exact_range() -> None:
    logprobs, by_class, classes = random_problem(n_teachers=2)
    by_class = (0.3 + 0.4 * by_class.exp()).log()  # in [.3, .7]
    mass = pools.token_renormalise(logprobs, by_class, classes=classes).mass
    low, high = normaliser_bounds(logprobs, w_min=0.3, w_max=0.7)
    assert bool(((low - 1e-12 <= mass) & (mass <= high + 1e-12)).all())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_bound_on_the_distance_holds_and_is_attained_by_its_formula(dtype) -> None:
    logprobs, by_class, classes = random_problem(dtype=dtype)
    found = pools.token_renormalise(logprobs, by_class, classes=classes)
    nearest = pools.hull_project(found.logprobs, logprobs)
    torch.testing.assert_close(nearest.distance, found.hull_distance)
    variation = (found.logprobs.exp() - nearest.logprobs.exp()).abs().sum(-1) / 2
    assert bool((variation <= found.hull_bound + 1e-6).all())
    # min over wbar by brute force: piecewise linear, so random probabilities come near it and never below.
    w = by_class.exp().double()
    generator = torch.Generator().manual_seed(1)
    candidates = torch.rand(3000, 3, 1, generator=generator, dtype=DOUBLE)
    candidates = candidates / candidates.sum(1, keepdim=True)
    spread = (w.unsqueeze(0) - candidates.unsqueeze(1)).abs().amax(1).sum(1).amin(0)
    assert bool((found.hull_bound.double() <= spread + 1e-6).all())
    assert float((spread - found.hull_bound).min()) < 1e-3


def test_classes_without_entries_do_not_widen_the_bound() -> None:
    by_class = torch.cat([BY_CLASS, torch.tensor([[0.01, 0.99]], dtype=DOUBLE).log()])
    found = pools.token_renormalise(APPENDIX_A, by_class, classes=CLASSES)
    assert float(found.hull_bound) == pytest.approx(0.4)


@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_the_projected_pool_is_a_mixture_in_the_box(metric) -> None:
    logprobs, by_class, classes = random_problem(n_cases=60)
    found = pools.token_project(logprobs, by_class, classes=classes, metric=metric, w_min=0.1, w_max=0.6)
    assert found.weights is not None
    assert float(found.weights.min()) >= 0.1 - 1e-12
    assert float(found.weights.max()) <= 0.6 + 1e-12
    torch.testing.assert_close(pools.linear(logprobs, found.weights.log()).exp(), found.logprobs.exp())
    before = pools.token_renormalise(logprobs, by_class, classes=classes)
    torch.testing.assert_close(found.hull_distance, before.hull_distance)


def test_blocks_keep_the_mass_of_classes_and_the_weights_within() -> None:
    logprobs, by_class, classes = random_problem()
    a = torch.randn(3, 200, generator=torch.Generator().manual_seed(5), dtype=DOUBLE).log_softmax(0)
    found = pools.token_blocks(logprobs, by_class, a, classes=classes)
    q, p = found.logprobs.exp(), logprobs.exp()
    torch.testing.assert_close(q.sum(-1), torch.ones(200, dtype=DOUBLE))
    for c in classes.unique().tolist():
        inside = classes == c
        event = q[:, inside].sum(-1, keepdim=True)
        torch.testing.assert_close(event[:, 0], (a.exp() * p[..., inside].sum(-1)).sum(0))
        conditional = p[..., inside] / p[..., inside].sum(-1, keepdim=True)
        torch.testing.assert_close(q[:, inside] / event, (by_class[c].exp().unsqueeze(-1) * conditional).sum(0))
    nearest = pools.hull_project(found.logprobs, logprobs)
    assert bool(((q - nearest.logprobs.exp()).abs().sum(-1) / 2 <= found.hull_bound + 1e-12).all())
    assert float(found.hull_distance.max()) > 0.01


def test_blocks_are_in_the_hull_with_the_weights_of_the_mixture() -> None:
    logprobs, _, classes = random_problem(n_classes=2)
    a = torch.randn(3, 200, generator=torch.Generator().manual_seed(5), dtype=DOUBLE).log_softmax(0)
    mass = torch.stack([logprobs[..., classes == c].logsumexp(-1) for c in range(2)])
    found = pools.token_blocks(logprobs, (a + mass).log_softmax(1), a, classes=classes)
    torch.testing.assert_close(found.logprobs, pools.linear(logprobs, a))
    assert float(found.hull_distance.max()) < 1e-12
    assert float(found.hull_bound.max()) < 1e-12


def test_blocks_where_a_teacher_has_no_mass_on_a_class() -> None:
    teachers = numerics.log_of(torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, 0.3, 0.3]], dtype=DOUBLE))
    classes = torch.tensor([0, 0, 1, 1])
    only_first = numerics.log_of(torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=DOUBLE))
    for by_class in (EVEN.expand(2, 2), only_first):
        found = pools.token_blocks(teachers, by_class, EVEN, classes=classes)
        assert found.logprobs.exp().tolist() == pytest.approx([0.35, 0.35, 0.15, 0.15])
    nobody = teachers[[0, 0]].clone().requires_grad_()
    found = pools.token_blocks(nobody, EVEN.expand(2, 2), EVEN, classes=classes)
    assert found.logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0])
    found.logprobs.exp().square().sum().backward()
    assert nobody.grad is not None
    assert bool(nobody.grad.isfinite().all())


@pytest.mark.parametrize("name", ["token_mixture", "token_renormalise", "token_project"])
def test_one_set_of_weights_for_all_classes_is_the_linear_pool(name) -> None:
    logprobs, by_class, classes = random_problem(n_cases=20)
    same = by_class[:1].expand(3, 3, 20)
    found = getattr(pools, name)(logprobs, same, classes=classes)
    q = found if name == "token_mixture" else found.logprobs
    torch.testing.assert_close(q, pools.linear(logprobs, by_class[0]))
    if name != "token_mixture":
        torch.testing.assert_close(found.mass, torch.ones(20, dtype=DOUBLE))
        assert float(found.hull_bound.max()) < 1e-12


def test_gradients_are_those_of_finite_differences() -> None:
    logprobs, by_class, classes = random_problem(n_classes=2, n_cases=1, n_entries=4)
    leaves = (logprobs.requires_grad_(), by_class.requires_grad_())
    a = torch.tensor([[0.2], [0.3], [0.5]], dtype=DOUBLE).log()

    def blocks(p, w):
        return pools.token_blocks(p, w, a, classes=classes).logprobs

    def renormalised(p, w):
        found = pools.token_renormalise(p, w, classes=classes)
        return found.logprobs, found.mass

    def projected(p, w):
        return pools.token_project(p, w, classes=classes).logprobs

    for function in (blocks, renormalised, projected):
        assert torch.autograd.gradcheck(function, leaves)


def test_shapes_of_a_language_model() -> None:
    logprobs, by_class, classes = random_problem(n_cases=12)
    plain = pools.token_renormalise(logprobs, by_class, classes=classes)
    shaped = pools.token_renormalise(logprobs.reshape(3, 4, 3, 8), by_class.reshape(3, 3, 4, 3), classes=classes)
    assert torch.equal(shaped.logprobs.reshape(12, 8), plain.logprobs)
    one_a_row = by_class[..., :4].unsqueeze(-1)
    for found in (
        pools.token_project(logprobs.reshape(3, 4, 3, 8), one_a_row, classes=classes),
        pools.token_blocks(logprobs.reshape(3, 4, 3, 8), one_a_row, one_a_row[0], classes=classes),
    ):
        assert found.logprobs.shape == (4, 3, 8)
        assert found.hull_bound.shape == found.hull_distance.shape == found.mass.shape == (4, 3)


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 1, -2]])
def test_a_class_without_weights_is_refused(classes) -> None:
    with pytest.raises(ValueError, match="but log_weights has 2 classes; ids are 0 to 1, and -1 for the last"):
        pools.token_mixture(APPENDIX_A, BY_CLASS, classes=torch.tensor(classes))
