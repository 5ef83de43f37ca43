"""Oracles: autograd on a small student, cosine similarity, torchjd's MGDA, scikit-learn's one-class SVM, ascent."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.svm import OneClassSVM
from torch.nn import functional
from torchjd.aggregation import MGDAWeighting

from mashbill.distributions import Dense, gradient_gram
from mashbill.weights import quadratic
from mashbill.weights.compose import conform
from mashbill.weights.gradient import MGDA, BoundedMGDA, GradientAlignment
from mashbill.weights.groups import require_by

DOUBLE = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def gram_of(gradients):
    """Gram matrices ``[B J J]`` of gradients ``[B J D]``."""
    return gradients @ gradients.mT


@pytest.fixture
def pulled(random_evidence):
    """``pulled(gradients [B K+1 D] or [K+1 D])``: evidence of rows in which these gradients pull."""

    def make(gradients, **changes):
        rows = gradients if gradients.ndim == 3 else gradients.unsqueeze(0)
        n_rows, n_gradients, _ = rows.shape
        return random_evidence(n_gradients - 1, n_rows, 2, gram=gram_of(rows), **changes)

    return make


def with_labels(gradients, label=None):
    """Append the labels' gradient, 0 by default."""
    return torch.cat([gradients, torch.zeros_like(gradients[-1:]) if label is None else label.unsqueeze(0)])


def random_rows(n, n_gradients, n_features, *, seed=0, spread=0.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, n_gradients, n_features, generator=generator, dtype=DOUBLE)
    return rows * 10 ** (spread * (2 * torch.rand(n, n_gradients, 1, generator=generator, dtype=DOUBLE) - 1))


# ---- gradients by logits are what autograd says they are


def test_logit_gradients_of_a_student_are_those_of_autograd(random_evidence) -> None:
    n_teachers, n_rows, n_positions, n_entries = 3, 4, 5, 6
    generator = torch.Generator().manual_seed(0)
    student = torch.nn.Linear(7, n_entries).double()
    logits = student(torch.randn(n_rows, n_positions, 7, generator=generator, dtype=DOUBLE))
    teachers = torch.randn(n_teachers, n_rows, n_positions, n_entries, generator=generator, dtype=DOUBLE).log_softmax(
        -1
    )
    labels = torch.randint(0, n_entries, (n_rows, n_positions), generator=generator)
    mask = torch.rand(n_rows, n_positions, generator=generator) < 0.7
    mask[0] = True
    labels[0, 0] = -100

    logprobs = logits.log_softmax(-1)
    losses = [functional.kl_div(logprobs, p, reduction="none", log_target=True).sum(-1) for p in teachers]
    losses.append(functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100))
    found = [torch.autograd.grad((loss * mask).sum(), logits, retain_graph=True)[0] for loss in losses]
    gradients = torch.stack(found, dim=1).flatten(2)
    gram = gradient_gram([Dense(p) for p in teachers], logprobs.detach(), labels=labels, mask=mask)
    torch.testing.assert_close(gram, gram_of(gradients), rtol=0, atol=1e-12)

    evidence = random_evidence(n_teachers, n_rows, n_positions, gram=gram, mask=mask)
    plain = torch.stack([functional.cosine_similarity(g, gradients[:, -1], dim=-1) for g in gradients.unbind(1)[:-1]])
    found = GradientAlignment(beta=1.5, epsilon=1e-9)(evidence)
    torch.testing.assert_close(found[..., 0].exp(), (1.5 * plain).softmax(0), rtol=0, atol=1e-7)
    # Of the whole batch: gradients by all logits, one long vector.
    whole = gradients.transpose(0, 1).flatten(1)
    together = functional.cosine_similarity(whole[:-1], whole[-1:], dim=-1)
    found = GradientAlignment(beta=1.5, epsilon=1e-9, by="batch")(evidence)
    torch.testing.assert_close(found[:, 0, 0].exp(), (1.5 * together).softmax(0), rtol=0, atol=1e-7)


# ---- alignment


