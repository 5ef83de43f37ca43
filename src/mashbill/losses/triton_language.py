"""The language of the GPU kernels, and what they all know. Importing this needs no triton; calling a kernel does.

What a kernel knows of a row beforehand stands in its *record*, ``[7 N]`` float32, one for the student and one a
teacher:

====  =======================================================================================================
0     ``peak``: the largest score
1     ``log_norm``: ``log sum exp((z - peak) / T)``
2     ``floor``: scores up to here are probability 0
3     student: ``log_norm`` at ``T = 1``
4     student: the lowest score; top-k teacher: 1 if its tail has the student's shape, 0 if it is even
5     top-k teacher with a shaped tail: the student's peak outside the stored entries
6     top-k teacher: what to add to (student's score - that peak), or to 0, for a log-probability of the tail
====  =======================================================================================================

A log-sum-exp is never rounded together with the peak it belongs to.
"""

import importlib.util
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or importlib.util.find_spec("triton") is not None:
    import triton
    import triton.language as tl

    jit = triton.jit
    constant = tl.constexpr
else:
    # Tools that import every module shall not need triton; mashbill.losses.triton says what is missing.
    tl = SimpleNamespace(constexpr=Any)

    def jit(function):
        """Leave a function that nobody can call as it is."""
        return function

    def constant(value):
        """Leave a constant as it is."""
        return value


LOG_ZERO = constant(-1e4)  # numerics.LOG_ZERO
NOTHING = constant(-1e30)  # below every log-probability, and finite: differences of two of them are not NaN
LOWEST = constant(-3.4028234663852886e38)
