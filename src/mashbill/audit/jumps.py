"""Jumps of an operator on distributions: inside, found by bisection; at zeros, by numbers that are almost zero.

Inside, a path between two cases without small probabilities is looked at in many points. Where the answer deviates most
from a straight line, the part with the larger deviation is halved until 1e-12 of the path is left; what still changes
there is a jump. At zeros an honest operator may be arbitrarily steep (``p^w`` at ``p = 0``), so a bisection proves
nothing: an entry, or a weight, of 1e-75, 1e-150, 1e-300 and 0 gives answers that approach the last one if there is a
limit, and stay away from it if there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from mashbill import numerics
from mashbill.audit.cases import DOUBLE, Cases
from mashbill.audit.searching import Ground, Tally
from mashbill.shapes import Float, Tensor

Answer = Callable[[Cases], Float[Tensor, "N V"]]
"""The operator's probabilities."""

JUMP = 1e-5
"""A change of a probability within 1e-12 of a path that is no rounding in float64."""
ZERO_JUMP = 1e-2
"""A change of a probability between 1e-300 and 0."""
_ALMOST = (1e-75, 1e-150, 1e-300)
_AT_ONCE = 2**15


@dataclass(frozen=True)
class Jump:
    """Two cases next to each other with different answers."""

    before: Cases
    after: Cases
    violation: float
    search: str


def find_jump(
    answer: Answer, ground: Ground, *, coarse: bool, tally: Tally, moves_weights: bool, extras: dict[str, Tensor]
) -> Jump | None:
    """Return a jump, or None.

    Args:
        answer: What must not jump.
        ground: Seed and effort.
        coarse: The operator rounds to float32.
        tally: Counts.
        moves_weights: Weights are part of the question.
        extras: Ends ``[2]`` of what else moves along a path, e.g. a temperature; it moves in the logarithm.
    """
    found = _at_zeros(answer, ground, tally, moves_weights=moves_weights, extras=extras)
    return found or _inside(answer, ground, tally, coarse=coarse, moves_weights=moves_weights, extras=extras)


# Zeros.


def _at_zeros(
    answer: Answer, ground: Ground, tally: Tally, *, moves_weights: bool, extras: dict[str, Tensor]
) -> Jump | None:
    best: Jump | None = None
    for n_entries in (2, 3):
        cases = _with_small_weights(ground.n_rows or 2, n_entries, moves_weights=moves_weights)
        fixed = {name: ends.prod().sqrt().expand(len(cases)) for name, ends in extras.items()}
        cases = replace(cases, extras=fixed)
        jumps = [_to_zero(answer, cases, tally, weight=False)]
        if moves_weights:
            jumps.append(_to_zero(answer, cases, tally, weight=True))
        for jump in jumps:
            if jump is not None and (best is None or jump.violation > best.violation):
                best = jump
        if best is not None:
            return best
    return None


def _with_small_weights(n_rows: int, n_entries: int, *, moves_weights: bool) -> Cases:
    """Return cases whose first row can lose its first entry; its weight goes from a half down to a thousandth."""
    values = (0.5, 0.1, 0.01, 0.002, 0.001) if moves_weights and n_rows > 1 else (1.0 / n_rows,)
    rows = ([0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [0.0, 1.0], [1.0, 0.0])
    if n_entries == 3:
        rows = ([0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.0, 0.4, 0.6], [0.5, 0.0, 0.5])
    p, w = [], []
    for value in values:
        for row in rows:
            for first in rows:
                p.append([first, *[row] * (n_rows - 1)])
                w.append([value, *[(1 - value) / max(n_rows - 1, 1)] * (n_rows - 1)])
    return Cases(
        numerics.log_of(torch.tensor(p, dtype=DOUBLE).transpose(0, 1)),
        numerics.log_of(torch.tensor(w, dtype=DOUBLE).T),
        {},
    )


def _to_zero(answer: Answer, cases: Cases, tally: Tally, *, weight: bool) -> Jump | None:
    ladder = [_almost(cases, size, weight=weight) for size in (*_ALMOST, 0.0)]
    answers = [answer(one) for one in ladder]
    tally.add("zeros", len(cases) * len(ladder))
    limit = answers[-1]
    far, _, near = [(one - limit).abs().amax(dim=-1).nan_to_num(0, 0, 0) for one in answers[:-1]]
    # What falls away fourfold over 225 decades is on its way to the limit, however slowly.
    size = torch.where(near > far / 4, near, 0.0)
    at = int(size.argmax())
    if float(size[at]) <= ZERO_JUMP:
        return None
    return Jump(ladder[2].pick([at]), ladder[3].pick([at]), float(size[at]), "zeros")


def _almost(cases: Cases, size: float, *, weight: bool) -> Cases:
    """Set the first entry of the first row, or the first weight, to a size."""
    tiny = numerics.log_of(torch.tensor(size, dtype=DOUBLE))
    if weight:
        others = cases.w[1:] / cases.w[1:].sum(dim=0)
        return replace(cases, log_w=torch.cat([tiny.expand(1, len(cases)), numerics.log_of(others)]))
    rest = cases.p[0, :, 1:]
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, torch.ones_like(rest))
    first = torch.cat([tiny.expand(len(cases), 1), numerics.log_of(rest / rest.sum(-1, keepdim=True))], dim=-1)
    return replace(cases, log_p=torch.cat([first[None], cases.log_p[1:]]))


# Inside.


