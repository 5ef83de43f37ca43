"""Steps of a recursion with one fault: ``(base, student) -> next teacher``, all logs, anchored by a fifth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from audit.specimens import Mutant

ANCHORING, CONTRACTION, FIXED = "recursion.anchoring", "recursion.contraction", "recursion.fixed_point"
ANCHOR = 0.2

Mean = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """A step that states its share of the base.

    Attributes:
        mean: From probabilities of base and student to those of the next teacher.
        anchor: As stated.
    """

    mean: Mean
    anchor: float = ANCHOR

    def __call__(self, base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return self.mean(base.exp(), student.exp()).clamp_min(1e-300).log()


def mixed(base: torch.Tensor, student: torch.Tensor, share: float | torch.Tensor = ANCHOR) -> torch.Tensor:
    """Sound."""
    return share * base + (1 - share) * student


def unanchored(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return student


def too_little(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return mixed(base, student, 0.99 * ANCHOR)


def rare_lost(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """A base whose entries below a hundredth are cut."""
    cut = torch.where(base < 0.01, 0.0, base)
    return mixed(cut / cut.sum(dim=-1, keepdim=True), student)


def geometric(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """A geometric mean, said to be a mixture."""
    log_q = ANCHOR * base.log().clamp_min(-1e4) + (1 - ANCHOR) * student.log().clamp_min(-1e4)
    return torch.softmax(log_q, dim=-1)


def sharpened(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """A student that is a little surer than it was."""
    return mixed(base, torch.softmax(1.5 * student.log().clamp_min(-1e4), dim=-1))


def trusting(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Anchored more the less the student gives to the first entry."""
    return mixed(base, student, ANCHOR + 0.3 * (1 - student[..., :1]))


def first_choice(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """A tenth goes to the student's first choice."""
    best = torch.nn.functional.one_hot(student.argmax(dim=-1), student.shape[-1]).to(student.dtype)
    return mixed(base, 0.9 * student + 0.1 * best)


def drifting(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """A student a hundredth of which is uniform."""
    return mixed(base, 0.99 * student + 0.01 / student.shape[-1])


def moved(base: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Anchored, and 1e-4 of the rest goes from each entry to the next."""
    return mixed(base, student + 1e-4 * (student.roll(1, dims=-1) - student))


def of(step: Step, base: Sequence[float], student: Sequence[float]) -> torch.Tensor:
    each = (torch.tensor([list(p)], dtype=torch.float64).log().clamp_min(-1e4) for p in (base, student))
    return step(*each)[0].exp()


BASE, STUDENT, OTHER = (0.5, 0.495, 0.005), (0.1, 0.2, 0.7), (0.2, 0.2, 0.6)


def unkept(base: Sequence[float], student: Sequence[float]) -> Callable[[Step], float]:
    """How much of the stated share is missing in an entry."""
    return lambda step: float((ANCHOR * torch.tensor(base, dtype=torch.float64) - of(step, base, student)).max())


def apart(one: Sequence[float], other: Sequence[float], base: Sequence[float] = BASE) -> Callable[[Step], float]:
    """How much further apart two students end up than stated."""
    distance = sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2

    def shows(step: Step) -> float:
        return float((of(step, base, one) - of(step, base, other)).abs().sum()) / 2 - (1 - ANCHOR) * distance

    return shows


def drifts(step: Step) -> float:
    return float((of(step, BASE, BASE) - torch.tensor(BASE, dtype=torch.float64)).abs().max())


def mutant(name: str, mean: Mean, breaks: tuple[str, ...], shows: Callable[[Step], float]) -> Mutant:
    return Mutant(f"recursion: {name}", lambda: Step(mean), breaks, shows, kind="recursion")


RECURSION = [
    mutant("no anchor", unanchored, (ANCHORING, CONTRACTION, FIXED), unkept(BASE, (0.0, 0.0, 1.0))),
    mutant("1 % less of the base than stated", too_little, (ANCHORING, CONTRACTION), unkept(BASE, (0.0, 0.0, 1.0))),
    mutant("rare entries of the base lost", rare_lost, (ANCHORING, FIXED), unkept(BASE, (0.5, 0.5, 0.0))),
    mutant("a geometric mean", geometric, (ANCHORING, CONTRACTION), unkept(BASE, (0.0, 0.0, 1.0))),
    mutant("a surer student", sharpened, (CONTRACTION, FIXED), apart((0.5, 0.5), (0.6, 0.4), (0.5, 0.5))),
    mutant("an anchor that follows the student", trusting, (CONTRACTION,), apart((1.0, 0.0), (0.8, 0.2), (0.0, 1.0))),
    mutant(
        "a tenth for the first choice",
        first_choice,
        (CONTRACTION, FIXED),
        apart((0.51, 0.49), (0.49, 0.51), (0.5, 0.5)),
    ),
    mutant("a hundredth of uniform", drifting, (FIXED,), drifts),
    mutant("1e-4 moved to the next entry", moved, (FIXED,), drifts),
]
