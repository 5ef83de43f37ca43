"""Weights that differ between classes of vocabulary entries, brought back to one weight a teacher and position.

A weight for every entry, ``u(i) = sum_k w_k(i) p_k(i)``, is no mixture: ``u`` sums to ``Z != 1``
(:func:`normaliser_bounds`), and divided by ``Z`` it can leave the teachers' convex hull, even where they all agree. So
the default here is to marginalise: :class:`TokenClasses` asks one rule for each class, and weighs the answers by how
likely the class is. The result is an ordinary rule.

Classes are declared for entries, ``0 ... C-1``; entries of no class (``-1``) are the class ``other``, which always
comes last. Log-weights by class have it as a last row, so that ``log_weights[class_id]`` is right for ``-1`` too.

Not covered here: weights by class that stay so. Renormalising them, projecting onto the hull and mixing by blocks need
distributions and are pools.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights import simplex
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.evidence import Declared, Evidence, WeightOperator
from mashbill.weights.promises import declared_of
from mashbill.weights.shares import Number
from mashbill.weights.static import Uniform

OTHER = "other"
_MOST_NATS = 60.0  # exp of it, times the mass of a class, stays far from overflow


@dataclass(frozen=True)
class TokenClasses:
    """One rule a class of entries, weighed by class mass: ``W_k = sum_c r(c) w_k(c)``.

    ``r(c)`` is the probability of class ``c`` under the plain mean of the teachers: continuous in them, and the same
    whatever the weights. The rules' weights are mixed, so everything convex that all of them keep is kept: normalised,
    common bounds, a common safety order, continuity.

    Certified: range from the least ``lowest`` to the largest ``highest`` of the rules; Lipschitz constant
    ``max_c L_c + (highest - lowest)/2`` where the rules' inputs move by at most 1 in their metrics and ``r`` moves by
    at most 1 in l1.

    Attributes:
        rules: ``{class: rule}``; a class is its name in ``classes``, its id, or ``"other"``. Classes that are left out
            follow the rule of ``"other"``, and that one is uniform if it is left out.
        classes: Names of the classes ``0 ... C-1``; optional where ``rules`` uses ids only.

    Raises:
        ValueError: No rule, a name that is not in ``classes``, or a class that is named twice. In a call: the evidence
            has another number of classes.

    Source:
        Ours, for arXiv 2601.17910, Definition III.7, whose token-dependent weights do not sum to a distribution.

    >>> from mashbill.weights.static import Static
    >>> careful = Static({"large": 0.2, "guarded": 0.8})
    >>> TokenClasses({"unsafe": careful}, classes=("unsafe",)).declared(2).highest
    0.8
    """

    rules: Mapping[str | int, WeightOperator]
    classes: tuple[str, ...] = ()

    scale: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("rules={} must give at least one class a rule")
        if len(set(self.classes)) < len(self.classes) or OTHER in self.classes:
            raise ValueError(f"classes={self.classes!r} must differ from each other and from {OTHER!r}")
        for name in self.rules:
            is_known = name == OTHER or (name in self.classes if isinstance(name, str) else name >= 0)
            if not is_known:
                raise ValueError(
                    f"rules names class {name!r}, which does not exist; there are {', '.join([*self.classes, OTHER])}"
                )
        ids = [self._index(name) for name in self.rules]
        if len(set(ids)) < len(ids):
            raise ValueError(f"rules={list(self.rules)} names a class twice, by name and by id; keep one")

    @property
    def needs(self) -> frozenset[str]:
        """Class masses, and what the rules read."""
        return frozenset({"class_mass"}).union(*(getattr(rule, "needs", frozenset()) for rule in self.rules.values()))

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        given = evidence.statistics.class_mass
        given = torch.where(evidence.mask.unsqueeze(-1), given, 0)  # positions that do not count may hold anything
        return marginalise(self.class_log_weights(evidence), mean_class_mass(given))

    def class_log_weights(self, evidence: Evidence) -> Float[Tensor, "C K B T"]:
        """Return every class's log-weights, ``other`` last: ``[C+1 K B T]`` for ``C`` declared classes.

        Raises:
            ValueError: The evidence has another number of classes than were named, or less than an id requires.
        """
        n_classes = evidence.statistics.class_mass.shape[-1]
        self._require_classes(n_classes)
        other = self.rules.get(OTHER, Uniform())
        chosen: list[WeightOperator] = [other] * (n_classes + 1)
        for name, rule in self.rules.items():
            chosen[self._index(name)] = rule
        shape = (evidence.n_teachers, *evidence.mask.shape)
        each = {id(rule): rule for rule in chosen}  # a rule that several classes follow is asked once
        answers = {key: simplex.log_normalise(rule(evidence), dim=0).expand(shape) for key, rule in each.items()}
        return torch.stack([answers[id(rule)] for rule in chosen])

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: a mean of the rules' weights, with shares that follow the teachers."""
        rules = list(self.rules.values()) + ([] if OTHER in self.rules else [Uniform()])
        parts = [declared_of(rule, n_teachers) for rule in rules]
        lowest, highest = min(part.lowest for part in parts), max(part.highest for part in parts)
        constants = [part.lipschitz for part in parts if part.lipschitz is not None]
        metrics = dict.fromkeys(part.metric for part in parts if part.lipschitz != 0)
        return Declared(
            lowest,
            highest,
            max(constants) + (highest - lowest) / 2 if len(constants) == len(parts) else None,
            "; ".join(["class mass of the mean teacher, l1", *metrics]),
            "a mean of weights: convex combination; |sum_c dr(c) w(c)| <= |dr|_1 (max w - min w)/2",
            reads_student=any(part.reads_student for part in parts),
            mixes_rows=any(part.mixes_rows for part in parts),
        )

    def _index(self, name: str | int) -> int:
        if name == OTHER:
            return -1
        return self.classes.index(name) if isinstance(name, str) else name

    def _require_classes(self, n_classes: int) -> None:
        if self.classes and len(self.classes) != n_classes:
            raise ValueError(
                f"classes={self.classes!r} names {len(self.classes)}, but the evidence has the mass of {n_classes}; "
                "declare the same classes where statistics are measured"
            )
        largest = max(self._index(name) for name in self.rules)
        if largest >= n_classes:
            raise ValueError(
                f"rules names class {largest}, but the evidence has the mass of {n_classes} classes; declare it where "
                "statistics are measured (`measure(..., classes=, n_classes=)`)"
            )


