"""Isotonic fit: the weighted least-squares values that respect a partial order, exactly, for batches of rows.

The fit separates over the connected parts of an order, and each part has its own exact method:

- a ranking (levels; ties impose nothing): pool adjacent violators on stacks, all rows at once, ``2 n - 1`` steps;
- any order with few upper sets: peel off the upper set of largest mean, all rows at once;
- any other order: recursive minimal cuts (:mod:`mashbill.weights.minimal_cuts`), in float64 on the CPU, one row after
  another, and only those rows that break the order.

Values are means over blocks of elements; the gradient is that of the block means. Sup-norm non-expansive, and for equal
weights non-expansive in l2. What is fitted respects the order to the last bit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.weights import minimal_cuts

_MOST_UPPER_SETS = 256  # every order of 8 teachers has at most 2^8


@dataclass(frozen=True)
class Part:
    """A connected part of an order, with what its method needs.

    Attributes:
        members: The elements.
        levels: Rank of each member, higher is safer, if the part is a ranking.
        upper_sets: 0/1 membership of each upper set, if they are few.
        safer: For each member the set of those safer, as bits over the members.
    """

    members: tuple[int, ...]
    levels: tuple[int, ...] | None
    upper_sets: tuple[tuple[int, ...], ...] | None
    safer: tuple[int, ...]


def parts_of(n_elements: int, closure: Iterable[tuple[int, int]]) -> tuple[Part, ...]:
    """Split a transitively closed order into connected parts; elements without any relation are in none."""
    safer: dict[int, set[int]] = {k: set() for k in range(n_elements)}
    related: dict[int, set[int]] = {k: set() for k in range(n_elements)}
    for high, low in closure:
        safer[low].add(high)
        related[low].add(high)
        related[high].add(low)
    parts, left = [], {k for k in related if related[k]}
    while left:
        found = {min(left)}
        waiting = list(found)
        while waiting:
            fresh = related[waiting.pop()] - found
            found |= fresh
            waiting += fresh
        left -= found
        parts.append(_part(tuple(sorted(found)), safer))
    return tuple(parts)


def _part(members: tuple[int, ...], safer: dict[int, set[int]]) -> Part:
    place = {k: n for n, k in enumerate(members)}
    bits = tuple(sum(1 << place[j] for j in safer[k]) for k in members)
    n_safer = {k: len(safer[k]) for k in members}
    if all((j in safer[k]) == (n_safer[j] < n_safer[k]) for k in members for j in members):
        return Part(members, tuple(-n_safer[k] for k in members), None, bits)
    found = {0}
    # Safest first: an element can join exactly the sets that already hold all that are safer.
    for n in sorted(range(len(members)), key=lambda n: bits[n].bit_count()):
        found |= {one | (1 << n) for one in found if bits[n] & ~one == 0}
        if len(found) > _MOST_UPPER_SETS:
            return Part(members, None, None, bits)
    sets = tuple(tuple((one >> n) & 1 for n in range(len(members))) for one in sorted(found) if one)
    return Part(members, None, sets, bits)


def fit_part(values: Float[Tensor, "*batch n"], sizes: Sequence[int], part: Part) -> Float[Tensor, "*batch n"]:
    """Fit the values of one part's members.

    Args:
        values: In the order of ``part.members``; float32 or float64.
        sizes: Weight of each member.
        part: The part.
    """
    weights = torch.tensor(sizes, dtype=values.dtype, device=values.device)
    if part.levels is not None:
        levels = torch.tensor(part.levels, dtype=values.dtype, device=values.device)
        return fit_ranking(values, levels.expand_as(values), weights)
    if part.upper_sets is not None:
        upper_sets = torch.tensor(part.upper_sets, dtype=values.dtype, device=values.device)
        fitted = fit_by_upper_sets(values, weights, upper_sets)
        return torch.where(_breaks(values, part.safer).unsqueeze(-1), fitted, values)
    return fit_by_cuts(values, sizes, part.safer)


def fit_ranking(
    values: Float[Tensor, "*batch n"], levels: Float[Tensor, "*batch n"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "*batch n"]:
    """Fit to a ranking; elements of one level impose nothing on each other (primary treatment of ties).

    They then need no constraint once they are sorted by value. ``O(n log n)`` a row.
    """
    by_value = values.detach().argsort(dim=-1, descending=True)
    by_level = levels.gather(-1, by_value).argsort(dim=-1, descending=True, stable=True)
    permutation = by_value.gather(-1, by_level)
    fitted = _pool_adjacent(values.gather(-1, permutation), weights.expand_as(values).gather(-1, permutation))
    return torch.empty_like(fitted).scatter(-1, permutation, fitted)


def _pool_adjacent(values: Float[Tensor, "*batch n"], weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Non-increasing fit: pool adjacent violators, on one stack of blocks a row.

    Every step pushes the next value or merges the two last blocks, so ``2 n - 1`` steps do whatever the values. Sums
    are block by block: a value near ``LOG_ZERO`` does not blur the others.
    """
    n = values.shape[-1]
    with torch.no_grad():
        spare = torch.zeros_like(values[..., :1])
        # The last slot takes the writes of rows that have nothing left to do.
        total, mass, mean = (torch.cat([torch.zeros_like(values), spare], dim=-1) for _ in range(3))
        first = torch.zeros_like(total, dtype=torch.long)
        height = torch.zeros_like(spare, dtype=torch.long)
        following = torch.zeros_like(height)
        for _ in range(2 * n - 1):
            last, before = (height - 1).clamp_min(0), (height - 2).clamp_min(0)
            merges = (height > 1) & (mean.gather(-1, before) < mean.gather(-1, last))
            pushes = ~merges & (following < n)
            slot = torch.where(merges, before, torch.where(pushes, height, n))
            fresh = following.clamp_max(n - 1)
            value, weight = values.gather(-1, fresh), weights.gather(-1, fresh)
            added_mass = torch.where(merges, mass.gather(-1, before) + mass.gather(-1, last), weight)
            added = torch.where(merges, total.gather(-1, before) + total.gather(-1, last), value * weight)
            total.scatter_(-1, slot, added)
            mass.scatter_(-1, slot, added_mass)
            mean.scatter_(-1, slot, torch.where(merges, added / added_mass, value))
            first.scatter_(-1, slot, torch.where(merges, first.gather(-1, before), fresh))
            height = height + pushes.long() - merges.long()
            following = following + pushes.long()
        # Element i is in the block number (blocks that start at or before i) - 1.
        is_block = torch.arange(n + 1, device=values.device) < height
        starts = torch.zeros_like(first).scatter_(-1, first.masked_fill(~is_block, n), 1)
        block = starts[..., :n].cumsum(dim=-1) - 1
        fitted = mean.gather(-1, block)
    return _with_gradient(fitted, values, weights, block)