@dataclass(frozen=True)
class _Paths:
    """Straight lines of distributions and weights."""

    p: Tensor  # [2 K N V]
    w: Tensor  # [2 K N]
    extras: dict[str, Tensor]  # logarithms, [2 N]

    def at(self, share: Tensor) -> Cases:
        """Return the cases at a share of each path."""
        p = torch.lerp(self.p[0], self.p[1], share[:, None])
        w = torch.lerp(self.w[0], self.w[1], share)
        extras = {name: torch.lerp(ends[0], ends[1], share).exp() for name, ends in self.extras.items()}
        return Cases(numerics.log_of(p), numerics.log_of(w), extras)

    def pick(self, index: Tensor) -> "_Paths":
        extras = {name: ends[:, index] for name, ends in self.extras.items()}
        return _Paths(self.p[:, :, index], self.w[:, :, index], extras)


def _inside(
    answer: Answer, ground: Ground, tally: Tally, *, coarse: bool, moves_weights: bool, extras: dict[str, Tensor]
) -> Jump | None:
    generator, effort = ground.generator(), ground.effort
    least = 30 * JUMP if coarse else JUMP
    # What else moves, a temperature, is asked one number at a time: finer paths, and fewer of them.
    n_paths, n_points = (effort.n_paths // 4, 4 * effort.n_points) if extras else (effort.n_paths, effort.n_points)
    n_rows = ground.n_rows
    for k, v in ((2, 2), (2, 3), (3, 3), (3, 6)) if n_rows is None else ((n_rows, 2), (n_rows, 3), (n_rows, 6)):
        paths = _paths(generator, n_paths, k, v, moves_weights=moves_weights, extras=extras)
        shares = torch.linspace(0, 1, n_points + 1, dtype=DOUBLE)
        seen = _along(answer, paths, shares)
        tally.add("bisection", seen.shape[0] * seen.shape[1])
        jump = _bisect(answer, paths, shares, seen, least=least, tally=tally)
        if jump is not None:
            return jump
    return None


def _paths(
    generator: torch.Generator, n: int, k: int, v: int, *, moves_weights: bool, extras: dict[str, Tensor]
) -> _Paths:
    logits = torch.randn(2, k, n, v, generator=generator, dtype=DOUBLE)
    scores = torch.randn(2, k, n, generator=generator, dtype=DOUBLE)
    p = 0.002 + (1 - 0.002 * v) * (2 * logits).softmax(-1)
    w = 0.002 + (1 - 0.002 * k) * (2 * scores).softmax(1)
    # A third of the paths move the distributions only, a third what else there is.
    kind = torch.randint(3, (n,), generator=generator)
    p[1] = torch.where((kind == 1)[None, :, None], p[0], p[1]) if moves_weights else p[1]
    w[1] = torch.where(kind == 0, w[0], w[1]) if moves_weights else w[0]
    ends = {name: two.log()[:, None].repeat(1, n) for name, two in extras.items()}
    for name, two in ends.items():
        still = two[0] + (two[1] - two[0]) * torch.randint(1, 4, (n,), generator=generator) / 4
        ends[name] = torch.where(kind == 0, still, two)
        p[1] = torch.where((kind == 1)[None, :, None], p[0], p[1])
    return _Paths(p, w, ends)


def _along(answer: Answer, paths: _Paths, shares: Tensor) -> Tensor:
    """Return the answers at all shares of all paths, ``[P N V]``, some at a time."""
    n_paths = paths.w.shape[-1]
    parts = []
    for some in shares.split(max(1, _AT_ONCE // n_paths)):
        many = paths.pick(torch.arange(n_paths).repeat(len(some)))
        parts.append(answer(many.at(some.repeat_interleave(n_paths))).unflatten(0, (len(some), n_paths)))
    return torch.cat(parts)


def _bisect(answer: Answer, paths: _Paths, shares: Tensor, seen: Tensor, *, least: float, tally: Tally) -> Jump | None:
    # A step is held against the mean of its neighbours: what is left is a bend, or a jump.
    steps = seen.diff(dim=0)  # [P N V]
    around = torch.cat([steps[1:2], (steps[:-2] + steps[2:]) / 2, steps[-2:-1]])
    odd = (steps - around).abs().amax(dim=-1).nan_to_num(0, 0, 0)
    n_steps = len(steps)
    candidates = odd.T.flatten().topk(min(16 if paths.extras else 256, odd.numel())).indices
    path, place = candidates // n_steps, candidates % n_steps
    chosen = paths.pick(path)
    low, high = shares[place], shares[place + 1]
    at_low, at_high = seen[place, path], seen[place + 1, path]
    slope = around[place, path] * n_steps  # of the answer along the path, without the jump
    for _ in range(32):
        middle = (low + high) / 2
        between = answer(chosen.at(middle))
        half = ((high - low) / 2)[:, None]
        left = (between - at_low - slope * half).abs().amax(dim=-1)
        right = (at_high - between - slope * half).abs().amax(dim=-1)
        goes_left = left >= right
        high, at_high = torch.where(goes_left, middle, high), torch.where(goes_left[:, None], between, at_high)
        low, at_low = torch.where(goes_left, low, middle), torch.where(goes_left[:, None], at_low, between)
    tally.add("bisection", 32 * len(low))
    size = (at_high - at_low).abs().amax(dim=-1).nan_to_num(0, 0, 0)
    at = int(size.argmax())
    if float(size[at]) <= least:
        return None
    return Jump(chosen.at(low).pick([at]), chosen.at(high).pick([at]), float(size[at]), "bisection")
