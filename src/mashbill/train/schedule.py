"""The learning rate as a pure function of the step: nothing to save, nothing to lose in a resume."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    kind: Literal["constant", "linear", "cosine"],
    warmup_steps: int,
    max_steps: int,
) -> float:
    """Learning rate of one optimiser step.

    Rises as ``peak (step + 1) / (warmup_steps + 1)``, so that the first step already learns; then falls from ``peak``
    towards 0, which it would reach at ``max_steps``, one step after the last.

    Args:
        step: Optimiser steps already taken, from 0.
        peak: Highest rate.
        kind: Shape of the fall: none, straight, or half a cosine.
        warmup_steps: Length of the rise.
        max_steps: Length of the whole run.

    >>> [learning_rate(s, peak=1.0, kind="linear", warmup_steps=1, max_steps=5) for s in range(5)]
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    passed = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    if kind == "linear":
        return peak * (1 - passed)
    if kind == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * passed))
    return peak
