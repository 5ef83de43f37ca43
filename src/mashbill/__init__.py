"""Distil several teachers into one student, with weights that are checked, bounded and safe."""

import lazy_loader

__version__ = "0.1.0"

# Lazy, so that help and validation start without importing torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["distributions", "losses", "numerics", "pools", "shapes", "teachers", "weights"],
    submod_attrs={
        "distributions": ["soften"],
        "weights": ["conform", "order", "product", "simplex"],
    },
)
