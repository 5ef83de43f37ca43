"""MGDA, where one looks for published methods: :class:`mashbill.weights.gradient.MGDA`.

After Sener & Koltun, *Multi-Task Learning as Multi-Objective Optimization*, NeurIPS 2018, with teachers for tasks.
"""

from mashbill.weights.gradient import MGDA

__all__ = ["MGDA"]
