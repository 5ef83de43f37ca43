"""Aggregators: ``K`` distributions and their weights become one distribution, the target of the student.

=============  =================================  ==========================================================
pool           unnormalised                       kept
=============  =================================  ==========================================================
`linear`       ``sum_k w_k p_k``                  convexity, best-teacher regret, unsafe mass at most the worst
`log_linear`   ``prod_k p_k^w_k``                 softening by a temperature, before or after
`power`        ``(sum_k w_k p_k^r)^(1/r)``        between: ``r = 1`` linear, ``r -> 0`` log-linear
=============  =================================  ==========================================================

For two teachers in general position, no pool keeps both convexity and softening unless it copies one of them. Zeros
are ``LOG_ZERO``: see each pool for what a zero of one teacher does to the others.
"""

import lazy_loader

# Files are named after the mean, functions after the pool: a module never hides the function of its own name.
# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