def mean_class_mass(class_mass: Float[Tensor, "K B T C"]) -> Float[Tensor, "B T C_and_other"]:
    """Return the mean teacher's probability of each class, with what is left as the class ``other`` at the end.

    Args:
        class_mass: Each teacher's probability of each declared class, as in ``Statistics.class_mass``.
    """
    mean = numerics.widen(class_mass).mean(dim=0)
    other = (1 - mean.sum(dim=-1, keepdim=True)).clamp_min(0)
    return torch.cat([mean, other], dim=-1)


def marginalise(log_weights: Float[Tensor, "C K B #T"], class_mass: Float[Tensor, "B T C"]) -> Float[Tensor, "K B T"]:
    """Bring weights by class back to one weight a teacher: ``log sum_c r(c) w_k(c)``.

    Linear in the masses, also in its gradient at a mass of 0; exact for weights far below the least positive number.

    Args:
        log_weights: Log-weights of each class, normalised over ``K``.
        class_mass: ``r(c)``, probabilities that sum to 1 over the classes, in the same order; a sum that is not 1 is
            divided out.

    Returns:
        Log-weights, normalised; float32 at least.

    >>> by_class = torch.tensor([[0.7, 0.3], [0.3, 0.7]]).log().reshape(2, 2, 1, 1)
    >>> marginalise(by_class, torch.tensor([[[0.6, 0.4]]])).exp().flatten().round(decimals=4).tolist()
    [0.5400000214576721, 0.46000000834465027]
    """
    logs = numerics.widen(log_weights)
    mass = numerics.widen(class_mass).to(logs.dtype).movedim(-1, 0).unsqueeze(1)  # [C 1 B T]
    # Relative to the largest weight among the classes that are possible; an impossible class may weigh more.
    possible = logs.detach().expand(*logs.shape[:3], mass.shape[-1]).masked_fill(mass <= 0, -torch.inf)
    largest = possible.amax(dim=0).clamp_min(numerics.LOG_ZERO)
    total = (mass * (logs - largest).clamp_max(_MOST_NATS).exp()).sum(dim=0)
    return simplex.log_normalise(largest + numerics.log_of(total), dim=0)


def normaliser_bounds(
    logprobs: Float[Tensor, "K *batch V"], *, w_min: Number, w_max: Number = 1.0
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the exact range of ``Z = sum_i sum_k w_k(i) p_k(i)`` over all weights by entry in the box.

    Every entry is a knapsack of its own: the least (largest) term gives the teachers least weight in the order of their
    probability, descending (ascending). Two teachers: ``1 -+ (1 - 2 w_min) TV``. Always within
    ``[K w_min, K w_max]``, and 1 only where all teachers agree or the box holds nothing but ``1/K``. For weights by
    class, give the logs of class masses that sum to 1 in place of entries.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        w_min: Least weight.
        w_max: Largest weight.

    Returns:
        Least and largest ``Z``; both are attained.

    Raises:
        ValueError: The box is empty for ``K``.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]]).log()
    >>> [round(float(bound), 4) for bound in normaliser_bounds(teachers, w_min=0.3)]
    [0.84, 1.16]
    """
    n_teachers = logprobs.shape[0]
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    rest = 1 - n_teachers * low
    given = [low + min(max(rest - k * (high - low), 0.0), high - low) for k in range(n_teachers)]
    ascending = numerics.widen(logprobs).exp().sort(dim=0).values.sum(dim=-1)
    greedy = ascending.new_tensor(given).reshape(-1, *[1] * (ascending.ndim - 1))
    return (greedy * ascending).sum(dim=0), (greedy.flip(0) * ascending).sum(dim=0)