def test_alignment_is_a_softmax_of_smoothed_cosines(pulled) -> None:
    rows = random_rows(20, 4, 3, spread=1.0)
    norm = rows.norm(dim=-1) + 0.3
    cosine = (rows[:, :-1] * rows[:, -1:]).sum(-1) / norm[:, :-1] / norm[:, -1:]
    found = GradientAlignment(beta=2.0, epsilon=0.3)(pulled(rows))
    assert found.shape == (3, 20, 1)
    torch.testing.assert_close(found[..., 0].exp(), (2 * cosine).softmax(-1).T, rtol=0, atol=1e-13)


def test_alignment_range_is_reached_and_not_left(pulled) -> None:
    promise = GradientAlignment(beta=1.2, epsilon=0.01).declared(3)
    label = tensor([1e6, 0.0])
    ends = torch.stack(
        [with_labels(torch.stack([a * label, b * label, b * label]), label) for a, b in [(1, -1), (-1, 1)]]
    )
    weights = GradientAlignment(beta=1.2, epsilon=0.01)(pulled(ends))[0, :, 0].exp()
    assert weights.tolist() == pytest.approx([promise.highest, promise.lowest], abs=1e-6)
    weights = GradientAlignment(beta=1.2, epsilon=0.01)(pulled(random_rows(2000, 4, 3, spread=4.0))).exp()
    assert promise.lowest <= float(weights.min()) <= float(weights.max()) <= promise.highest


def test_alignment_lipschitz_constant_holds_and_is_nearly_reached(pulled) -> None:
    rule, generator = GradientAlignment(beta=1.5, epsilon=0.2), torch.Generator().manual_seed(1)
    for n_teachers in (2, 3):
        promise = rule.declared(n_teachers)
        rows = random_rows(600, n_teachers + 1, 2, seed=n_teachers, spread=3.0)
        rows[:200, -1] *= 1e4  # little smoothing of the labels' side
        rows[:100, :-1] *= 1e-4  # and the teachers' gradients nearly 0: the worst place
        steepest = 0.0
        for moving in ("teachers", "labels"):
            # Ascent: where each gradient has to go to raise the first weight, from autograd on the formula.
            point = rows.clone().requires_grad_()
            norm = (point.square().sum(-1) + 1e-30).sqrt() + 0.2
            cosine = (point[:, :-1] * point[:, -1:]).sum(-1) / norm[:, :-1] / norm[:, -1:]
            (up,) = torch.autograd.grad((1.5 * cosine).softmax(-1)[:, 0].sum(), point)
            up = torch.where(torch.rand(600, 1, 1, generator=generator) < 0.8, up, torch.randn(up.shape).to(up))
            step = 1e-6 * up / up.norm(dim=-1, keepdim=True).clamp_min(1e-300)
            step[:, -1 if moving == "teachers" else slice(0, -1)] = 0
            before, after = (rule(pulled(at))[..., 0].exp() for at in (rows - step / 2, rows + step / 2))
            ratio = (after - before).abs().amax(0) / step.norm(dim=-1).amax(-1).clamp_min(1e-30)
            ratio = ratio[step.norm(dim=-1).amax(-1) > 1e-7]
            assert float(ratio.max()) <= promise.lipschitz * (1 + 1e-6)
            steepest = max(steepest, float(ratio.max()))
        assert steepest > (0.95 if n_teachers == 2 else 0.7) * promise.lipschitz


def test_plain_cosines_would_jump_where_a_gradient_vanishes(pulled) -> None:
    label = tensor([1.0, 0.0])
    tiny = [with_labels(tensor([[s * 1e-9, 0.0], [0.0, 1.0]]), label) for s in (1, -1)]
    weights = GradientAlignment(epsilon=1e-14)(pulled(torch.stack(tiny)))[0, :, 0].exp()
    assert float((weights[0] - weights[1]).abs()) > 0.4
    weights = GradientAlignment(epsilon=0.1)(pulled(torch.stack(tiny)))[0, :, 0].exp()
    assert float((weights[0] - weights[1]).abs()) < 1e-7


def test_without_labels_alignment_is_even(pulled) -> None:
    rows = random_rows(3, 4, 3)
    rows[:, -1] = 0
    torch.testing.assert_close(GradientAlignment()(pulled(rows)).exp(), torch.full((3, 3, 1), 1 / 3, dtype=DOUBLE))


