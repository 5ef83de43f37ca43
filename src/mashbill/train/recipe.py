"""The recipe: one strict YAML file that says everything about a run.

Keys under ``train`` have the names that users of the Hugging Face trainer know. Values are checked here as far as they
can be without opening a model: types, ranges, and whether parts fit together. This module does not import torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mashbill.teachers.endpoint.settings import require_url, require_variable
from mashbill.train.classes import ClassName, Entries


def _filled(value: Any) -> Any:
    if value == "":
        raise ValueError("must not be empty: `.` is this recipe's own folder")
    return value


# Sections are strict: a quoted number is text, and `yes` is no boolean. Paths and pairs have no YAML form of their own.
FilePath = Annotated[Path, BeforeValidator(_filled), Field(strict=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[\w.\-]+$")]


class Section(BaseModel):
    """Part of a recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Peft(Section):
    """LoRA adapters on the student, through ``peft``."""

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: Probability = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class Student(Section):
    """Who learns: a saved model, a causal LM from a configuration, or a classifier architecture by name."""

    kind: Literal["causal_lm", "classifier"]
    model: FilePath | None = None
    gguf_file: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: FilePath | None = None
    architecture: Name | None = None
    options: dict[str, Any] = {}
    labels: list[str] | FilePath | None = None
    peft: Peft | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Student":
        given = [name for name in ("model", "config", "architecture") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of `model`, `config`, `architecture`; got {given or 'none'}")
        if self.config is not None and (self.kind != "causal_lm" or self.tokenizer is None):
            raise ValueError("`config` builds a causal_lm from scratch and needs `tokenizer`")
        if self.kind == "classifier" and self.model is None and self.labels is None:
            raise ValueError("a classifier without `model` needs `labels`")
        return self


class Endpoint(Section):
    """A model behind an HTTP interface like OpenAI's. No secret stands here, only where one is."""

    url: Annotated[str, AfterValidator(require_url)]
    model: Annotated[str, Field(min_length=1)]
    form: Literal["auto", "vllm", "sglang", "completions", "steps", "chat"] = "auto"
    key_variable: Annotated[str, AfterValidator(require_variable)] | None = None
    concurrency: int = Field(default=8, ge=1, le=1024)
    retries: int = Field(default=5, ge=0)
    retry_budget: int = Field(default=10_000, ge=0)
    timeout: Positive = 120.0
    top_logprobs: int = Field(default=20, ge=1)


class Align(Section):
    """What a teacher with a tokenizer of its own must at least be heard to say."""

    min_mapped: Probability = 0.5
    min_positions: Probability = 0.5


_ORIGINS = {"model": "a local model", "plugin": "a plug-in", "endpoint": "a model behind HTTP", "samples": "its text"}


class Teacher(Section):
    """One teacher: a local model, a plug-in by name, an endpoint, or what one of them said before, from a store."""

    id: Name
    model: FilePath | None = None
    gguf_file: str | None = None
    adapter: FilePath | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = "cpu"
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, str | int] | None = None
    off_load: Literal["auto", "cpu", "drop", "never"] = "auto"
    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = Field(default=16, ge=1)
    top_k: int | None = Field(default=64, ge=1)
    plugin: Name | None = None
    endpoint: Endpoint | None = None
    samples: FilePath | None = None
    smoothing: Annotated[float, Field(ge=0)] = 0.0
    options: dict[str, Any] = {}
    labels: dict[str, str] = {}
    outside: Literal["condition", "tail"] = "condition"
    align: Align | None = None
    at_temperature: Literal["refuse", "bound"] = "refuse"
    store: FilePath | None = None
    refused: Literal["error", "drop"] = "error"

    @model_validator(mode="after")
    def _one_origin(self) -> "Teacher":
        given = [name for name in _ORIGINS if getattr(self, name) is not None]
        known = [f"`{name}` ({what})" for name, what in _ORIGINS.items()]
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(known[:-1])} and {known[-1]}")
        if not given and self.store is None:
            raise ValueError(f"give one of {', '.join(known)} and `store` (captured answers)")
        return self

    @property
    def can_be_asked(self) -> bool:
        """Whether there is somebody to ask, and not only what was answered before."""
        return any(getattr(self, name) is not None for name in _ORIGINS)


class Data(Section):
    """Rows, and which columns mean what."""

    train: FilePath
    eval: dict[Name, FilePath] = {}
    scorecard: FilePath | None = None
    format: Literal["text", "messages", "prompt_completion", "classification"]
    id_column: str = "id"
    text_column: str = "text"
    label_column: str = "label"
    task_column: str | None = None
    context_columns: list[str] = []
    feature_columns: list[str] = []
    variance_columns: dict[Name, str] = {}
    teacher_column: str | None = None
    critical_column: str | None = None
    max_length: int = Field(default=512, ge=2)


