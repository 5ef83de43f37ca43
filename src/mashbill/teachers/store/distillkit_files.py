"""A folder that DistillKit captured: its files, its rows, and the refusal of whatever cannot be what it should be."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.durable import sha256_of
from mashbill.errors import DataError, MashbillError
from mashbill.shapes import Float, Tensor
from mashbill.teachers.store.distillkit import FILE, Restored, Settings, read_settings, restore

TOKENS, LOGPROBS, IDS = "input_ids", "compressed_logprobs", "bytepacked_indices"
_OTHERS = {
    "exact_values": "its columns are those of `legacy_logit_compression`, which keeps no normaliser",
    "top_values": "it holds numbers that nobody has compressed",
}
_SLACK = 1e-4
MOST_MASS = 1.1
"""Sum of the probabilities that are written as numbers at which a position is refused: rounding makes some of 1.02."""


@dataclass(frozen=True)
class Place:
    """Where a row lies.

    Attributes:
        file: One of the capture's.
        group: Row group in it.
        row: Place in the group.
    """

    file: Path
    group: int
    row: int

    @property
    def name(self) -> str:
        """The row in messages."""
        return f"{self.file.name}, row group {self.group}, row {self.row}"


@dataclass(frozen=True)
class Capture:
    """A folder of captured rows.

    Attributes:
        folder: Where it is.
        settings: How it was written.
        files: In the order of their numbers.
    """

    folder: Path
    settings: Settings
    files: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path, config: Path | None = None) -> "Capture":
        """Open a folder.

        Args:
            folder: Of the capture.
            config: Says how it was written; None for the file beside it.

        Raises:
            MashbillError: There is no capture.
        """
        files = sorted(folder.glob("*.parquet"), key=lambda one: [int(n) for n in re.findall(r"\d+", one.name)])
        if not files:
            what = "holds no Parquet file" if folder.is_dir() else "is no folder"
            help = f"give the folder that DistillKit wrote: data_0.parquet and so on, with its {FILE}"
            raise MashbillError(f"no capture at `{folder}`: it {what}", help=help)
        return cls(folder, read_settings(config or folder / FILE), tuple(files))

    def identity(self) -> Mapping[str, str]:
        """Return what pins the capture down: the settings and every byte."""
        digest = hashlib.sha256(self.settings.model_dump_json().encode())
        for file in self.files:
            digest.update(bytes.fromhex(sha256_of(file)))
        return {"kind": "distillkit", "source": self.folder.resolve().name, "sha256": digest.hexdigest()}

    def tokens(self) -> Iterator[tuple[Place, np.ndarray]]:
        """Yield each row's tokens that a distribution is kept after, ``[P]``.

        Raises:
            DataError: A file cannot be read, or a row has not as many distributions as tokens.
        """
        for file in self.files:
            opened = _opened(file)
            for group in range(opened.num_row_groups):
                table = _read(opened, file, group, (TOKENS, LOGPROBS))
                values, starts = _flat(table[TOKENS])
                n_kept = np.diff(_offsets(table[LOGPROBS]))
                for row in range(table.num_rows):
                    place = Place(file, group, row)
                    own = values[starts[row] : starts[row + 1]]
                    yield place, own[: self._n_positions(place, len(own), int(n_kept[row]))]

    def read(self, place: Place) -> Restored:
        """Return what was kept at each position of a row.

        Raises:
            DataError: The bytes are not those of the settings, or what they hold is no distribution.
        """
        table = _group(place.file, place.group)
        row = table.slice(place.row, 1)
        logprobs = self._bytes(row[LOGPROBS], place, LOGPROBS, self.settings.logprob_bytes)
        ids = self._bytes(row[IDS], place, IDS, self.settings.index_bytes)
        if len(logprobs) != len(ids):
            raise _bad(place, f"has {len(logprobs)} positions of log-probabilities and {len(ids)} of ids")
        found = restore(logprobs, ids, self.settings)
        self._require_lists(found, place)
        return found

    def _n_positions(self, place: Place, n_tokens: int, n_kept: int) -> int:
        # The distribution after the last token is not always captured.
        if n_kept not in (n_tokens, n_tokens - 1) or n_kept == 0:
            raise _bad(place, f"has {n_kept} distributions for {n_tokens} tokens")
        return n_kept

    def _bytes(self, column: pa.ChunkedArray, place: Place, name: str, n_bytes: int) -> np.ndarray:
        lists = column.combine_chunks().flatten()
        widths = set(np.diff(_offsets(lists)).tolist())
        if widths != {n_bytes}:
            raise _bad(
                place,
                f"has positions of {', '.join(map(str, sorted(widths)[:3]))} bytes in `{name}`, not {n_bytes}",
                why="the settings are not those that the capture was written with",
            )
        values, _ = _flat(lists)
        if len(values) and not 0 <= values.min() <= values.max() <= 255:
            raise _bad(place, f"holds numbers in `{name}` that are no bytes")
        return values.astype(np.uint8).reshape(-1, n_bytes)

    def _require_lists(self, found: Restored, place: Place) -> None:
        used = found.logprobs > numerics.LOG_ZERO  # a list that was shorter ends in minus infinity
        ids = torch.where(used, found.ids, -1 - torch.arange(self.settings.k))
        ordered, total = ids.sort(dim=-1).values, found.logprobs.double().exp()[:, : self.settings.exact_k].sum(dim=-1)
        # Numbers that are written as such fall along a list, but for their rounding: curves may do as they like.
        exact = slice(self.settings.exact_k)
        room = found.error[:, exact][:, 1:] + found.error[:, exact][:, :-1] + _SLACK
        rises = (found.logprobs[:, exact].diff(dim=-1) > room) & used[:, exact][:, 1:]
        problems = {
            "holds what is no number": found.logprobs.isnan().any(dim=-1) | (found.logprobs == torch.inf).any(dim=-1),
            f"names an id of {self.settings.d:,} or more": (ids >= self.settings.d).any(dim=-1),
            "names an id twice": (ordered[:, 1:] == ordered[:, :-1]).any(dim=-1),
            "holds nothing": ~used.any(dim=-1),
            "rises where it must fall": rises.any(dim=-1),
            f"holds probabilities that sum to more than {MOST_MASS:g}": total > MOST_MASS,
        }
        for what, where in problems.items():
            if bool(where.any()):
                raise _bad(
                    place,
                    f"{what}, at position {int(where.nonzero()[0])}",
                    why="the settings are not those that the capture was written with, or the file is damaged",
                )


def as_topk(found: Restored, n_entries: int) -> tuple[TopK, Float[Tensor, " P"]]:
    """Return what was kept as distributions over the student's entries, and what each list summed to, ``[P]``.

    Ids that the student does not have get no mass, and the others share theirs. Where a list sums to more than 1,
    entries that lie on a curve alone share what those that are written leave them.
    """
    logprobs, is_written = found.logprobs.double(), found.error.isfinite()
    is_used = logprobs > numerics.LOG_ZERO
    given = torch.where(is_used, logprobs.exp(), 0)
    written, curved = (torch.where(which, given, 0).sum(dim=-1, keepdim=True) for which in (is_written, ~is_written))
    room, tiny = (1 - written).clamp_min(0), torch.finfo(torch.float64).tiny
    of_curve = torch.where(curved > room, room / curved.clamp_min(tiny), 1)
    mass = given * torch.where(is_written, 1 / written.clamp_min(1), of_curve)
    is_own = is_used & (found.ids < n_entries) & (mass > 0)
    left = 1 - mass.masked_fill(is_own, 0).sum(dim=-1)
    own = mass.masked_fill(~is_own, 0) / left.clamp_min(tiny).unsqueeze(-1)
    is_full = (curved >= room).squeeze(-1)  # then rounding alone decides what the sum leaves
    rest = torch.where(is_full, 0, 1 - own.sum(dim=-1)).clamp_min(0)
    ids = torch.where(is_own, found.ids, -1)
    topk = TopK(ids, numerics.log_of(own).float(), numerics.log_of(rest).float(), n_entries)
    return topk, (written + curved).squeeze(-1).float()


@lru_cache(maxsize=2)
def _group(file: Path, group: int) -> pa.Table:
    # Rows are asked for in the order in which they lie, more or less: a group is read once.
    return _read(_opened(file), file, group, (TOKENS, LOGPROBS, IDS))


def _opened(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read the capture: {_line(error)}", where=str(file), help="copy it again") from error
    names = opened.schema_arrow.names
    missing = [name for name in (TOKENS, LOGPROBS, IDS) if name not in names]
    if missing:
        raise DataError(
            f"the capture has no column `{missing[0]}`",
            where=str(file),
            why=next((why for name, why in _OTHERS.items() if name in names), f"it has {', '.join(names) or 'none'}"),
            help="captures of `logprob_compressor` are read; capture again with it",
        )
    for name, depth in ((TOKENS, 1), (LOGPROBS, 2), (IDS, 2)):
        _require_type(file, name, opened.schema_arrow.field(name).type, depth)
    return opened


def _require_type(file: Path, name: str, given: pa.DataType, depth: int) -> None:
    kind = given
    for _ in range(depth):
        kind = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else pa.null()
    if not pa.types.is_integer(kind):
        wanted = "lists of " * depth + "whole numbers"
        raise DataError(f"column `{name}` holds {given}", where=str(file), why=f"a capture has {wanted} there")


def _read(opened: pq.ParquetFile, file: Path, group: int, names: Sequence[str]) -> pa.Table:
    try:
        table = opened.read_row_group(group, columns=list(names))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot read the capture: {_line(error)}", where=f"{file}, row group {group}", help="copy it again"
        ) from error
    for name in names:
        if table[name].null_count:
            raise DataError(f"column `{name}` has rows without a value", where=f"{file}, row group {group}")
    return table


def _flat(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False), _offsets(array)


def _offsets(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy()
    return offsets - offsets[0]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _bad(place: Place, what: str, *, why: str = "") -> DataError:
    help = "give the settings that the capture was written with: --config FILE" if why else "copy it again"
    return DataError(f"a row of the capture {what}", where=f"{place.file.parent / place.name}", why=why, help=help)
