"""Answers to some rows as a table, a row of the table for each, and back.

Positions of a row lie end to end in lists. Every row carries a digest of its own values, so that damage has a name.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mashbill import numerics
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.errors import CorruptionError, TeacherError
from mashbill.teachers.positions import joined as one_after_the_other
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.layout import SUM_ROUNDING, Layout

NUMBERS = ("entropy", "entropy_low", "gini", "margin", "max_logprob", "label_logprob")
"""Statistics of one number a position."""
WHOLE = ("tokens", "positions", "n_kept", "ids", "units")
REAL = ("log_tail", *NUMBERS, "class_mass")
_DIGEST = 16


@dataclass(frozen=True)
class Answered:
    """Answers to ``R`` rows with ``P`` positions together, row after row.

    Attributes:
        row_ids: Of each row.
        content: The sha256 of what was asked about each row.
        tokens: What the teacher read of each row, ``[L]``; empty for a classifier.
        starts: Where each row's positions begin, and where the last one's end, ``[R + 1]``.
        positions: Place of each position in its row, ``[P]``.
        scored: Top entries and statistics, ``[P ...]``.
        refused: Why the teacher cannot answer each row for good; empty for a row that it answered.
    """

    row_ids: tuple[str, ...]
    content: tuple[bytes, ...]
    tokens: tuple[np.ndarray, ...]
    starts: np.ndarray
    positions: np.ndarray
    scored: Scored
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Mixed:
    """Answers to rows of which some lie in other shards already, to be kept as they are written there.

    Attributes:
        row_ids: Of all rows, in their order.
        fresh: Answers to those that were asked about.
        known: Rows of other shards' tables.
        order: Place of each row in ``fresh`` and ``known`` together.
        n_measured: On how many positions of ``known`` the loss was measured.
        lost: Sum of it over those, in nats; None where it is not known.
    """

    row_ids: tuple[str, ...]
    fresh: Answered
    known: pa.Table
    order: np.ndarray
    n_measured: int
    lost: float | None

    def table(self, layout: Layout, metadata: Mapping[str, str]) -> pa.Table:
        """Return the rows as :func:`encode` would write them; rounded numbers are not rounded again."""
        named = schema(layout, metadata)
        fresh = encode(self.fresh, layout, metadata).replace_schema_metadata(None)
        both = pa.concat_tables([fresh, self.known.select(named.names).replace_schema_metadata(None)])
        taken = both.take(self.order)
        columns = {name: _one(taken[name]) for name in named.names}
        columns["row_id"] = pa.array(self.row_ids, pa.string())  # the same question may stand under another name now
        columns["digest"] = pa.array(_digests(columns), pa.binary(_DIGEST))
        return pa.table([columns[name] for name in named.names], schema=named)


def schema(layout: Layout, metadata: Mapping[str, str]) -> pa.Schema:
    """Return names and types of the columns."""
    named = [("row_id", pa.string()), ("content", pa.binary(32)), ("digest", pa.binary(_DIGEST))]
    named += [("refused", pa.string())]
    named += [(name, pa.list_(pa.int32())) for name in WHOLE] + [(name, pa.list_(pa.float32())) for name in REAL]
    about = {"unit": repr(layout.unit), "n_entries": str(layout.n_entries), "classes": "\0".join(layout.classes)}
    return pa.schema(named, metadata={**about, **metadata})


def encode(answered: Answered, layout: Layout, metadata: Mapping[str, str]) -> pa.Table:
    """Return the table of some answers; entries are sorted, the most probable first.

    Raises:
        TypeError: A distribution is dense.
        ValueError: The answers are not of the layout's entries or classes.
        TeacherError: What is given is no distribution; names row and position.
    """
    ids, logprobs, log_tail = _sorted(answered, layout)
    n_kept = layout.n_kept(logprobs)
    is_kept = np.arange(logprobs.shape[1]) < n_kept[:, None]
    cut = np.where(is_kept, 0.0, np.exp(logprobs)).sum(axis=1)
    log_cut = np.log(cut, where=cut > 0, out=np.full_like(cut, -np.inf))
    real = {"log_tail": np.logaddexp(log_tail, log_cut), **_numbers(answered, layout)}
    starts, kept_before = answered.starts, np.concatenate([[0], np.cumsum(n_kept)])
    tokens = [np.asarray(row, dtype=np.int32) for row in answered.tokens]
    lists = {
        "tokens": _listed(np.concatenate([*tokens, np.zeros(0, np.int32)]), np.cumsum([0, *map(len, tokens)])),
        "positions": _listed(answered.positions.astype(np.int32), starts),
        "n_kept": _listed(n_kept.astype(np.int32), starts),
        "ids": _listed(ids[is_kept], kept_before[starts]),
        "units": _listed(layout.rounded(logprobs[is_kept]), kept_before[starts]),
    }
    for name, values in real.items():
        width = values.shape[1] if values.ndim == 2 else 1
        lists[name] = _listed(values.astype(np.float32).reshape(-1), starts * width)
    columns = {"row_id": pa.array(answered.row_ids, pa.string()), "refused": pa.array(answered.refused, pa.string())}
    columns |= {"content": pa.array(answered.content, pa.binary(32)), **lists}
    columns["digest"] = pa.array(_digests(columns), pa.binary(_DIGEST))
    named = schema(layout, metadata)
    return pa.table([columns[name] for name in named.names], schema=named)


def _sorted(answered: Answered, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids and log-probabilities, the most probable first, ``[P S]``, and log tails ``[P]``; each sums to 1."""
    topk = answered.scored.distribution
    if not isinstance(topk, TopK):
        raise TypeError("scored.distribution is dense; keep its top entries first: TopK.from_logprobs(logprobs, k=k)")
    if topk.n_entries != layout.n_entries:
        raise ValueError(f"scored.distribution has {topk.n_entries:,} entries, but the plan says {layout.n_entries:,}")
    stored = topk.logprobs.double().masked_fill(topk.ids < 0, numerics.LOG_ZERO)
    order = stored.argsort(dim=-1, descending=True, stable=True)
    ids = topk.ids.gather(-1, order).cpu().numpy()
    logprobs = stored.gather(-1, order).cpu().numpy()
    _require_ids(answered, ids, topk.n_entries)
    # Where every entry is named, nothing is left that could have the mass of a tail.
    is_open = (ids >= 0).sum(axis=1) < topk.n_entries
    log_tail = np.where(is_open, topk.log_tail.double().cpu().numpy(), numerics.LOG_ZERO)
    total = np.exp(logprobs).sum(axis=1) + np.exp(log_tail)
    log_sum = np.log(total, where=total > 0, out=np.full_like(total, -np.inf))
    _require(
        answered,
        np.abs(log_sum) <= SUM_ROUNDING,  # NaN is not
        lambda p: f"probabilities of a position sum to {total[p]:.6g}",
    )
    each = np.where(logprobs > numerics.LOG_ZERO, logprobs - log_sum[:, None], numerics.LOG_ZERO)
    return ids.astype(np.int32), each, np.where(log_tail > numerics.LOG_ZERO, log_tail - log_sum, numerics.LOG_ZERO)