# ---- MGDA


def test_mgda_golden_witnesses(pulled) -> None:
    def weights(*rows):
        return MGDA()(pulled(with_labels(tensor(rows)))).exp()[:, 0, 0].tolist()

    assert weights([1.0, 0.0], [2.0, 0.0]) == [1.0, 0.0]  # not positive
    assert weights([1.0, 0.0], [1 + 1e-6, 0.0]) == [1.0, 0.0]
    assert weights([1.0, 0.0], [1 - 1e-6, 0.0]) == [0.0, 1.0]  # discontinuous
    assert weights([1.0, 0.0], [1.0, 0.0]) == pytest.approx([0.5, 0.5])
    assert MGDA().declared(2).lipschitz is None


def test_a_guard_does_not_remove_mgdas_jump_and_ridge_does(pulled) -> None:
    near, far = (pulled(with_labels(tensor([[1.0, 0.0], [1 + s * 1e-6, 0.0]]))) for s in (1, -1))
    guarded = conform(MGDA(), bounds=(0.1, 0.9))
    assert float((guarded(near).exp() - guarded(far).exp()).abs().max()) == pytest.approx(0.8, abs=1e-9)
    bounded = BoundedMGDA(w_min=0.1, w_max=0.9, ridge=1e-2)
    gap = float((bounded(near).exp() - bounded(far).exp()).abs().max())
    size = torch.linalg.matrix_norm((near.gram - far.gram)[0, :2, :2], ord=2)
    assert gap <= bounded.declared(2).lipschitz * float(size) < 1e-3


def test_mgda_is_no_worse_than_torchjd_and_the_same_for_two(pulled) -> None:
    for n_teachers, tolerance in [(2, 1e-12), (4, 2e-3)]:
        rows = random_rows(25, n_teachers + 1, 3, seed=n_teachers)
        mine = MGDA(by="row")(pulled(rows))[..., 0].exp().T
        for gram, w in zip(gram_of(rows[:, :-1]), mine, strict=True):
            # Frank and Wolfe's steps: one is exact for two; beyond, 1000 of them come this near.
            theirs = MGDAWeighting(epsilon=1e-9, max_iters=1000)(gram)
            gap = float(quadratic.form(gram, theirs) - quadratic.form(gram, w))
            assert -1e-12 <= gap <= tolerance * float(gram.diagonal().max())
            if n_teachers == 2:
                torch.testing.assert_close(w, theirs, rtol=0, atol=1e-7)


def test_no_divergence_grows_along_mgdas_direction(pulled) -> None:
    rows = random_rows(200, 4, 5, spread=1.0)
    weights = MGDA(by="row")(pulled(rows))[..., 0].exp().T
    direction = (weights.unsqueeze(1) @ rows[:, :-1]).squeeze(1)
    gains = (rows[:, :-1] * direction.unsqueeze(1)).sum(-1)
    assert bool((gains >= direction.square().sum(-1, keepdim=True) * (1 - 1e-9) - 1e-12).all())


# ---- bounded MGDA


def test_bounded_mgda_golden(pulled) -> None:
    gradients = tensor([[1.0, 0.0], [1.0, 0.5], [-1.0, 0.0]])
    weights = BoundedMGDA(w_min=0.1, w_max=0.8, ridge=0.0)(pulled(with_labels(gradients))).exp()[:, 0, 0]
    assert weights.tolist() == pytest.approx([0.4, 0.1, 0.5], abs=1e-12)
    capped = BoundedMGDA(w_min=0.0, w_max=0.5, ridge=0.0)(pulled(with_labels(tensor([[1.0], [-3.0]])))).exp()[:, 0, 0]
    assert capped.tolist() == [0.5, 0.5]
    assert float(capped @ tensor([1.0, -3.0])) == -1.0  # uphill for the first


