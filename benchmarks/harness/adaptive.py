"""What weights that depend on the position cost beside weights that are given."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from harness import clock
from harness.check import TOLERANCE, distance
from harness.forms import Inputs, Shape, make
from harness.variants import ours, run
from mashbill.distributions.statistics import Statistics, measure, measure_logits
from mashbill.losses.asking import Weigh
from mashbill.weights.evidence import Evidence
from mashbill.weights.places import between
from mashbill.weights.token import EntropySoftmax


def adaptive_cost(shape: Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the loss with one weight a teacher, and with a rule that gives weights from the entropies at each position.

    Raises:
        RuntimeError: The rule's gradient is not that of the same weights, given.
    """
    loss = partial(ours, impl=arguments.impl)
    require_same(shape.small(), loss, divergence=arguments.divergence, device=arguments.device)
    inputs = make(shape, divergence=arguments.divergence, device=arguments.device)
    rule = entropy_rule(inputs, n_entries=shape.entries)
    work = {
        "fixed": lambda: run(loss, inputs),
        "adaptive": lambda: run(partial(loss, log_weights=rule), inputs),
    }
    samples = clock.interleaved(work, repeats=arguments.repeats, device=arguments.device)
    walls = {name: clock.quartiles([wall for wall, _ in each]) for name, each in samples.items()}
    record = {"mode": "adaptive", "shape": asdict(shape), "divergence": arguments.divergence, "impl": arguments.impl}
    # Round by round: what disturbs the machine for longer than a round disturbs both.
    rounds = zip(samples["fixed"], samples["adaptive"], strict=False)  # one may have run out of patience first
    above = [100 * (adaptive / fixed - 1) for (fixed, _), (adaptive, _) in rounds]
    record |= {"fixed_s": walls["fixed"], "adaptive_s": walls["adaptive"], "above_percent": clock.quartiles(above)}
    return record


def require_same(shape: Shape, loss: Callable[..., torch.Tensor] = ours, *, divergence: str, device: str) -> None:
    """Raise ``RuntimeError`` unless the rule has the gradient of the weights that it stands for, measured apart."""
    inputs = make(shape, divergence=divergence, device=device)
    rule = entropy_rule(inputs, n_entries=shape.entries)
    weights = entropy_weights(inputs, n_entries=shape.entries)
    error = distance(*(run(partial(loss, log_weights=each), inputs) for each in (rule, weights)))
    # A number that is none must count as wrong.
    if not error <= TOLERANCE:
        raise RuntimeError(f"{shape.form}: the gradient by a rule is {error:.1e} off that by the same weights, given")


def entropy_rule(inputs: Inputs, *, n_entries: int) -> Weigh:
    """Return ``softmax_k(-H_k / ln V)`` as a rule, which a user makes once."""
    return between(EntropySoftmax(), Evidence.unread(_names(inputs), inputs.mask, n_entries=n_entries))


@torch.no_grad()
def entropy_weights(inputs: Inputs, *, n_entries: int) -> torch.Tensor:
    """Return the same weights from statistics that are measured apart, ``[K 1 N]``."""
    pairs = zip(inputs.teacher_hidden, inputs.teacher_heads, strict=True)
    logits = [*inputs.teacher_logits, *(hidden @ head.T for hidden, head in pairs)]
    each = [*map(measure, inputs.stored), *map(measure_logits, logits)]
    return EntropySoftmax()(Evidence.plain(_names(inputs), Statistics.stack(each), n_entries=n_entries))


def _names(inputs: Inputs) -> tuple[str, ...]:
    return tuple(f"teacher {k}" for k in range(len(inputs.log_weights)))