def _require_ids(answered: Answered, ids: np.ndarray, n_entries: int) -> None:
    is_inside = (ids >= -1) & (ids < n_entries)
    _require(
        answered,
        np.asarray(is_inside.all(axis=1)),
        lambda p: f"the id {ids[p][~is_inside[p]][0]} is none of {n_entries:,}",
    )
    ordered = np.sort(ids, axis=1)
    is_twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _require(answered, (~is_twice).all(axis=1), lambda p: f"the id {ordered[p, 1:][is_twice[p]][0]} stands there twice")


def _require(answered: Answered, is_good: np.ndarray, what: Callable[[int], str]) -> None:
    """Raise unless every position is good.

    Raises:
        TeacherError: Says what is wrong at the first that is not; names row and position.
    """
    if is_good.all():
        return
    p = int((~is_good).argmax())
    row = int(np.searchsorted(answered.starts, p, side="right")) - 1
    raise TeacherError(
        f"a teacher's answer is no distribution: {what(p)}",
        where=f"row `{answered.row_ids[row]}`, position {answered.positions[p]}",
        why="what is no distribution is not kept",
        help="look at the teacher's output for that row; normalise in float32",
    )


def _numbers(answered: Answered, layout: Layout) -> dict[str, np.ndarray]:
    """Return statistics."""
    n_classes = answered.scored.statistics.class_mass.shape[-1]
    if n_classes != len(layout.classes):
        raise ValueError(f"statistics.class_mass has {n_classes} classes, but the plan names {layout.classes!r}")
    real = {}
    for name in (*NUMBERS, "class_mass"):
        values = real[name] = getattr(answered.scored.statistics, name).double().cpu().numpy()
        # Where there is no label, its log-probability is no number.
        is_good = np.isfinite(values) | (np.isnan(values) & (name == "label_logprob"))
        each = is_good.all(axis=tuple(range(1, values.ndim)))
        _require(answered, each, lambda _, name=name: f"{name} is not finite")
    return real