def test_bounded_mgda_descends_except_at_the_upper_bound(pulled) -> None:
    rows = random_rows(300, 5, 3, spread=0.5)
    rule = BoundedMGDA(w_min=0.05, w_max=0.4, ridge=0.1, by="row")
    weights = rule(pulled(rows))[..., 0].exp().T
    pull = (gram_of(rows[:, :-1]) @ weights.unsqueeze(-1)).squeeze(-1) + 0.1 * weights
    free = (weights > 0.05 + 1e-9) & (weights < 0.4 - 1e-9)
    has = free.any(-1)
    level = (pull * free).sum(-1)[has] / free.sum(-1)[has]
    assert int(has.sum()) > 200
    below = weights[has] < 0.4 - 1e-9
    assert bool((pull[has] >= level.unsqueeze(-1) - 1e-9)[below].all())
    assert bool((pull[has] <= level.unsqueeze(-1) + 1e-9)[~below].all())


def test_bounded_mgda_promises_hold_under_ascent(pulled) -> None:
    for n_teachers, box in [(2, (0.0, 1.0)), (3, (0.05, 0.7))]:
        rule = BoundedMGDA(w_min=box[0], w_max=box[1], ridge=0.05, by="row")
        promise = rule.declared(n_teachers)
        rows = random_rows(300, n_teachers + 1, 2, seed=3, spread=1.5)
        # Nearly collinear rows, where a little is missing to the even mix: the steepest places.
        along = torch.linspace(-1.5, 1.5, 100, dtype=DOUBLE)
        rows[:100] = 0
        rows[:100, :-1, 0] = 30.0
        rows[:100, 0, 0] += along * 0.05 / 30
        steepest, gram = 0.0, gram_of(rows)
        for teacher in range(n_teachers):
            inner = gram[:, :-1, :-1].clone().requires_grad_()
            w = quadratic.minimise(inner, w_min=box[0], w_max=box[1], ridge=0.05)
            (up,) = torch.autograd.grad(w[:, teacher].sum(), inner)
            left, _, right = torch.linalg.svd(up)  # the steepest direction of spectral norm 1
            step = torch.zeros_like(gram)
            step[:, :-1, :-1] = 1e-6 * (left @ right + (left @ right).mT) / 2
            evidence = pulled(rows)
            before, after = (rule(replace(evidence, gram=g))[..., 0].exp() for g in (gram, gram + step))
            size = torch.linalg.matrix_norm(step, ord=2)
            steepest = max(steepest, float(((after - before).abs().amax(0) / size).max()))
            assert promise.lowest - 1e-12 <= float(after.min()) <= float(after.max()) <= promise.highest + 1e-12
        assert 0.6 * promise.lipschitz < steepest <= promise.lipschitz * (1 + 1e-4)


def test_normalised_without_ridge_is_the_one_class_svm(pulled) -> None:
    # Du et al.: nu = 1/(K w_max); scikit-learn's dual sums to nu K with a box of 1.
    for seed in range(10):
        gradients = random_rows(1, 5, 4, seed=seed, spread=1.0)[0] + 0.5
        unit = functional.normalize(gradients, dim=-1)
        machine = OneClassSVM(kernel="precomputed", nu=0.5, tol=1e-10).fit((unit @ unit.T).numpy())
        expected = torch.zeros(5, dtype=DOUBLE)
        expected[machine.support_.tolist()] = tensor(machine.dual_coef_[0].tolist())
        rule = BoundedMGDA(w_min=0.0, w_max=1 / (5 * 0.5), ridge=0.0, normalise=True)
        found = rule(pulled(with_labels(gradients))).exp()[:, 0, 0]
        torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=1e-6)
    plain = BoundedMGDA(w_min=0.0, w_max=1.0, ridge=0.0)  # nu = 1/K
    torch.testing.assert_close(plain(pulled(with_labels(gradients))), MGDA()(pulled(with_labels(gradients))))


def test_safety_orders_the_solution(pulled) -> None:
    rows = random_rows(100, 4, 3, spread=1.0)
    safety = {"t0": 0.2, "t1": 0.9, "t2": 0.5}
    free, ordered = (BoundedMGDA(by="row", safety=s)(pulled(rows))[..., 0].exp() for s in (None, safety))
    assert bool((ordered[1] >= ordered[2] - 1e-14).all())
    assert bool((ordered[2] >= ordered[0] - 1e-14).all())
    kept = (free[1] >= free[2]) & (free[2] >= free[0])
    assert 5 < int(kept.sum()) < 60
    torch.testing.assert_close(ordered[:, kept], free[:, kept], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="safety says nothing about teacher 't1'"):
        BoundedMGDA(safety={"t0": 1, "t2": 2})(pulled(rows))


