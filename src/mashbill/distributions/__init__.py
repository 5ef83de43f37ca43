"""Distributions over one vocabulary: dense, or the top entries and the mass of the rest."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["soften"],
    submod_attrs={
        "dense": ["Dense"],
        "topk": ["TopK"],
        "statistics": ["Statistics", "measure", "measure_logits"],
    },
)