def decode(table: pa.Table, layout: Layout, *, where: str) -> Answered:
    """Return the answers in a table, every row proved by its digest, and every list summing to 1 again.

    Raises:
        CorruptionError: A row is not what was written; names it.
    """
    columns = {name: _one(table[name]) for name in table.column_names}
    row_ids = tuple(columns["row_id"].to_pylist())
    for row_id, kept, found in zip(row_ids, columns["digest"].to_pylist(), _digests(columns), strict=True):
        if kept != found:
            raise CorruptionError(
                f"row `{row_id}` is not what was written", where=where, why="its digest differs from its values"
            )
    starts = _offsets(columns["positions"])
    n_kept, n_positions = _values(columns["n_kept"]), int(starts[-1])
    width = int(n_kept.max(initial=1))
    is_kept = np.arange(width) < n_kept[:, None]
    ids = np.full((n_positions, width), -1, dtype=np.int64)
    logprobs = np.full((n_positions, width), numerics.LOG_ZERO, dtype=np.float32)
    ids[is_kept], logprobs[is_kept] = _values(columns["ids"]), layout.restored(_values(columns["units"]))
    real = {name: torch.from_numpy(_values(columns[name]).copy()) for name in REAL}
    topk = _mended(TopK(torch.from_numpy(ids), torch.from_numpy(logprobs), real.pop("log_tail"), layout.n_entries))
    class_mass = real.pop("class_mass").view(n_positions, len(layout.classes))
    statistics = Statistics(**{name: real[name] for name in NUMBERS}, class_mass=class_mass)
    token_values, token_starts = _values(columns["tokens"]), _offsets(columns["tokens"])
    return Answered(
        row_ids,
        tuple(columns["content"].to_pylist()),
        tuple(np.split(token_values, token_starts[1:-1])) if row_ids else (),
        starts,
        _values(columns["positions"]),
        Scored(topk, statistics),
        tuple(columns["refused"].to_pylist()),
    )


def _mended(topk: TopK) -> TopK:
    """Divide by the sum, which rounding moved: a list that sums to more than 1 would make divergences negative."""
    tail = topk.log_tail.masked_fill(topk.log_tail <= numerics.LOG_ZERO, -torch.inf)
    stored = topk.logprobs.masked_fill(topk.ids < 0, -torch.inf)
    log_sum = torch.cat([stored, tail.unsqueeze(-1)], dim=-1).double().logsumexp(dim=-1, keepdim=True).float()
    logprobs = torch.where(topk.ids < 0, numerics.LOG_ZERO, topk.logprobs - log_sum).clamp_min(numerics.LOG_ZERO)
    log_tail = (tail - log_sum.squeeze(-1)).clamp_min(numerics.LOG_ZERO)
    return TopK(topk.ids, logprobs, log_tail, topk.n_entries)


def _digests(columns: Mapping[str, pa.Array]) -> list[bytes]:
    """Return a digest of each row's values."""
    listed = {name: (_values(columns[name]), _offsets(columns[name])) for name in (*WHOLE, *REAL)}
    found = []
    texts = (columns[name].to_pylist() for name in ("row_id", "content", "refused"))
    for r, (row_id, content, refused) in enumerate(zip(*texts, strict=True)):
        digest = hashlib.sha256(content)
        for text in (row_id, refused):
            told = text.encode("utf-8", "surrogatepass")
            digest.update(len(told).to_bytes(8, "little") + told)
        for values, starts in listed.values():
            part = values[starts[r] : starts[r + 1]]
            digest.update(len(part).to_bytes(8, "little") + part.tobytes())
        found.append(digest.digest()[:_DIGEST])
    return found


def _listed(values: np.ndarray, starts: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), pa.array(values))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _values(column: pa.ListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False)


def _offsets(column: pa.ListArray) -> np.ndarray:
    offsets = column.offsets.to_numpy()
    return offsets - offsets[0]


def joined(each: Sequence[Answered]) -> Answered:
    """Put answers one after the other."""
    starts = np.cumsum([0, *(n for one in each for n in np.diff(one.starts))])
    return Answered(
        tuple(row for one in each for row in one.row_ids),
        tuple(row for one in each for row in one.content),
        tuple(row for one in each for row in one.tokens),
        starts,
        np.concatenate([one.positions for one in each]),
        one_after_the_other([one.scored for one in each]),
        tuple(row for one in each for row in one.refused),
    )