def fit_by_upper_sets(
    values: Float[Tensor, "*batch n"], weights: Float[Tensor, " n"], upper_sets: Float[Tensor, "m n"]
) -> Float[Tensor, "*batch n"]:
    """Fit to any order: peel off the upper set of largest mean until no element is left (Brunk). ``O(n^2 m)`` a row."""
    with torch.no_grad():
        left, fitted = torch.ones_like(values), torch.zeros_like(values)
        block = torch.zeros_like(values, dtype=torch.long)
        ceiling = torch.full_like(values[..., :1], torch.inf)
        for step in range(values.shape[-1]):
            mass = torch.einsum("...n,mn->...m", left * weights, upper_sets)
            total = torch.einsum("...n,mn->...m", values * left * weights, upper_sets)
            mean = torch.where(mass > 0, total / mass.clamp_min(1), -torch.inf)
            largest, which = mean.max(dim=-1, keepdim=True)
            # Means can only fall from peel to peel; rounding must not break the order.
            ceiling = torch.minimum(ceiling, largest)
            taken = (upper_sets[which.squeeze(-1)] * left) > 0
            fitted = torch.where(taken, ceiling, fitted)
            block = torch.where(taken, step, block)
            left = left.masked_fill(taken, 0)
    return _with_gradient(fitted, values, weights.expand_as(values), block)


def fit_by_cuts(
    values: Float[Tensor, "*batch n"], sizes: Sequence[int], safer: Sequence[int]
) -> Float[Tensor, "*batch n"]:
    """Fit to any order, by minimal cuts, row by row on the CPU in float64; rows in order are returned as they are."""
    flat = values.reshape(-1, values.shape[-1])
    with torch.no_grad():
        fitted, block = flat.clone(), torch.arange(flat.shape[-1], device=flat.device).repeat(flat.shape[0], 1)
        rows = _breaks(flat, safer).nonzero().squeeze(-1)
        if len(rows):
            wide = flat[rows].to("cpu", torch.float64).tolist()
            found = [minimal_cuts.fit_row(row, [float(size) for size in sizes], safer) for row in wide]
            means = torch.tensor([means for means, _ in found], dtype=torch.float64)
            fitted[rows] = means.to(flat)
            block[rows] = torch.tensor([numbers for _, numbers in found], device=flat.device)
    weights = torch.tensor(sizes, dtype=flat.dtype, device=flat.device).expand_as(flat)
    return _with_gradient(fitted, flat, weights, block).reshape(values.shape)


def _breaks(values: Float[Tensor, "*batch n"], safer: Sequence[int]) -> Bool[Tensor, "*batch"]:
    """Return which rows have some element above one that is safer."""
    above = [[j for j in range(len(safer)) if one >> j & 1] for one in safer]
    least = [values[..., which].amin(dim=-1) if which else values[..., i] for i, which in enumerate(above)]
    return (values > torch.stack(least, dim=-1)).any(dim=-1)


def _with_gradient(
    fitted: Float[Tensor, "*batch n"],
    values: Float[Tensor, "*batch n"],
    weights: Float[Tensor, "*batch n"],
    block: Int[Tensor, "*batch n"],
) -> Float[Tensor, "*batch n"]:
    """Return ``fitted``, bit for bit, with the gradient of the block means of ``values``."""
    zero = torch.zeros_like(values)
    mean = zero.scatter_add(-1, block, values * weights) / zero.scatter_add(-1, block, weights).clamp_min(1)
    mean = mean.gather(-1, block)
    return fitted + (mean - mean.detach())
