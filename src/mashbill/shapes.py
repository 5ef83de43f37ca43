"""The letters that name tensor axes, and the tensor types built from them.

Axes, used everywhere and redefined nowhere:

====  ==========================================================
K     teachers
B     sequences (rows) in a batch
T     positions in a sequence; a classifier has one
V     vocabulary entries, or labels of a classifier
S     entries stored of a distribution (the top ``k``)
C     declared classes of vocabulary entries
M     tasks
D     declared contexts
F     numeric context features
====  ==========================================================

The names are checked in the test suite only; production pays nothing for them.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Logits = Float[Tensor, "*batch V"]
LogProbs = Float[Tensor, "*batch V"]
TeacherLogProbs = Float[Tensor, "K *batch V"]
LogWeights = Float[Tensor, "K B #T"]
Weights = Float[Tensor, "K B #T"]
PerPosition = Float[Tensor, "*batch"]
PositionMask = Bool[Tensor, "B T"]
RowIndex = Int[Tensor, " B"]

__all__ = [
    "Bool",
    "Float",
    "Int",
    "LogProbs",
    "LogWeights",
    "Logits",
    "PerPosition",
    "PositionMask",
    "RowIndex",
    "TeacherLogProbs",
    "Tensor",
    "Weights",
]
