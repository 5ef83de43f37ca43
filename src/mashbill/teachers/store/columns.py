"""Answers to some rows as a table, a row of the table for each, and back.

Positions of a row lie end to end in lists. Every row carries a digest of its own values, so that damage has a name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.errors import CorruptionError
from mashbill.teachers.positions import joined as one_after_the_other
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.layout import Layout

NUMBERS = ("entropy", "entropy_low", "gini", "margin", "max_logprob", "label_logprob")
"""Statistics of one number a position."""
WHOLE = ("tokens", "positions", "n_kept", "ids", "units")
REAL = ("log_tail", *NUMBERS, "class_mass")
_DIGEST = 16
TOLERANCE = 1e-2
"""How far the probabilities of a position may be from 1 together: engines that compute in 16 bits round."""


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
        ValueError: What is given is no distribution.
    """
    ids, logprobs, n_kept = _sorted(answered.scored.distribution, layout)
    is_kept = np.arange(logprobs.shape[1]) < n_kept[:, None]
    real = _numbers(answered.scored, np.where(is_kept, 0.0, np.exp(logprobs)).sum(axis=1), layout)
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


def _sorted(topk: Dense | TopK, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids and log-probabilities, the most probable first, ``[P S]``, and how many of them are kept, ``[P]``."""
    if not isinstance(topk, TopK):
        raise TypeError("scored.distribution is dense; keep its top entries first: TopK.from_logprobs(logprobs, k=k)")
    if topk.n_entries != layout.n_entries:
        raise ValueError(f"scored.distribution has {topk.n_entries:,} entries, but the plan says {layout.n_entries:,}")
    order = topk.logprobs.argsort(dim=-1, descending=True, stable=True)
    ids = topk.ids.gather(-1, order).cpu().numpy().astype(np.int32)
    logprobs = topk.logprobs.gather(-1, order).double().cpu().numpy()
    logprobs = np.where(ids >= 0, logprobs, numerics.LOG_ZERO)
    total = np.exp(logprobs).sum(axis=1) + np.exp(topk.log_tail.double().cpu().numpy())
    if not (np.abs(total - 1) <= TOLERANCE).all():  # nor is NaN
        worst = total[np.nanargmax(np.abs(total - 1))] if np.isfinite(total).any() else np.nan
        raise ValueError(f"probabilities of a position sum to {worst:.6g}; nothing that is no distribution is kept")
    return ids, logprobs, layout.n_kept(logprobs)


def _numbers(scored: Scored, cut: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """Return log tails, with what was cut off, and statistics."""
    topk, statistics = scored.distribution, scored.statistics
    assert isinstance(topk, TopK), "sorted before"
    n_classes = statistics.class_mass.shape[-1]
    if n_classes != len(layout.classes):
        raise ValueError(f"statistics.class_mass has {n_classes} classes, but the plan names {layout.classes!r}")
    log_cut = np.log(cut, where=cut > 0, out=np.full_like(cut, -np.inf))
    real = {"log_tail": np.logaddexp(topk.log_tail.double().cpu().numpy(), log_cut)}
    real |= {name: getattr(statistics, name).double().cpu().numpy() for name in (*NUMBERS, "class_mass")}
    for name, values in real.items():
        if name != "label_logprob" and not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite; nothing that is no distribution is kept")
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
