"""Evidence that says nothing but the labels' log-probabilities, for rules that read only them."""

from dataclasses import fields, replace

import torch

from mashbill.distributions import Statistics
from mashbill.weights.evidence import Evidence

DOUBLE = torch.float64


def evidence_of(label_logprob: torch.Tensor, **changes) -> Evidence:
    """Return the evidence of labels' log-probabilities ``[K B T]``."""
    n_teachers, n_rows, n_positions = label_logprob.shape
    given = {"label_logprob": label_logprob, "class_mass": label_logprob.new_zeros(n_teachers, n_rows, n_positions, 0)}
    zeros = torch.zeros_like(label_logprob)
    statistics = Statistics(**{field.name: given.get(field.name, zeros) for field in fields(Statistics)})
    names = tuple(f"t{k}" for k in range(n_teachers))
    return replace(Evidence.plain(names, statistics, n_entries=10), **changes)


def random_logprobs(*shape: int, seed: int = 0, spread: float = 3.0, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    """Return numbers between ``-spread`` and 0."""
    generator = torch.Generator().manual_seed(seed)
    return -(spread * torch.rand(shape, generator=generator, dtype=DOUBLE)).to(dtype)
