"""Two weight rules of ten lines: one is a dataclass with an option, one is a plain function."""

from dataclasses import dataclass

import torch

from mashbill.weights import Evidence


@dataclass(frozen=True)
class Agreement:
    """Trust the teacher that is nearest to what all say together: ``softmax_k(-sharpness KL(p_k || mean))``."""

    sharpness: float = 1.0

    needs = frozenset({"divergence:mean"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        """Return log-weights, one for each teacher, row and position."""
        return torch.log_softmax(-self.sharpness * evidence.given("divergence:mean"), dim=0)


def confidence(evidence: Evidence, *, power: float = 1.0) -> torch.Tensor:
    """Trust the teacher whose likeliest entry is likeliest: weights in proportion to ``max p_k`` to some power."""
    return torch.log_softmax(power * evidence.statistics.max_logprob, dim=0)


MASHBILL_PLUGINS = {"weights": {"agreement": Agreement, "confidence": confidence}}
