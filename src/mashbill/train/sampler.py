"""Which rows a step sees: a pure function of the seed and the step, so that a resume needs the step alone.

Without a mix, every row comes once an epoch, in an order drawn from the seed and the epoch; the last batch of an epoch
may be smaller. With a mix, rows are drawn with replacement so that tasks and contexts have the shares they are declared
to have in deployment.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from mashbill.errors import MashbillError, did_you_mean
from mashbill.shapes import Float, Int, Tensor

_ROUNDS = 5000
_CLOSE = 1e-4
# Where some kind of row must get no chance at all, the gap after n rounds is about 1/(4 n), not geometric.


def derived_seed(*parts: int | str) -> int:
    """Return a seed that depends on all ``parts``; neighbours in any of them have unrelated seeds."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@dataclass(frozen=True)
class Sampler:
    """Batches of row indices.

    Attributes:
        n_rows: Rows of the corpus.
        batch_size: Rows of one optimiser step, all micro-batches together.
        seed: Where all orders come from.
        probabilities: Chance of each row at each draw; None for a permutation an epoch.
    """

    n_rows: int
    batch_size: int
    seed: int
    probabilities: Float[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        if self.n_rows < 1:
            raise ValueError(f"n_rows={self.n_rows} must be at least 1: there is nothing to train on")

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which as many rows are seen as there are."""
        return -(-self.n_rows // self.batch_size)

    def batch(self, step: int) -> Int[Tensor, " B"]:
        """Return the rows of optimiser step ``step``, from 0."""
        if self.probabilities is not None:
            return _draw(self.probabilities, self.batch_size, derived_seed(self.seed, "draw", step))
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(self.n_rows, derived_seed(self.seed, "epoch", epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size]


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _draw(probabilities: Tensor, n: int, seed: int) -> Tensor:
    uniform = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cumulative = probabilities.cumsum(0)
    # The total is 1 only up to rounding, and a row of chance 0 must not be reached by it: scale the draw, not the sum.
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp_max(len(probabilities) - 1)


def mix_probabilities(
    groups: Mapping[str, tuple[Int[Tensor, " N"], Sequence[str], Mapping[str, float]]],
) -> Float[Tensor, " N"] | None:
    """Chance of each row such that named groups have their declared shares.

    Names that are left out divide what is left in the proportions of the data. With several groupings (task and
    context), all shares hold at once: chances are ``prod_g a_g(group of row)``, found by iterative proportional
    fitting, and are the closest to the data's own distribution in KL divergence. Shares that only a mix without some
    kind of row can meet are approached slowly, and met within 1e-4.

    Args:
        groups: For each grouping: group of each row, names of the groups, declared shares.

    Returns:
        Chances in float64 that sum to 1; None if no shares are declared.

    Raises:
        MashbillError: A name has no rows, shares cannot be met, or do not add up to 1.

    Source:
        Deming and Stephan, *On a Least Squares Adjustment of a Sampled Frequency Table*, Ann. Math. Statist. 11, 1940.
    """
    wanted = {
        key: (index, _shares(key, index, names, shares)) for key, (index, names, shares) in groups.items() if shares
    }
    if not wanted:
        return None
    together = torch.stack([index.long() for index, _ in wanted.values()])
    # Rows alike in all groupings keep equal chances, so the fitting is over their kinds: many rounds cost nothing.
    kinds, kind_of_row, n_alike = together.unique(dim=1, return_inverse=True, return_counts=True)
    margins = [(index, share) for index, (_, share) in zip(kinds, wanted.values(), strict=True)]
    chance, gap = n_alike.double() / together.shape[1], 1.0
    for _ in range(_ROUNDS):
        for index, share in margins:
            chance = chance * (share / _totals(chance, index, len(share)).clamp_min(1e-300))[index]
        gap = max(float((_totals(chance, index, len(share)) - share).abs().max()) for index, share in margins)
        if gap < 1e-12:
            break
    if gap < _CLOSE:
        return (chance / n_alike)[kind_of_row]
    raise MashbillError(
        f"the shares under `sampling` cannot be met together: off by {gap:.2g} after {_ROUNDS} rounds",
        where="sampling",
        why="some task occurs in too few contexts for both lists of shares to hold",
        help="declare shares of tasks or of contexts, not both",
    )


def _totals(chance: Tensor, index: Tensor, n_groups: int) -> Tensor:
    return torch.zeros(n_groups, dtype=torch.float64).index_add(0, index, chance)


def _shares(key: str, index: Tensor, names: Sequence[str], declared: Mapping[str, float]) -> Tensor:
    counts = torch.bincount(index, minlength=len(names)).double()
    present = [name for name, count in zip(names, counts.tolist(), strict=True) if count > 0]
    for name in declared:
        if name not in present:
            raise MashbillError(
                f"no training row has {key} `{name}`{did_you_mean(name, present)}",
                where=f"sampling.{key}.{name}",
                why=f"{key}s with rows: {', '.join(present)}",
                help="remove the name, or add rows",
            )
    total, named = sum(declared.values()), torch.tensor([name in declared for name in names])
    left = float(counts[~named].sum())
    if total > 1 + 1e-6 or (left == 0 and total < 1 - 1e-6):
        raise MashbillError(
            f"the shares of {key}s add up to {total:.6g}",
            where=f"sampling.{key}",
            why="shares are parts of 1; names that are left out divide the rest in the data's proportions",
            help="make them add up to 1, or to less with some name left out",
        )
    rest = counts * ((1 - total) / left if left else 0.0)
    given = torch.tensor([declared.get(name, 0.0) for name in names], dtype=torch.float64)
    return torch.where(named, given, rest)
