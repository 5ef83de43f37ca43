"""What weights that depend on the position cost beside weights that are given."""

import argparse
from dataclasses import asdict
from typing import Any

import torch

from harness import clock
from harness.forms import Inputs, Shape, make
from harness.variants import ours, run
from mashbill.distributions.statistics import Statistics, measure, measure_logits
from mashbill.weights.evidence import Evidence
from mashbill.weights.token import EntropySoftmax


class AdaptiveByHiddenStatesError(Exception):
    """The library cannot do this yet."""


def adaptive_cost(shape: Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the loss with one weight a teacher, and with weights from the entropies at each position."""
    inputs = make(shape, divergence=arguments.divergence, device=arguments.device)
    record = {"mode": "adaptive", "shape": asdict(shape), "divergence": arguments.divergence}
    work = {
        "fixed": lambda: run(ours, inputs),
        "adaptive": lambda: run(lambda given: ours(given, log_weights=entropy_weights(given)), inputs),
    }
    try:
        samples = clock.interleaved(work, repeats=arguments.repeats, device=arguments.device)
    except AdaptiveByHiddenStatesError:
        return {**record, "note": "statistics of hidden states are not measured apart from the loss"}
    walls = {name: clock.quartiles([wall for wall, _ in each]) for name, each in samples.items()}
    return {**record, "fixed_s": walls["fixed"], "adaptive_s": walls["adaptive"]}


@torch.no_grad()
def entropy_weights(inputs: Inputs) -> torch.Tensor:
    """Return ``softmax_k(-H_k / ln V)`` at each position, ``[K 1 N]``."""
    if inputs.teacher_hidden:
        raise AdaptiveByHiddenStatesError
    if inputs.stored:
        each, n_entries = [measure(one) for one in inputs.stored], inputs.stored[0].n_entries
    else:
        each, n_entries = [measure_logits(one) for one in inputs.teacher_logits], inputs.teacher_logits[0].shape[-1]
    names = tuple(f"teacher {k}" for k in range(len(each)))
    return EntropySoftmax()(Evidence.plain(names, Statistics.stack(each), n_entries=n_entries))
