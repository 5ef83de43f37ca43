"""Margin weights, where one looks for published methods: :class:`mashbill.weights.margin.Margin` by its other name.

After the abstract of AMTSS (arXiv 2305.07928), which names max-margin teachers and teacher importance weights. Its
formula was not to be had, so this is not AMTSS, and there is no released number to compare with. Breaks *ordered*;
keeps normalised, positive, bounded and continuous.
"""

from mashbill.weights.margin import Margin

MarginWeighted = Margin
"""``w = softmax_k(beta (p_(1) - p_(2)))`` at each position."""

__all__ = ["MarginWeighted"]
