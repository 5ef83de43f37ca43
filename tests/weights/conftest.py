"""Evidence for rules to read."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, Statistics, measure
from mashbill.weights.evidence import Evidence

APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64)


def evidence_of(probabilities: torch.Tensor, **changes) -> Evidence:
    """Return the evidence of teachers with distributions ``[K V]``, ``[K T V]`` or ``[K B T V]``."""
    while probabilities.ndim < 4:
        probabilities = probabilities.unsqueeze(1)
    each = [measure(Dense.from_probs(p)) for p in probabilities]
    names = tuple(f"t{k}" for k in range(len(each)))
    plain = Evidence.plain(names, Statistics.stack(each), n_entries=probabilities.shape[-1])
    return replace(plain, **changes)


@pytest.fixture
def appendix() -> Callable[..., Evidence]:
    """Evidence of the two teachers of Appendix A at one position."""
    return lambda **changes: evidence_of(APPENDIX_A, **changes)


@pytest.fixture
def make_evidence() -> Callable[..., Evidence]:
    """``make_evidence(probabilities, **changes)``."""
    return evidence_of


@pytest.fixture
def random_evidence() -> Callable[..., Evidence]:
    """``random_evidence(n_teachers, n_rows, n_positions, n_entries, seed, **changes)``."""

    def make(n_teachers=3, n_rows=4, n_positions=5, n_entries=6, *, seed=0, dtype=torch.float64, **changes) -> Evidence:
        generator = torch.Generator().manual_seed(seed)
        shape = (n_teachers, n_rows, n_positions, n_entries)
        logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        return evidence_of(logits.softmax(dim=-1).to(dtype), **changes)

    return make
