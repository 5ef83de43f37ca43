"""Pools of teachers that are known by their top entries and the mass of the rest.

The union of what the teachers store is at most the sum of their ``k``; every other entry looks alike to all of them.
One column stands for those, with the number of entries it stands for, so the ``V`` entries are never written out.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.pools.arithmetic import linear
from mashbill.pools.geometric import log_linear
from mashbill.pools.power_mean import harmonic
from mashbill.shapes import Float, Int, Tensor

PoolName = Literal["linear", "log_linear", "harmonic"]


@runtime_checkable
class Pool(Protocol):
    """What every pool is: teachers and their log-weights to one distribution, in nats."""

    def __call__(
        self,
        logprobs: Float[Tensor, "K *batch V"],
        log_weights: Float[Tensor, "K *#batch"],
        /,
        *,
        log_counts: Float[Tensor, "*#batch V"] | None = None,
    ) -> Float[Tensor, "*batch V"]:
        """Pool; column ``v`` stands for ``exp(log_counts_v)`` entries that are all alike."""
        ...


_NAMED: dict[str, Pool] = {"linear": linear, "log_linear": log_linear, "harmonic": harmonic}


def pool_topk(
    teachers: Sequence[TopK], log_weights: Float[Tensor, "K *#batch"], *, pool: Pool | PoolName = linear
) -> TopK:
    """Pool top-k teachers on the union of what they store, without expanding to ``V``.

    An entry that a teacher does not store takes its even share of that teacher's tail; entries that nobody stores make
    up the tail of the result. Equal to pooling the densified teachers: ``pool_topk(t, w).densify()`` is
    ``pool(stack(densified), w)``.

    What the even spread costs, against teachers known in full: with the linear pool, every stored entry of the union is
    off by at most the weighted tail of the teachers that do not store it, and the total variation is at most
    ``sum_k w_k tail_k (1 - 1/n_k) <= sum_k w_k tail_k`` with ``n_k`` the entries that ``k`` leaves out. The other pools
    have no such bound in tail masses: a true zero among the unstored entries would veto where an even share does not.

    Zeros: a teacher without tail says 0 of every entry it does not store, and each pool does with a zero what it does
    with dense teachers: ``log_linear`` of disjoint teachers without tails keeps the entries vetoed with the least
    weight.

    Args:
        teachers: One a teacher, all over the same ``V`` and of the same batch shape; they may store different numbers.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        pool: A pool, e.g. ``pools.log_linear`` or ``functools.partial(pools.power, r=0.5)``, or its name.

    Returns:
        At most ``min(sum_k S_k, V)`` stored entries, ids ascending, unused slots last; float32 at least.

    Raises:
        ValueError: No teacher, an unknown name, or teachers that differ in ``V`` or in their batch shape.

    >>> one = TopK.from_logprobs(torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log(), k=1)
    >>> other = TopK.from_logprobs(torch.tensor([0.1, 0.1, 0.5, 0.3], dtype=torch.float64).log(), k=1)
    >>> both = pool_topk([one, other], torch.tensor([0.5, 0.5], dtype=torch.float64).log())
    >>> both.ids.tolist(), both.logprobs.exp().numpy().round(4).tolist(), round(both.log_tail.exp().item(), 4)
    ([0, 2], [0.4333, 0.3], 0.2667)
    """
    if isinstance(pool, str):
        if pool not in _NAMED:
            raise ValueError(f"pool={pool!r} must be one of {', '.join(_NAMED)}, or a function such as pools.power")
        pool = _NAMED[pool]
    _check_alike(teachers, len(log_weights))
    n_entries = teachers[0].n_entries
    ids = _union([teacher.ids for teacher in teachers], n_entries)
    dtype = numerics.reduction_dtype(teachers[0].logprobs.dtype)
    columns = torch.stack([_columns(teacher, ids).to(dtype) for teacher in teachers])
    n_rest = n_entries - (ids >= 0).sum(dim=-1, keepdim=True)
    # An unused slot stands for no entry, and so does the last column where every entry is stored.
    log_counts = torch.cat([(ids >= 0).to(dtype), n_rest.to(dtype)], dim=-1).log()
    q = pool(columns, log_weights, log_counts=log_counts)
    logprobs = q[..., :-1].masked_fill(ids < 0, numerics.LOG_ZERO)
    has_tail = (n_rest.squeeze(-1) > 0) & (q[..., -1] > numerics.LOG_ZERO)
    log_tail = torch.where(has_tail, q[..., -1] + n_rest.squeeze(-1).clamp_min(1).to(dtype).log(), numerics.LOG_ZERO)
    return TopK(ids, logprobs, log_tail, n_entries)


def _check_alike(teachers: Sequence[TopK], n_weights: int) -> None:
    if not teachers or len(teachers) != n_weights:
        raise ValueError(f"teachers has {len(teachers)} entries, but log_weights has {n_weights}; give one each")
    for number, teacher in enumerate(teachers):
        if teacher.n_entries != teachers[0].n_entries or teacher.log_tail.shape != teachers[0].log_tail.shape:
            raise ValueError(
                f"teachers[{number}] has shape {tuple(teacher.log_tail.shape)} over {teacher.n_entries} entries, but "
                f"teachers[0] has {tuple(teachers[0].log_tail.shape)} over {teachers[0].n_entries}; all must be alike"
            )


def _union(each: Sequence[Tensor], n_entries: int) -> Tensor:
    """Return every id once, ascending, ``-1`` in the slots left over."""
    ids = torch.cat(list(each), dim=-1).long()
    # Sorting twice: once to bring copies together, once to bring what is left of them to the end.
    ids = torch.where(ids >= 0, ids, n_entries).sort(dim=-1).values
    is_copy = torch.zeros_like(ids, dtype=torch.bool)
    is_copy[..., 1:] = ids[..., 1:] == ids[..., :-1]
    ids = ids.masked_fill(is_copy, n_entries).sort(dim=-1).values[..., :n_entries]
    return torch.where(ids < n_entries, ids, -1)


def _columns(teacher: TopK, ids: Int[Tensor, "*batch U"]) -> Float[Tensor, "*batch U+1"]:
    """Return the teacher's log-probability of each id, and of one entry that nobody stores."""
    share = teacher.log_tail_share().unsqueeze(-1)
    if teacher.ids.shape[-1] == 0:
        return share.expand(*ids.shape[:-1], ids.shape[-1] + 1)
    stored, order = teacher.ids.long().sort(dim=-1)
    at = torch.searchsorted(stored, ids).clamp_max(stored.shape[-1] - 1)
    is_stored = (stored.gather(-1, at) == ids) & (ids >= 0)
    known = teacher.logprobs.to(share.dtype).gather(-1, order.gather(-1, at))
    return torch.cat([torch.where(is_stored, known, share), share], dim=-1)
