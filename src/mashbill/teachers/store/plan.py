"""What a store holds, said before the first answer: whose, about which rows, kept how, cut into which shards.

Everything follows from the recipe and the rows, so that workers who never speak to each other write the same plan.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mashbill.errors import CorruptionError, MashbillError
from mashbill.teachers.store.layout import Layout

SCHEMA = 1
FILE = "store.json"
SHARDS = "shards"
_AGAIN = "capture the store again"


@dataclass(frozen=True)
class Shard:
    """Some rows that are asked about together and lie in one file.

    Attributes:
        number: Place among the shards.
        first: The first row.
        n_rows: How many.
        n_positions: Positions that count in them.
        content: The sha256 of their ids and of all that is asked about them.
    """

    number: int
    first: int
    n_rows: int
    n_positions: int
    content: str

    @property
    def name(self) -> str:
        """Name of its file without the ending."""
        return f"{self.number:06d}"

    @property
    def rows(self) -> str:
        """Its rows, for messages, counted from 0 in the store's order."""
        last = self.first + self.n_rows - 1
        return f"row {self.first:,}" if self.n_rows == 1 else f"rows {self.first:,} to {last:,}"


@dataclass(frozen=True)
class Plan:
    """The content of ``store.json``.

    Attributes:
        teacher: What pins the teacher down; see :meth:`mashbill.teachers.protocol.Teacher.identity`.
        vocabulary: The sha256 of the student's map from ids to tokens.
        layout: What is kept of a distribution.
        shards: In the order of the rows.
    """

    teacher: Mapping[str, str]
    vocabulary: str
    layout: Layout
    shards: tuple[Shard, ...]

    @property
    def n_rows(self) -> int:
        """Rows in all shards."""
        return sum(one.n_rows for one in self.shards)

    @property
    def n_positions(self) -> int:
        """Positions that count in all shards."""
        return sum(one.n_positions for one in self.shards)

    @cached_property
    def text(self) -> str:
        """The file's text."""
        values = {"schema": SCHEMA, "teacher": dict(sorted(self.teacher.items())), "vocabulary": self.vocabulary}
        values |= {"layout": asdict(self.layout), "shards": [asdict(one) for one in self.shards]}
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @cached_property
    def digest(self) -> str:
        """The sha256 of the file; every shard names it, so that none of another store is taken for one of this."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Read a store's plan.

        Raises:
            MashbillError: There is no store, or one of a later version.
            CorruptionError: The file is no plan.
        """
        file = folder / FILE
        try:
            text = file.read_text(encoding="utf-8")
            values = json.loads(text)
        except FileNotFoundError as error:
            raise MashbillError(
                f"no store at `{folder}`", why=f"it has no {FILE}", help="capture it: mashbill capture RECIPE"
            ) from error
        except (OSError, ValueError) as error:
            raise CorruptionError(f"cannot read `{file}`: {error}", help=_AGAIN) from error
        found = values.get("schema") if isinstance(values, dict) else None
        if isinstance(found, int) and found > SCHEMA:
            raise MashbillError(
                f"`{file}` has schema {found}, and this version reads up to {SCHEMA}", help="upgrade mashbill"
            )
        try:
            plan = cls._of(values)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(f"`{file}` is no plan of a store: {error!r}", help=_AGAIN) from error
        if plan.text != text:
            raise CorruptionError(f"`{file}` is not what was written", help=_AGAIN)
        return plan

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> "Plan":
        layout = {**values["layout"], "classes": tuple(values["layout"]["classes"])}
        shards = tuple(Shard(**one) for one in values["shards"])
        return cls(values["teacher"], values["vocabulary"], Layout(**layout), shards)


def content_of_rows(row_ids: Iterable[str], contents: Iterable[bytes]) -> str:
    """Return the sha256 of some rows, from the id of each and the sha256 of what is asked about it."""
    digest = hashlib.sha256()
    for row_id, content in zip(row_ids, contents, strict=True):
        digest.update(_told(row_id, content))
    return digest.hexdigest()


def cut(
    n_positions: Iterable[int], row_ids: Iterable[str], contents: Iterable[bytes], *, at_most: int
) -> tuple[Shard, ...]:
    """Cut rows into shards of at most so many positions, a row at least.

    Args:
        n_positions: Of each row.
        row_ids: Of each row.
        contents: The sha256 of what is asked about each row.
        at_most: Positions of a shard.
    """
    return cut_rows(zip(n_positions, row_ids, contents, strict=True), at_most=at_most)


def cut_rows(rows: Iterable[tuple[int, str, bytes]], *, at_most: int) -> tuple[Shard, ...]:
    """Cut rows, given as they come and not remembered, into shards: see :func:`cut`."""
    shards: list[Shard] = []
    first = n_rows = total = 0
    digest = hashlib.sha256()
    for n, row_id, content in rows:
        if n_rows and total + n > at_most:
            shards.append(Shard(len(shards), first, n_rows, total, digest.hexdigest()))
            first, n_rows, total, digest = first + n_rows, 0, 0, hashlib.sha256()
        digest.update(_told(row_id, content))
        n_rows, total = n_rows + 1, total + n
    if n_rows:
        shards.append(Shard(len(shards), first, n_rows, total, digest.hexdigest()))
    return tuple(shards)


def _told(row_id: str, content: bytes) -> bytes:
    name = row_id.encode("utf-8", "surrogatepass")
    return len(name).to_bytes(8, "little") + name + content
