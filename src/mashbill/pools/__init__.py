"""Aggregators: ``K`` distributions and their weights become one distribution, the target of the student.

=====================  ==================================  ===================================================
pool                   before it is normalised             minimises over ``q``
=====================  ==================================  ===================================================
`linear`               ``sum_k w_k p_k``                   ``sum_k w_k KL(p_k || q)``
`log_linear`           ``prod_k p_k^w_k``                  ``sum_k w_k KL(q || p_k)``
`power`                ``(sum_k w_k p_k^r)^(1/r)``         the alpha-divergence of order ``r``
`harmonic`             ``1 / sum_k w_k/p_k``               ``sum_k w_k sum (q - p_k)^2 / p_k``
`bregman`, IS, left    ``1 / (sum_k w_k/p_k + lambda)``    ``sum_k w_k sum (q/p_k - log q/p_k - 1)``
=====================  ==================================  ===================================================

What each keeps (yes), and a number that breaks the rest. "hull": always a mixture of the teachers. "range": no entry
above or below all teachers. "monotone": weight moved to the teacher that thinks an entry likelier does not lower it.
"KL": raising ``w_k`` does not raise ``KL(p_k || q)``. "log-loss": at most the teachers' mean. "best": log-loss at most
that of any teacher plus its ``-log w_k``. "unsafe": no entry above the worst teacher, for the linear pool no set of
entries. "softens": commutes with ``p^(1/T)``, so that its entropy grows with ``T``; all others can lose entropy.

==================  =======  ========  ========  ======  ========  =====  ======  =======
pool                hull     range     monotone  KL      log-loss  best   unsafe  softens
==================  =======  ========  ========  ======  ========  =====  ======  =======
linear              yes      yes       yes       yes     yes       yes    yes     no
log-linear          no       .633975   .654226   yes     yes       no     no      yes
power, 0 < r < 1    no       no        no        tested  yes       no     no      no
power, r = 2        no       .572949   no        tested  no        no     yes     no
harmonic            no       .666667   no        tested  no        no     no      no
IS, left            no       .689898   no        tested  no        no     no      no
==================  =======  ========  ========  ======  ========  =====  ======  =======

"tested" is no proof: 4,000 random cases, with ``r = 1/2`` for the row between 0 and 1, did not break it. Under "range"
is what a pool gives an entry on which both teachers say .6: teachers (.6, .1, .3) and (.6, .3, .1), equal weights.
Under "monotone": teachers (.55, .44, .01) and (.5, .1, .4); the first thinks entry 0 likelier, and with its weight
raised from .5 to .55 the entry falls from .657633 to .654226. Under "softens", entropy: teachers (1 - 1e-6, 1e-6) and
(.1, .9) with weights (.45, .55); the linear pool has .6931, .6779 and .6548 nats at temperatures 1, 2 and 4.

If the ratio of two teachers takes three values, no pool keeps both "hull" and "softens" but the two that copy one
teacher. At a high temperature the hull of the softened teachers is the segment between their logs, so a pool that
commutes is a geometric mean with some exponent ``a``. At ``T = 1`` it is in the hull where ``r^a/Z`` is linear in the
ratio ``r``; a strictly concave function meets a line twice at most, so ``a`` is 0 or 1.

Zeros are ``LOG_ZERO``: see each pool for what a zero of one teacher does to the others. Also here: projection onto the
teachers' mixtures with a certificate (`hull_project`), weights that differ between classes of entries (`token_project`,
`token_blocks`, `token_renormalise`), pools of top-k teachers (`pool_topk`), the pool that a divergence aims at
(`pool_for`, `divergence_gap`), and the promises above as numbers (`log_loss_gap`, `best_teacher_regret`, `excess_mass`,
`range_excess`).
"""

import lazy_loader

# Files are named after the mean, functions after the pool: a module never hides the function of its own name.
# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
