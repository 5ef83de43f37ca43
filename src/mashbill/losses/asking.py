"""A rule that is asked for weights between reading the teachers and mixing them, and its answers, looked at."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mashbill.distributions.statistics import Statistics
from mashbill.losses import sums
from mashbill.shapes import Float, Int, Tensor

Weigh = Callable[[Statistics, Tensor], Tensor]
"""A rule: from the teachers' statistics ``[K R]`` at some positions and their places ``b T + t``, ``[R]``, to
log-weights ``[K R]``. It is asked about each position once, a few at a time and from several
threads, so that it may look at nothing but its arguments and what does not change; it gets no gradient. Its attributes
``reads``, ``about`` and ``over``, if it has them, are those that :func:`mashbill.weights.between` gives."""


@dataclass(frozen=True)
class Asked:
    """A rule whose answers are taken as weights that are given: looked at, and in 16 bits normalised again.

    A rule may have a method ``over``, as those of :func:`mashbill.weights.between` do: from statistics to a function of
    places alone, which answers for what is in the statistics' memory when it is asked.
    """

    rule: Weigh

    @property
    def read(self) -> frozenset[str] | None:
        """Which statistics it looks at; None if it does not say."""
        return getattr(self.rule, "reads", None)

    @torch.no_grad()
    def __call__(self, statistics: Statistics, places: Int[Tensor, " R"]) -> Float[Tensor, "K R"]:
        """Return log-weights.

        Raises:
            ValueError: They are of another size, or do not sum to 1.
        """
        return _looked_at(self.rule(statistics, places), statistics, places)

    def over(self, statistics: Statistics) -> Callable[[Int[Tensor, " R"]], Float[Tensor, "K R"]]:
        """Return what answers for memory that is filled again and again, for a caller that asks without gradients.

        Their sums are left to who mixes: :func:`require_whole` has the sentence.
        """
        shape = statistics.entropy.shape
        over = getattr(self.rule, "over", None)
        if over is None:
            # It may keep what it is given.
            return lambda places: self(statistics.to(torch.float32, copy=True), places)
        answer = over(statistics)

        def ask(places: Tensor) -> Tensor:
            found = answer(places)
            if found.shape == shape and found.dtype == torch.float32:
                return found
            return _looked_at(found, statistics, places)

        return ask


def require_whole(log_weights: Float[Tensor, "K R"], places: Int[Tensor, " R"]) -> None:
    """Raise ``ValueError`` unless a rule's weights sum to 1."""
    if (off := sums.off(log_weights, axis=0)) is not None:
        first = int(off.nonzero()[0])
        sums.refuse(f"log_weights, asked at place {int(places[first])}, gave", log_weights[:, first], axis=0)


def _looked_at(found: Tensor, statistics: Statistics, places: Tensor) -> Tensor:
    n_teachers, n_rows = statistics.entropy.shape
    if found.shape != (n_teachers, n_rows):
        raise ValueError(
            f"log_weights gave {list(found.shape)} for statistics of {n_teachers} teachers at {n_rows} positions; "
            f"it must give [{n_teachers} {n_rows}]"
        )
    require_whole(found, places)
    return sums.whole(found, statistics.entropy.dtype, axis=0)