_OPTION_OF = {"beta": ("js",), "skew": ("skew_kl", "reverse_skew_kl"), "alpha": ("alpha",)}


class Divergence(Section):
    """How far the student is from the pooled target; `beta`, `skew` and `alpha` each belong to some divergences."""

    name: Literal["forward_kl", "reverse_kl", "js", "skew_kl", "reverse_skew_kl", "alpha", "total_variation"] = (
        "forward_kl"
    )
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    skew: float | None = Field(default=None, gt=0, lt=1)
    alpha: float | None = Field(default=None, gt=0, lt=1)
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0

    @model_validator(mode="after")
    def _takes_its_option(self) -> "Divergence":
        for option, names in _OPTION_OF.items():
            if option in self.given and self.name not in names:
                owners = " and ".join(f"`{name}`" for name in names)
                raise ValueError(f"`{option}` is an option of {owners}; leave it out for `{self.name}`")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """Options that stand in the recipe; the loss has defaults for the others."""
        return {
            key: getattr(self, key)
            for key in _OPTION_OF
            if key in self.model_fields_set and getattr(self, key) is not None
        }


class Distill(Section):
    """The loss."""

    divergence: Divergence = Divergence()
    pool: Literal["linear", "log_linear"] = "linear"
    tail: Literal["student", "even"] = "student"
    cross_entropy: Probability = 0.0


class Rule(BaseModel):
    """A weight rule by plug-in name; every other key is an option of the rule."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    rule: Name

    @property
    def options(self) -> dict[str, Any]:
        """The rule's own options."""
        return dict(self.model_extra or {})


class Temperatures(Section):
    """Exponents ``1/T`` of the scales in the product; ``sum 1/T <= 1`` keeps the scales' own lower bounds."""

    token: Positive = 1.0
    task: Positive = 1.0
    context: Positive = 1.0


class Weighting(Section):
    """How much each teacher counts; a scale that is left out counts all teachers alike."""

    token: Rule | None = None
    task: Rule | None = None
    context: Rule | None = None
    temperatures: Temperatures = Temperatures()
    bounds: Annotated[tuple[Probability, Probability], Field(strict=False)] | None = None
    guard: Literal["kl", "l2", "squash"] = "kl"
    order: Literal["scorecard"] | list[Annotated[tuple[Name, Name], Field(strict=False)]] | None = None


class Critical(Section):
    """Rows whose failures weigh most; the safety measure is the student's success on these rows alone."""

    labels: list[str] = []
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Sampling(Section):
    """The deployment mix to train for: share of each task and of each context; what is left out keeps its share."""

    task: dict[str, Annotated[float, Field(ge=0)]] = {}
    context: dict[str, Annotated[float, Field(ge=0)]] = {}


class Train(Section):
    """Training arguments, under the names of ``transformers.TrainingArguments``."""

    max_steps: int | None = Field(default=None, ge=1)
    num_train_epochs: int = Field(default=1, ge=1)
    per_device_train_batch_size: int = Field(default=16, ge=1)
    per_device_eval_batch_size: int = Field(default=64, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    max_grad_norm: Positive = 1.0
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    bf16: bool = False
    seed: int = Field(default=0, ge=0)
    logging_steps: int = Field(default=10, ge=1)
    eval_steps: int | None = Field(default=None, ge=1)
    save_steps: int | None = Field(default=None, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    early_stopping_patience: int | None = Field(default=None, ge=1)


class Capture(Section):
    """How `mashbill capture` asks teachers that have a `store`, and what it keeps."""

    k: int = Field(default=64, ge=1)
    mass: Annotated[float, Field(gt=0, le=1)] | None = None
    unit: Annotated[float, Field(ge=2**-20, le=1)] = 2**-11
    shard_positions: int = Field(default=2**14, ge=1)
    threads: int = Field(default=1, ge=1)


class Compare(Section):
    """Runs to set beside the main one: every arm, and the main run, with every seed."""

    seeds: list[int] = []
    arms: dict[Name, dict[str, Any]] = {}


class Recipe(Section):
    """A whole run."""

    version: Literal[1]
    student: Student
    teachers: list[Teacher] = Field(min_length=1)
    data: Data
    distill: Distill = Distill()
    weighting: Weighting = Weighting()
    critical: Critical | None = None
    sampling: Sampling = Sampling()
    train: Train = Train()
    classes: dict[ClassName, Entries] = {}
    capture: Capture = Capture()
    compare: Compare | None = None
    output: FilePath
    report_to: list[str] = []
