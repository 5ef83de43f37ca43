"""Products with large heads in parts, each by one core: faster than at once, and the same with any number of cores."""

from collections.abc import Callable

from mashbill.distributions.scores import Projected
from mashbill.losses import parallel
from mashbill.losses.rows import rows_at_once
from mashbill.shapes import Float, Tensor

TILE = 1024
"""Entries of a head to multiply by at a time; products of few rows and a large head are a fifth slower at once."""
TILE_ELSEWHERE = 2**16
COLUMNS = 128
"""Of a product whose sums run over all entries, at a time."""


def scores(projected: Projected, states: Tensor, *, out: Tensor) -> Tensor:
    """Return the scores of some hidden states over all entries, in ``out``."""
    in_tiles(out.T, lambda tile: projected.at(states, out=out[:, tile], entries=tile))
    return out


def in_tiles(whole: Tensor, work: Callable[[slice], object]) -> None:
    """Work on parts of the first axis, entries: a core's cache holds one, and each core has its own."""
    _spread(whole, TILE if whole.device.type == "cpu" else TILE_ELSEWHERE, lambda: work)


def in_columns(whole: Float[Tensor, "R D"], work: Callable[[slice], object]) -> None:
    """Work on some columns at a time."""
    _spread(whole.T, COLUMNS if whole.device.type == "cpu" else whole.shape[1], lambda: work)


def in_rows(whole: Float[Tensor, "R V"], start: Callable[[], Callable[[slice], object]]) -> None:
    """Work on a few rows at a time; ``start`` is called once for each thread."""
    _spread(whole, rows_at_once(whole.shape[-1], whole.device), start)


def _spread(whole: Tensor, n_each: int, start: Callable[[], Callable[[slice], object]]) -> None:
    parts = [slice(first, first + n_each) for first in range(0, len(whole), n_each)]
    parallel.spread(parts, start, device=whole.device)
