"""The situations of an audit: every mood at several sizes, many rows at once, the same for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from mashbill.audit.moods import MOODS, Stage, make_world
from mashbill.audit.worlds import World

Budget = Literal["quick", "standard", "deep"]


@dataclass(frozen=True)
class Effort:
    """How hard to try.

    Attributes:
        n_rounds: Worlds of each mood and size.
        n_rows: Rows of a world.
        n_paths: Paths searched for jumps.
        n_points: Points on a path.
        n_climbs: Starts of a local search.
        n_moves: Its steps.
    """

    n_rounds: int
    n_rows: int
    n_paths: int
    n_points: int
    n_climbs: int
    n_moves: int


EFFORTS: dict[Budget, Effort] = {
    "quick": Effort(n_rounds=1, n_rows=24, n_paths=12, n_points=256, n_climbs=2, n_moves=12),
    "standard": Effort(n_rounds=5, n_rows=64, n_paths=96, n_points=1024, n_climbs=8, n_moves=40),
    "deep": Effort(n_rounds=12, n_rows=64, n_paths=240, n_points=2048, n_climbs=16, n_moves=60),
}

# Teachers, positions, entries; one row for each mood and size is what the searches multiply.
SIZES = ((2, 1, 2), (3, 1, 3), (3, 2, 3), (5, 3, 7), (1, 1, 3), (64, 1, 5))


def require_budget(budget: str) -> Effort:
    """Return the effort of a budget.

    Raises:
        ValueError: There is no such budget.
    """
    if budget not in EFFORTS:
        raise ValueError(f"budget={budget!r} must be one of {', '.join(get_args(Budget))}")
    return EFFORTS[budget]


def worlds(stage: Stage, effort: Effort, generator: torch.Generator) -> Iterator[tuple[str, World]]:
    """Yield ``(mood, world)``: small sizes first, so that a witness is small."""
    sizes = SIZES if stage.teachers is None else sorted({(len(stage.teachers), t, v) for _, t, v in SIZES})
    for n_teachers, n_positions, n_entries in sizes:
        n_rows = effort.n_rows if n_teachers < 64 else 4
        for _ in range(effort.n_rounds):
            for mood in MOODS:
                yield (
                    mood,
                    make_world(
                        stage,
                        generator,
                        mood=mood,
                        n_teachers=n_teachers,
                        n_rows=n_rows,
                        n_positions=n_positions,
                        n_entries=n_entries,
                    ),
                )
