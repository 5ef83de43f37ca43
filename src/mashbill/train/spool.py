"""Answers on their way into a file: written in any order, never all in memory."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from mashbill import numerics
from mashbill.shapes import Int, Tensor

_KINDS = {"F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
# Wide numbers first, so that each lies at a multiple of its size.
_FILL = {"ids": -1, "logprobs": numerics.LOG_ZERO}
_AT_ONCE = 2**14


class Spool:
    """A safetensors file with one slot an answer, written through memory that the system can take back.

    Slot 0 stands for *none asked*. How wide lists are shows with the first answers; if wider ones come later, the file
    is laid out anew.

    Args:
        path: Where to write; not yet a file that anybody reads.
        n_slots: Slots, slot 0 among them.
        none: Values of slot 0, from the number of entries and whether answers are dense.
    """

    def __init__(self, path: Path, n_slots: int, none: Callable[..., Mapping[str, float]]) -> None:
        self._path, self._n_slots, self._none = path, n_slots, none
        self._columns: dict[str, np.ndarray] = {}

    def write(self, slots: Int[Tensor, " A"], answers: Mapping[str, Tensor], *, n_entries: int) -> None:
        """Write some answers, ``[A ...]``.

        Raises:
            OSError: The disk is full.
        """
        given = {name: _narrow(name, values).numpy() for name, values in answers.items()}
        known = self._columns.get("logprobs")
        if known is None or given["logprobs"].shape[1] > known.shape[1]:
            self._lay_out(given, n_entries)
        place = slots.numpy()
        for name, values in given.items():
            column = self._columns[name]
            if name in _FILL and "ids" in given:
                column[place, values.shape[1] :] = _FILL[name]
                column[place, : values.shape[1]] = values
            else:
                column[place] = values

    def finish(self) -> None:
        """Let the file go."""
        for column in self._columns.values():
            if isinstance(column, np.memmap):
                column.flush()
        self._columns = {}

    def _lay_out(self, given: Mapping[str, np.ndarray], n_entries: int) -> None:
        before, aside = self._columns, self._path.with_name(f"{self._path.name}.wider")
        shapes = {name: (self._n_slots, *values.shape[1:]) for name, values in given.items()}
        self._columns = laid_out(aside, {name: (given[name].dtype, shape) for name, shape in shapes.items()})
        for name, value in self._none(n_entries, dense="ids" not in given).items():
            self._columns[name][0] = value
        for name, old in before.items():
            new = self._columns[name]
            for start in range(0, self._n_slots, _AT_ONCE):
                here = slice(start, start + _AT_ONCE)
                if old.ndim == 2:
                    new[here, : old.shape[1]] = old[here]
                    new[here, old.shape[1] :] = _FILL.get(name, 0)
                else:
                    new[here] = old[here]
        aside.replace(self._path)


def laid_out(path: Path, columns: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Make a safetensors file of a given size, and return its tensors to be filled in.

    Raises:
        OSError: The disk has no room for it.
    """
    kinds = list(_KINDS.values())
    ordered = sorted(columns, key=lambda name: (kinds.index(columns[name][0]), name))
    header, end = {}, 0
    for name in ordered:
        dtype, shape = columns[name]
        begin, end = end, end + dtype.itemsize * int(np.prod(shape))
        kind = next(kind for kind, known in _KINDS.items() if known == dtype)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # Room is taken now: a page that finds none later would end the process.
        try:
            if end:
                os.posix_fallocate(file.fileno(), file.tell(), end)
        except OSError:
            path.unlink()
            raise
    found = {}
    for name in ordered:
        dtype, shape = columns[name]
        at = 8 + len(text) + header[name]["data_offsets"][0]
        is_empty = 0 in shape
        found[name] = np.zeros(shape, dtype) if is_empty else np.memmap(path, dtype, "r+", at, shape)
    return found


def _narrow(name: str, values: Tensor) -> Tensor:
    return values.to(torch.int32) if name == "ids" else values
