"""Losses that move a student towards several weighted teachers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "call": ["distillation_loss"],
        "diagnose": ["Diagnostics", "diagnose"],
        "divergence": ["forward_kl", "js", "reverse_kl"],
        "objective": ["LossOutput", "Objective"],
    },
)
