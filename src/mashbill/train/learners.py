"""Rules that learn while the student does: finding them in an operator, showing them each step, keeping their state.

A rule learns in ``observe`` alone, once after each optimiser step. Its tensors go into the checkpoints beside the
student's, so a run that is killed and resumed ends with the same weights as one that is not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch

from mashbill.losses.diagnostics import diagnose
from mashbill.shapes import Tensor
from mashbill.train.checkpoint import RULES
from mashbill.train.step import Lesson, Outcome
from mashbill.weights.evidence import Learner, Observation, WeightOperator


def learners_of(operator: WeightOperator) -> dict[str, Learner]:
    """Return the rules that learn, by where they stand in the operator, e.g. ``{"task": ...}``."""
    return dict(_walk(operator, ()))


def state_of(operator: WeightOperator) -> dict[str, Tensor]:
    """Return the tensors that the rules learn, the rules' own and not copies, by name."""
    return {
        f"{RULES}{place}/{name}": tensor
        for place, learner in learners_of(operator).items()
        for name, tensor in getattr(learner, "state_dict", dict)().items()
    }


def load_state(operator: WeightOperator, saved: Mapping[str, Tensor]) -> None:
    """Put back what the rules had learnt, out of everything that a checkpoint holds."""
    for place, learner in learners_of(operator).items():
        prefix = f"{RULES}{place}/"
        own = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
        if hasattr(learner, "load_state_dict"):
            learner.load_state_dict(own)  # pyright: ignore[reportAttributeAccessIssue]


def show(lesson: Lesson, outcome: Outcome, *, step: int) -> None:
    """Show a finished optimiser step to every rule that learns."""
    learners = learners_of(lesson.operator)
    if not learners:
        return
    distances = diagnose(
        outcome.logits,
        [each.distribution for each in outcome.scored],
        outcome.log_weights,
        mask=outcome.batch.mask,
        tail=lesson.distill.tail,
    ).kl_to_teacher
    losses = distances.to(outcome.evidence.statistics.entropy.device)
    observation = Observation(step, outcome.evidence, outcome.log_weights.to(losses.device), losses)
    for learner in learners.values():
        learner.observe(observation)


def _walk(thing: object, place: tuple[str, ...]) -> Iterator[tuple[str, Learner]]:
    if isinstance(thing, Learner) and not isinstance(thing, type):
        yield ".".join(place) or "operator", thing
    elif is_dataclass(thing) and not isinstance(thing, type):
        for each in fields(thing):
            yield from _walk(getattr(thing, each.name), (*place, each.name))
    elif isinstance(thing, Mapping):
        for name, inner in thing.items():
            yield from _walk(inner, (*place, str(name)))
    elif isinstance(thing, Sequence) and not isinstance(thing, str | bytes | torch.Tensor):
        for number, inner in enumerate(thing):
            yield from _walk(inner, (*place, str(number)))
