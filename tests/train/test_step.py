"""The step against plain arithmetic, accumulation, and the stop at what is not finite."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mashbill.distributions import Dense, TopK, measure
from mashbill.errors import NumericError
from mashbill.losses import distillation_loss
from mashbill.losses.divergence import forward_kl
from mashbill.numerics import log_softmax
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.train import recipe
from mashbill.train.build import build_operator
from mashbill.train.corpus import build_corpus
from mashbill.train.data import Row
from mashbill.train.hashed_ngram import HashedNgram
from mashbill.train.loading import Loaded
from mashbill.train.optimiser import make_optimiser, optimiser_step
from mashbill.train.step import Lesson, evaluate, step
from mashbill.train.students import build_student
from mashbill.train.targets import collect
from mashbill.weights import Uniform, product

LABELS = ("de", "en", "fr", "it")
TEXTS = [f"{'ab' * (n % 3 + 1)} {n} word{n % 5}" for n in range(16)]


class Drawn:
    """A teacher that draws float64 distributions from each row's id, dense or top-k."""

    def __init__(self, id: str, n_entries: int, *, top_k: int | None = None) -> None:
        self.id, self.n_entries, self.top_k = id, n_entries, top_k

    def identity(self) -> dict[str, str]:
        return {"kind": "drawn", "source": self.id, "top_k": str(self.top_k)}

    def score(self, inputs: Inputs) -> Scored:
        logits = torch.stack([self._row(row_id, inputs.mask.shape[1]) for row_id in inputs.row_ids])
        dense = Dense(log_softmax(logits))
        distribution = dense if self.top_k is None else TopK.from_logprobs(dense.logprobs, k=self.top_k)
        return Scored(distribution, measure(dense, labels=inputs.labels))

    def _row(self, row_id: str, n_positions: int) -> torch.Tensor:
        seed = sum(ord(letter) * 31**place for place, letter in enumerate(f"{self.id}/{row_id}")) % 2**31
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.randn(64, self.n_entries, generator=generator, dtype=torch.float64)[:n_positions]


def classifier_lesson(directory: Path, **distill) -> Lesson:
    rows = [
        Row(str(n), text=text, label=LABELS[n % 4], task="ab"[n % 2], context="xyz"[n % 3])
        for n, text in enumerate(TEXTS)
    ]
    torch.manual_seed(0)
    student = HashedNgram(LABELS, buckets=64, dim=6, hidden=5)
    student.module.double()
    corpus = build_corpus(student, rows, max_length=40, teachers=("p", "q"))
    targets = [collect(Drawn("p", 4), corpus, directory), collect(Drawn("q", 4, top_k=2), corpus, directory)]
    operator = build_operator(recipe.Weighting.model_validate({"token": {"rule": "entropy_softmax"}}), ("p", "q"))
    return Lesson(student, operator, corpus, targets, recipe.Distill.model_validate(distill))


def language_lesson(loaded: Loaded, directory: Path) -> Lesson:
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    student.module.double()
    rows = [Row(str(n), text=text * (1 + n % 3)) for n, text in enumerate(TEXTS[:8])]
    corpus = build_corpus(student, rows, max_length=12, teachers=("p", "q"))
    targets = [collect(Drawn(name, student.n_entries, top_k=5), corpus, directory) for name in ("p", "q")]
    operator = build_operator(recipe.Weighting.model_validate({"token": {"rule": "entropy_softmax"}}), ("p", "q"))
    return Lesson(student, operator, corpus, targets, recipe.Distill(cross_entropy=0.25))


def gradients(lesson: Lesson, sizes: Sequence[int]) -> torch.Tensor:
    """Return the gradient of one optimiser step over the whole corpus, cut into micro-batches of the given sizes."""
    lesson.student.module.zero_grad()
    n_counted = int(lesson.corpus.n_counted.sum())
    for part in torch.arange(len(lesson.corpus)).split(list(sizes)):
        step(lesson, part, n_counted=n_counted).total.backward()
    return torch.cat([p.grad.flatten() for p in lesson.student.module.parameters() if p.grad is not None])


