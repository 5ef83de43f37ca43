"""Evidence for published rules: a fixed input that releases were run on, and small real problems to learn from."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from mashbill.distributions import Dense, Statistics, comparison, measure
from mashbill.weights.evidence import Evidence, Observation

DOUBLE = torch.float64

TEACHER_LOGITS = torch.tensor(
    [
        [[2.0, 0.5, -1.0, 0.0], [0.3, 0.2, 0.1, 0.0]],
        [[0.0, 1.5, 0.5, -0.5], [1.0, -1.0, 2.0, 0.0]],
        [[-1.0, 0.0, 1.0, 2.0], [0.5, 2.5, -0.5, 0.0]],
    ],
    dtype=DOUBLE,
)
STUDENT_LOGITS = torch.tensor([[0.5, 0.2, -0.3, 0.1], [-0.4, 0.9, 0.3, 0.0]], dtype=DOUBLE)
LABELS = torch.tensor([0, 1])


def evidence_of(
    teachers: torch.Tensor, student: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None, **changes
) -> Evidence:
    """Return everything that is known of log-probabilities ``[K B T V]`` and ``[B T V]``; label -100 means none."""
    mask = torch.ones(labels.shape, dtype=torch.bool) if mask is None else mask
    each = [Dense(p) for p in teachers]
    statistics = Statistics.stack([measure(one, labels=labels) for one in each])
    plain = Evidence.plain(tuple(f"t{k}" for k in range(len(each))), statistics, n_entries=teachers.shape[-1])
    return replace(
        plain,
        mask=mask,
        logprobs=teachers,
        student_logprobs=student,
        divergences={"student": comparison.kl_to(each, student)},
        gram=comparison.gradient_gram(each, student, labels=labels, mask=mask),
        **changes,
    )


@pytest.fixture
def teacher_logits() -> torch.Tensor:
    """Raw, ``[K B V]``."""
    return TEACHER_LOGITS


@pytest.fixture
def student_logits() -> torch.Tensor:
    """Raw, ``[B V]``."""
    return STUDENT_LOGITS


@pytest.fixture
def fixed() -> Callable[..., Evidence]:
    """The input on which released code was run: three teachers, two rows of one position, four labels."""

    def make(dtype: torch.dtype = DOUBLE, **changes) -> Evidence:
        teachers = TEACHER_LOGITS.log_softmax(-1).unsqueeze(2).to(dtype)
        student = STUDENT_LOGITS.log_softmax(-1).unsqueeze(1).to(dtype)
        return evidence_of(teachers, student, LABELS.unsqueeze(1), **changes)

    return make


@pytest.fixture
def sequences() -> Callable[..., Evidence]:
    """Three teachers, four rows of five positions; the last row counts nowhere, the third has no label.

    ``poison`` puts it at every position that does not count, in everything that has positions.
    """

    def make(*, poison: float | None = None, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Evidence:
        generator = torch.Generator().manual_seed(seed)
        teachers = (2 * torch.randn(3, 4, 5, 6, generator=generator, dtype=DOUBLE)).log_softmax(-1).to(dtype)
        student = torch.randn(4, 5, 6, generator=generator, dtype=DOUBLE).log_softmax(-1).to(dtype)
        labels = torch.randint(0, 6, (4, 5), generator=generator)
        labels[2], labels[0, 1] = -100, -100
        mask = torch.rand(4, 5, generator=generator) < 0.6
        mask[0], mask[3] = torch.tensor([True, True, False, True, False]), False
        features = torch.randn(4, 3, generator=generator, dtype=DOUBLE).to(dtype)
        evidence = evidence_of(teachers, student, labels, mask, features=features)
        if poison is None:
            return evidence
        outside = ~mask.unsqueeze(-1)
        spoil = {
            name: value.masked_fill(outside if name == "class_mass" else ~mask, poison)
            for name, value in vars(evidence.statistics).items()
        }
        return replace(
            evidence,
            statistics=Statistics(**spoil),
            logprobs=teachers.masked_fill(outside, poison),
            student_logprobs=student.masked_fill(outside, poison),
            divergences={"student": evidence.divergences["student"].masked_fill(~mask, poison)},
        )

    return make


@dataclass(frozen=True)
class Digits:
    """Handwritten digits with three teachers; features are pixels in ``[0, 1]``.

    Attributes:
        x: ``[N 64]``.
        y: ``[N]``.
        teachers: Their log-probabilities, ``[K N 10]``.
        statistics: Of the teachers.
    """

    x: torch.Tensor
    y: torch.Tensor
    teachers: torch.Tensor
    statistics: Statistics

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor, teachers: torch.Tensor) -> "Digits":
        """Measure the teachers once."""
        each = [measure(Dense(p.unsqueeze(1)), labels=y.unsqueeze(1)) for p in teachers]
        return cls(x, y, teachers, Statistics.stack(each))

    def __getitem__(self, rows: slice | torch.Tensor) -> "Digits":
        some = {name: value[:, rows] for name, value in vars(self.statistics).items()}
        return Digits(self.x[rows], self.y[rows], self.teachers[:, rows], Statistics(**some))

    def evidence(self, student_logits: torch.Tensor, *, needs: frozenset[str] = frozenset({"gram"})) -> Evidence:
        """Return the evidence of rows of one position."""
        student = student_logits.detach().log_softmax(-1).unsqueeze(1)
        plain = Evidence.plain(tuple(f"t{k}" for k in range(len(self.teachers))), self.statistics, n_entries=10)
        teachers = self.teachers.unsqueeze(2)
        gram = None
        if "gram" in needs:
            each = [Dense(p) for p in teachers]
            gram = comparison.gradient_gram(each, student, labels=self.y.unsqueeze(1), mask=plain.mask)
        distance = (teachers.exp() * (teachers - student)).sum(-1)
        return replace(
            plain,
            logprobs=teachers,
            student_logprobs=student,
            divergences={"student": distance},
            features=self.x,
            gram=gram,
        )

    def observation(self, student_logits: torch.Tensor, log_weights: torch.Tensor, step: int, **options) -> Observation:
        """Return what a rule that learns is shown."""
        evidence = self.evidence(student_logits, **options)
        return Observation(step, evidence, log_weights.detach(), evidence.divergences["student"])


def _fitted(x: torch.Tensor, y: torch.Tensor, everywhere: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of a logistic regression; a class that it never saw has probability 1e-4."""
    model = LogisticRegression(C=0.1, max_iter=200).fit(x.numpy(), y.numpy())
    found = torch.full((len(everywhere), 10), 1e-4)
    found[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.predict_proba(everywhere.numpy())).float()
    return (found / found.sum(-1, keepdim=True)).log()


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return (torch.from_numpy(images).float() / 16)[order], torch.from_numpy(labels).long()[order]


@pytest.fixture(scope="session")
def specialists() -> Digits:
    """Two specialists, of the digits 0-4 and 5-9, each sure of nonsense on the other's; rows that neither has seen."""
    x, y = _digits()
    seen, low = slice(0, 600), y[:600] < 5
    each = [_fitted(x[seen][who], y[seen][who], x) for who in (low, ~low)]
    return Digits.of(x, y, torch.stack(each))[600:]


@pytest.fixture(scope="session")
def unequal() -> Digits:
    """Three teachers, taught by true labels, by labels of which 60 % are random, and by labels one too high."""
    x, y = _digits()
    generator = torch.Generator().manual_seed(1)
    is_random, random = torch.rand(600, generator=generator) < 0.6, torch.randint(10, (600,), generator=generator)
    noisy = torch.where(is_random, random, y[:600])
    each = [_fitted(x[:600], taught, x) for taught in (y[:600], noisy, (y[:600] + 1) % 10)]
    return Digits.of(x, y, torch.stack(each))[600:]
