"""What is minimised, as one value, and what a call returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from mashbill.distributions.statistics import Statistics
from mashbill.losses import divergence
from mashbill.shapes import Float, Tensor

DivergenceName = Literal["forward_kl", "reverse_kl", "js", "skew_kl", "reverse_skew_kl", "alpha", "total_variation"]
PoolName = Literal["linear", "log_linear"]
Tail = Literal["student", "even"]

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 1e3
"""Above, ``D`` falls with ``1 / T^2`` to the rounding of float32, and ``T^2 D`` is noise; below, entries 10 nats under
the largest are at the floor of a log-probability, where no gradient is left."""

_PLAIN: dict[DivergenceName, Callable[..., Tensor]] = {
    "forward_kl": divergence.forward_kl,
    "reverse_kl": divergence.reverse_kl,
    "js": divergence.js,
    "skew_kl": divergence.skew_kl,
    "reverse_skew_kl": divergence.reverse_skew_kl,
    "alpha": divergence.alpha_divergence,
    "total_variation": divergence.total_variation,
}
_OPTIONS = {"js": "beta", "skew_kl": "skew", "reverse_skew_kl": "skew", "alpha": "alpha"}


@dataclass(frozen=True)
class Objective:
    """The options of a distillation loss: ``(1 - c) T^2 D(q_T, p_{S,T}) + c CE`` at each position.

    Teachers are softened first and pooled afterwards; only the log-linear pool would not care.

    Attributes:
        divergence: ``D``, a function of :mod:`mashbill.losses.divergence`.
        beta: Middle of the Jensen-Shannon divergence; 0 is the forward KL, 1 the reverse KL.
        temperature: ``T`` of teachers and student in the divergence, from 0.001 to 1000; the cross-entropy is at
            ``T = 1``. In float32 the value is good to about ``1e-7 T^2`` of itself, the gradient to ``1e-6 T``.
        pool: How the teachers become one target ``q``.
        tail: Shape of the mass that a top-k teacher did not store: the student's own (so that only the size of the
            tail teaches), or even.
        cross_entropy: ``c``, the share of the cross-entropy against labels, a probability.
        scale: Factor on the whole, usually 1 over the number of positions of the global batch. Given here it costs
            nothing; as a factor on the result it costs a second gradient in memory.
        skew: Share of the first argument in the second one of a skew KL divergence; 0 is the KL divergence itself.
        alpha: Order of the alpha-divergence; 1 is the forward KL, 0 the reverse KL, 1/2 four times the squared
            Hellinger distance.

    Raises:
        ValueError: An option is outside its range.
    """

    divergence: DivergenceName = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    pool: PoolName = "linear"
    tail: Tail = "student"
    cross_entropy: float = 0.0
    scale: float = 1.0
    skew: float = 0.1
    alpha: float = 0.5

    def __post_init__(self) -> None:
        for name, legal in (("divergence", DivergenceName), ("pool", PoolName), ("tail", Tail)):
            if getattr(self, name) not in get_args(legal):
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(get_args(legal))}")
        if not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise ValueError(
                f"temperature={self.temperature!r} must lie in [{LEAST_TEMPERATURE:g}, {MOST_TEMPERATURE:g}], beyond "
                "which rounding is larger than the loss"
            )
        if not 0 <= self.cross_entropy <= 1:
            raise ValueError(f"cross_entropy={self.cross_entropy!r} is a share and must lie in [0, 1]")
        for name, check in (
            ("beta", divergence.check_beta),
            ("skew", divergence.check_skew),
            ("alpha", divergence.check_alpha),
        ):
            check(getattr(self, name))

    @property
    def kind(self) -> DivergenceName:
        """The divergence to compute, with the ends of its option resolved: several are a KL divergence there."""
        match self.divergence, self.beta, self.skew, self.alpha:
            case ("js", 0, _, _) | ("skew_kl", _, 0, _) | ("alpha", _, _, 1):
                return "forward_kl"
            case ("js", 1, _, _) | ("reverse_skew_kl", _, 0, _) | ("alpha", _, _, 0):
                return "reverse_kl"
        return self.divergence

    @property
    def reads_teachers(self) -> bool:
        """Whether the teachers matter at all; with cross-entropy alone they are not read, and ``D`` counts as 0."""
        return self.cross_entropy < 1

    @property
    def divergence_weight(self) -> float:
        """Factor on the divergence: ``(1 - c) T^2`` times ``scale``."""
        return (1 - self.cross_entropy) * self.temperature**2 * self.scale

    @property
    def cross_entropy_weight(self) -> float:
        """Factor on the cross-entropy: ``c`` times ``scale``."""
        return self.cross_entropy * self.scale

    def distance(self, target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"]) -> Tensor:
        """Return the plain divergence of log-probabilities, one a position, nats; total variation is a probability."""
        option = _OPTIONS.get(self.kind)
        return _PLAIN[self.kind](target, student, **({option: getattr(self, option)} if option else {}))


@dataclass(frozen=True)
class LossOutput:
    """A loss and what it is made of.

    Attributes:
        total: Scalar with gradient: ``scale`` times the *sum* over positions that count of
            ``(1 - c) T^2 D + c CE``. Sums add up over micro-batches and processes; means do not.
        divergence: ``D`` at each position in nats (total variation: a probability), without ``T^2``; 0 where masked
            or without weight. No gradient.
        cross_entropy: Cross-entropy at each position in nats; 0 where masked or without a label. No gradient.
        seen: What was read on the way; None unless it was asked for.
    """

    total: Float[Tensor, ""]
    divergence: Float[Tensor, "B T"]
    cross_entropy: Float[Tensor, "B T"]
    seen: "Seen | None" = None


@dataclass(frozen=True)
class Seen:
    """What a loss read on the way, at temperature 1 and without gradient; 0 where masked.

    Attributes:
        teachers: Statistics of each teacher, ``[K B T]``; a top-k's tail counts as spread evenly.
        student: Statistics of the student, ``[B T]``.
        log_weights: As used, ``[K B T]``, or ``[C K B T]`` by class.
    """

    teachers: Statistics
    student: Statistics
    log_weights: Float[Tensor, "*classes K B T"]