def test_the_loss_is_the_formula(tmp_path: Path) -> None:
    lesson = replace(classifier_lesson(tmp_path, divergence={"temperature": 1.0}), operator=product())
    index = torch.tensor([3, 0, 9])
    outcome = step(lesson, index, n_counted=3)
    scored = [targets.batch(index, 1).distribution for targets in lesson.targets]
    student = log_softmax(outcome.logits)
    dense = torch.stack([scored[0].logprobs, scored[1].densify(like=student.detach())])  # pyright: ignore
    pooled = dense.logsumexp(dim=0) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    assert float(outcome.total.detach()) == pytest.approx(
        float(forward_kl(pooled, student.detach()).sum() / 3), abs=1e-12
    )


@pytest.mark.parametrize(
    ("divergence", "options"),
    [
        ({"name": "js"}, {"divergence": "js", "beta": 0.5}),
        ({"name": "js", "beta": 0.2}, {"divergence": "js", "beta": 0.2}),
        ({"name": "skew_kl"}, {"divergence": "skew_kl", "skew": 0.1}),
        ({"name": "reverse_skew_kl", "skew": 0.3}, {"divergence": "reverse_skew_kl", "skew": 0.3}),
        ({"name": "alpha", "alpha": 0.3}, {"divergence": "alpha", "alpha": 0.3}),
        ({"name": "total_variation"}, {"divergence": "total_variation"}),
    ],
)
def test_the_divergence_is_that_of_the_recipe(divergence: dict, options: dict, tmp_path: Path) -> None:
    lesson = classifier_lesson(tmp_path, divergence=divergence)
    index = torch.tensor([3, 0, 9])
    outcome = step(lesson, index, n_counted=3)
    teachers = [targets.batch(index, 1).distribution for targets in lesson.targets]
    mask = torch.ones(3, 1, dtype=torch.bool)
    direct = distillation_loss(outcome.logits, teachers, outcome.log_weights, mask=mask, scale=1 / 3, **options)
    assert torch.equal(outcome.total.detach(), direct.total)


@pytest.mark.parametrize("sizes", [[1] * 16, [8, 8], [5, 5, 6], [3, 13]])
@pytest.mark.parametrize("cross_entropy", [0.0, 0.4])
def test_accumulated_gradients_are_those_of_one_batch(sizes: list[int], cross_entropy: float, tmp_path: Path) -> None:
    lesson = classifier_lesson(tmp_path, cross_entropy=cross_entropy)
    whole = gradients(lesson, [16])
    assert float(whole.abs().max()) > 1e-3
    assert float((gradients(lesson, sizes) - whole).abs().max()) < 1e-12


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_accumulation_counts_tokens_not_rows(language: Callable[..., Loaded], tmp_path: Path) -> None:
    lesson = language_lesson(language(), tmp_path)
    assert len(set(lesson.corpus.n_counted.tolist())) >= 2, "rows of different length are the test"
    n = len(lesson.corpus)
    whole = gradients(lesson, [n])
    assert float((gradients(lesson, [1] * n) - whole).abs().max()) < 1e-12
    # The classic mistake, a mean of means, is ten orders away.
    lesson.student.module.zero_grad()
    for part in torch.arange(n).split(1):
        (step(lesson, part, n_counted=int(lesson.corpus.n_counted[part].sum())).total / n).backward()
    wrong = torch.cat([p.grad.flatten() for p in lesson.student.module.parameters() if p.grad is not None])
    assert float((wrong - whole).abs().max()) > 1e-4


def test_steps_accumulate_to_the_same_weights(tmp_path: Path) -> None:
    ends = []
    for micro in (1, 8):
        lesson = classifier_lesson(tmp_path)
        optimiser = make_optimiser(lesson.student.module, recipe.Train(learning_rate=0.05))
        for number in range(5):
            rows = torch.arange(8) + 8 * (number % 2)
            optimiser_step(lesson, rows, optimiser, micro_batch=micro, max_norm=0.1)
        ends.append(torch.cat([p.detach().flatten() for p in lesson.student.module.parameters()]))
    assert float((ends[0] - ends[1]).abs().max()) < 1e-12


