"""What the files of a run directory say, as checked values.

Unknown keys are left alone, so that a newer run can still be shown; missing or wrong ones are errors.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Weights = dict[str, float]


class Part(BaseModel):
    """A part of a file: values never change."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Interval(Part):
    """A value with its confidence interval; an end is None where the sample is too small to give one."""

    value: float
    low: float | None = None
    high: float | None = None


class DataFile(Part):
    """One data file of the run."""

    rows: int
    sha256: str = ""


class TeacherIdentity(Part):
    """Who a teacher is; each kind of teacher adds facts of its own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    kind: str = ""
    source: str = ""
    package: str = ""
    version: str = ""
    sha256: str = ""

    @property
    def others(self) -> dict[str, object]:
        """The further facts."""
        return dict(self.model_extra or {})


class StudentIdentity(Part):
    """Who the student is."""

    kind: str = ""
    n_parameters: int | None = None
    source: str | None = ""


class TeacherHeard(Part):
    """How much of a teacher the training rows heard; None where it does not apply."""

    n_positions: int
    answered: float
    kept: float
    mapped: float | None = None
    samples: float | None = None
    single: float | None = None
    error: float | None = None
    tail: tuple[float, float] | None = None

    @property
    def is_partial(self) -> bool:
        """Whether it was silent somewhere, or heard in another way than by probabilities of the student's entries."""
        return self.answered < 1 or any(one is not None for one in (self.mapped, self.samples, self.tail))


class Run(Part):
    """``run.json``: what ran, where, and whether it ended."""

    mashbill: str = ""
    torch: str = ""
    transformers: str = ""
    python: str = ""
    platform: str = ""
    device: str = ""
    seed: int | None = None
    started: str | None = None
    finished: str | None = None
    resumes: int = 0
    status: Literal["finished", "running", "interrupted", "stopped"]
    recipe_sha256: str = ""
    data: dict[str, DataFile] = {}
    teachers: list[TeacherIdentity] = []
    refused: dict[str, dict[str, int]] = {}
    student: StudentIdentity = StudentIdentity()
    heard: dict[str, TeacherHeard] = {}
    tasks: list[str] = []
    contexts: list[str] = []
    step_seconds: float | None = None
    train_seconds: float | None = None
    teacher_seconds: float | None = None
    peak_memory_mb: float | None = None


class StepWeights(Part):
    """Mean weight of each teacher at one step: over all rows, and by task and context."""

    all: Weights = {}
    task: dict[str, Weights] = {}
    context: dict[str, Weights] = {}


class Evaluation(Part):
    """An evaluation during training."""

    set: str
    loss: float | None = None
    accuracy: float | None = None


class Record(Part):
    """One line of ``records.jsonl``: a training step, or an evaluation at a step."""

    step: int
    epoch: float | None = None
    n_tokens: int | None = None
    loss: float | None = None
    divergence: float | None = None
    cross_entropy: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None
    kl_to_teacher: Weights = {}
    disagreement: float | None = None
    weights: StepWeights = StepWeights()
    evaluation: Evaluation | None = None
    resumed: bool = False


class Bin(Part):
    """One bin of a reliability diagram: mean confidence and accuracy of the ``n`` rows in it."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


class Entry(Part):
    """One measured result: who, on which set, over which rows."""

    set: str
    who: str
    by: Literal["all", "task", "context"]
    name: str
    n: int
    n_rows: int | None = None
    loss: Interval | None = None
    accuracy: Interval | None = None
    perplexity: Interval | None = None
    calibration_error: float | None = None
    reliability: list[Bin] = []
    safety: Interval | None = None
    n_critical: int = 0


class Paired(Part):
    """The difference ``first - second`` on the same rows."""

    set: str
    first: str
    second: str
    accuracy: Interval
    loss: Interval


class Result(Part):
    """``result.json``: the final evaluation."""

    kind: Literal["classifier", "causal_lm"]
    primary: Literal["accuracy", "perplexity"]
    confidence: float = 0.95
    entries: list[Entry]
    paired: list[Paired] = []


class Answer(Part):
    """What one teacher said at one position."""

    top: str
    probability: float


class Example(Part):
    """One row, token by token (a classifier's text is one token): who counted how much, and who said what."""

    set: str = ""
    row_id: str | int = ""
    task: str = ""
    context: str = ""
    tokens: list[str] = Field(min_length=1)
    labels: list[str | None]
    weights: list[Weights]
    dominant: list[str]
    disagreement: list[float]
    student: list[str | None]
    student_probability: list[float | None]
    teachers: list[dict[str, Answer]]

    @model_validator(mode="after")
    def _aligned(self) -> "Example":
        lists = ("labels", "weights", "dominant", "disagreement", "student", "student_probability", "teachers")
        for name in lists:
            if len(getattr(self, name)) != len(self.tokens):
                raise ValueError(f"`{name}` has {len(getattr(self, name))} items for {len(self.tokens)} tokens")
        return self


class ArmRun(Part):
    """One arm with one seed."""

    entries: list[Entry]
    train_seconds: float | None = None
    n_tokens: int | None = None


class Gap(Part):
    """A paired difference, its sign at each seed, and whether interval and seeds agree that there is one."""

    difference: Interval
    signs: list[int] = []
    is_clear: bool


class AgainstMain(Part):
    """The difference ``main - arm`` on some rows of a set, averaged over seeds."""

    arm: str
    set: str
    by: Literal["all", "task"]
    name: str
    accuracy: Gap
    loss: Gap


class Comparison(Part):
    """``comparison.json``: every arm with every seed."""

    seeds: list[int] = []
    primary: Literal["accuracy", "perplexity"]
    arms: dict[str, dict[str, ArmRun]]
    against_main: list[AgainstMain] = []


class Cell(Part):
    """Measured skill of one teacher on one task and context; None means pooled over it."""

    teacher: str
    task: str | None = None
    context: str | None = None
    n: int
    loss: Interval | None = None
    accuracy: Interval | None = None
    calibration_error: float | None = None
    safety: Interval | None = None
    n_critical: int = 0


class PairTest(Part):
    """What the sample says about the safety of two teachers in one context."""

    context: str
    safer: str
    less_safe: str
    decision: Literal["certified", "implied", "undecided"]
    test: str
    n: int
    wins: int
    losses: int
    gap: float
    p_value: float
    level: float


class Scorecard(Part):
    """``scorecard.json``: each teacher's measured skill, and the certified order over safety."""

    teachers: list[str]
    tasks: list[str] = []
    contexts: list[str] = []
    confidence: float = 0.95
    cells: list[Cell]
    orders: dict[str, list[tuple[str, str]]] = {}
    tests: list[PairTest] = []
