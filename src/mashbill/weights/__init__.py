"""Weight rules, their product, and the guards that keep weights bounded and in order."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["bounds", "order", "published", "scorecard", "simplex"],
    submod_attrs={
        "compose": ["Conformed", "Product", "conform", "product"],
        "context": ["PartitionOfUnity", "RankedSafety"],
        "evidence": ["Declared", "Evidence", "WeightOperator"],
        "static": ["Static", "Uniform"],
        "task": ["InverseLoss", "Performance"],
        "token": ["EntropySoftmax", "InverseVariance"],
    },
)