# ---- what all of them share

RULES = [GradientAlignment, MGDA, BoundedMGDA]


@pytest.mark.parametrize("rule", RULES)
def test_whose_gradients_count_together(rule, pulled) -> None:
    rows = random_rows(6, 4, 3, seed=5)
    task = torch.tensor([0, 1, 0, 1, 1, 0])
    evidence = pulled(rows, tasks=("a", "b", "empty"), task=task)
    each = rule(by="row")(evidence)
    alone = torch.cat([rule(by="batch")(pulled(row)) for row in rows], dim=1)
    torch.testing.assert_close(each, alone, rtol=0, atol=1e-12)
    by_task = rule(by="task")(evidence)
    for index in (0, 1):
        here = task == index
        together = rule(by="batch")(pulled(rows[here]))
        torch.testing.assert_close(by_task[:, here], together, rtol=0, atol=1e-12)
    # A batch counts like one typical row of it: twice the same rows, the same weights.
    torch.testing.assert_close(rule(by="batch")(pulled(rows.repeat(2, 1, 1)))[:, :6], rule(by="batch")(evidence))
    for by in ("row", "task", "batch"):
        promise = rule(by=by).declared(3)
        assert promise.reads_student
        assert promise.mixes_rows == (by != "row")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by", ["row", "task", "batch"])
def test_rows_where_nothing_counts_spoil_nothing(rule, by, pulled) -> None:
    rows = random_rows(3, 3, 4, seed=6)
    evidence = pulled(rows)
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    gram = evidence.gram.clone()
    gram[1] = torch.nan
    found = rule(by=by)(replace(evidence, mask=mask, gram=gram))
    assert bool(found.isfinite().all())
    expected = rule(by=by)(pulled(rows[[0, 2]]))
    torch.testing.assert_close(found[:, [0, 2]], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_permuting_teachers_permutes_weights(rule, pulled) -> None:
    rows = random_rows(30, 5, 3, seed=7)
    permutation = [2, 0, 3, 1]
    moved = rule(by="row")(pulled(rows[:, [*permutation, 4]]))
    torch.testing.assert_close(moved.exp(), rule(by="row")(pulled(rows))[permutation].exp(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_flows_and_dtypes_are_kept(rule, pulled) -> None:
    evidence = pulled(random_rows(4, 4, 3, seed=8))
    evidence.gram.requires_grad_()
    found = rule()(evidence)
    assert not found.requires_grad
    assert found.dtype == DOUBLE
    single = rule()(replace(evidence, gram=evidence.gram.detach().float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.exp().double(), found.exp(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(4, 1, dtype=DOUBLE))
    one = rule()(pulled(random_rows(2, 2, 3)))
    assert one.tolist() == [[[0.0], [0.0]]]
    assert rule().declared(1).lowest == rule().declared(1).highest == 1.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GradientAlignment(beta=-1), r"beta=-1 must be finite"),
        (lambda: GradientAlignment(epsilon=0), r"epsilon=0 must be positive"),
        (lambda: require_by("rows"), r"by='rows' must be 'row', 'task' or 'batch'"),
        (lambda: BoundedMGDA(w_min=0.6, w_max=0.5), r"w_min=0\.6 must not exceed w_max=0\.5"),
        (lambda: BoundedMGDA(ridge=math.nan), r"ridge=nan must be finite and not negative"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_evidence_must_fit(random_evidence) -> None:
    with pytest.raises(ValueError, match="needs='gram' is not in the evidence"):
        MGDA()(random_evidence(3))
    with pytest.raises(ValueError, match="gram is 3 by 3 for 3 teachers"):
        MGDA()(random_evidence(3, 4, gram=torch.eye(3, dtype=DOUBLE).expand(4, 3, 3)))