def test_no_rules_are_the_plain_uniform_run_bit_for_bit(tmp_path: Path) -> None:
    ends = []
    for operator in (
        build_operator(recipe.Weighting(), ("p", "q")),
        Uniform(),
        lambda evidence: 0 + Uniform()(evidence),
    ):
        lesson = replace(classifier_lesson(tmp_path), operator=operator)
        optimiser = make_optimiser(lesson.student.module, recipe.Train(learning_rate=0.05))
        for _ in range(3):
            optimiser_step(lesson, torch.arange(16), optimiser, micro_batch=4, max_norm=1.0)
        ends.append([p.detach().clone() for p in lesson.student.module.parameters()])
    for other in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))


def spoiled(lesson: Lesson, name: str, row: int, value: float) -> Lesson:
    """Return the lesson with one number of the second teacher's answer to a row replaced."""
    targets = lesson.targets[1]
    tensors = {key: tensor.clone() for key, tensor in targets.tensors.items()}
    tensors[name][targets.slots.values[targets.slots.starts[row]]] = value
    return replace(lesson, targets=[lesson.targets[0], replace(targets, tensors=tensors)])


@pytest.mark.parametrize("name", ["logprobs", "log_tail", "entropy"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teachers_bad_number_stops_before_the_step_and_is_named(name: str, value: float, tmp_path: Path) -> None:
    lesson = spoiled(classifier_lesson(tmp_path), name, 5, value)
    optimiser = make_optimiser(lesson.student.module, recipe.Train(learning_rate=0.05))
    before = [p.detach().clone() for p in lesson.student.module.parameters()]
    with pytest.raises(NumericError, match="teacher `q`") as caught:
        optimiser_step(lesson, torch.arange(8), optimiser, micro_batch=3, max_norm=1.0)
    assert "row `5`, position 0" in caught.value.where
    assert all(torch.equal(a, b) for a, b in zip(before, lesson.student.module.parameters(), strict=True))
    assert not optimiser.state
    # Rows without it train.
    optimiser_step(lesson, torch.arange(8, 16), optimiser, micro_batch=3, max_norm=1.0)


def test_a_rules_bad_weight_is_named(tmp_path: Path) -> None:
    def rule(evidence):
        log_weights = Uniform()(evidence).clone()
        log_weights[1, evidence.task == 1] = torch.nan
        return log_weights

    lesson = replace(classifier_lesson(tmp_path), operator=rule)
    optimiser = make_optimiser(lesson.student.module, recipe.Train())
    with pytest.raises(NumericError, match=r"weight of teacher `q`(.|\n)*rules under `weighting`"):
        optimiser_step(lesson, torch.arange(4), optimiser, micro_batch=4, max_norm=1.0)


def test_a_students_bad_output_is_named(tmp_path: Path) -> None:
    lesson = classifier_lesson(tmp_path)
    with torch.no_grad():
        next(lesson.student.module.parameters())[:] = torch.inf
    optimiser = make_optimiser(lesson.student.module, recipe.Train())
    with pytest.raises(NumericError, match="the student's own output"):
        optimiser_step(lesson, torch.arange(4), optimiser, micro_batch=4, max_norm=1.0)


def test_evaluation_is_the_mean_over_all_rows_whatever_the_batch(tmp_path: Path) -> None:
    lesson = classifier_lesson(tmp_path)
    whole = evaluate(lesson, batch_size=16)
    assert evaluate(lesson, batch_size=3) == pytest.approx(whole, abs=1e-12)
    assert whole["loss"] == pytest.approx(float(step(lesson, torch.arange(16), n_counted=16).total.detach()), abs=1e-9)
    logits = lesson.student.logits(lesson.corpus.batch(torch.arange(16)))
    right = logits[:, 0].argmax(dim=-1) == lesson.corpus.labels.values
    assert whole["accuracy"] == pytest.approx(float(right.double().mean()))
    assert lesson.student.module.training
