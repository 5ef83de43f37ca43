"""Fill a store: shard by shard, by any number of workers, killed and started again as often as it takes.

What is asked about a shard, and so its bytes, depends on nothing but the plan. A shard that is there is never asked
about again; one that is not is asked about by whoever claims it first.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mashbill.durable import make_folder, sweep, write_text
from mashbill.errors import CorruptionError, MashbillError
from mashbill.progress import Progress, Silent
from mashbill.teachers.store.claims import Claims
from mashbill.teachers.store.columns import Answered
from mashbill.teachers.store.files import Note, read_note, write_shard
from mashbill.teachers.store.finishing import finish
from mashbill.teachers.store.plan import FILE, SHARDS, Plan, Shard

RESERVE = 2**28
"""Bytes of the disk that are left free."""
_WAIT = 0.2
# Seconds between looks at shards that others are at.

Ask = Callable[[Shard], Answered]
"""Asks the teacher about the rows of a shard."""


@dataclass(frozen=True)
class Work:
    """Which shards are this worker's.

    Attributes:
        rank: Number of this machine among ``world``; it takes every ``world``-th shard.
        world: How many machines there are. Workers on one machine share its shards as they come.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank={self.rank!r} must be at least 0 and below world={self.world!r}")

    def of(self, plan: Plan) -> Sequence[Shard]:
        """Return this machine's shards."""
        return plan.shards[self.rank :: self.world]


def capture(
    folder: Path,
    plan: Plan,
    ask: Ask,
    *,
    work: Work | None = None,
    progress: Progress | None = None,
    reserve: int = RESERVE,
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Ask about every shard that is not there yet, and return when all of this machine's are.

    Args:
        folder: Of the store; made if it is not there.
        plan: What the store is to hold.
        ask: Asks about a shard; whatever it raises ends the work, and what is there is kept.
        work: Which shards are this machine's.
        progress: Shown positions, how many a second, and so how long it will take.
        reserve: Bytes of the disk that are left free.
        go_on: Asked before each shard; the work ends early when it says no.

    Raises:
        MashbillError: The folder holds a store of something else, or the disk is nearly full; what is there is kept.
    """
    begin(folder, plan)
    do = partial(_do, folder, plan, ask, reserve)
    mine = (work or Work()).of(plan)
    left = [one for one in mine if read_note(folder, plan, one) is None]
    shown, started, done = progress or Silent(), time.monotonic(), 0
    there = f", {len(mine) - len(left):,} of {len(mine):,} shards are there" if len(left) < len(mine) else ""
    shown.start(sum(one.n_positions for one in left), f"capturing {plan.teacher.get('source', '')}{there}")
    with closing(Claims(folder)) as claims:
        while left and go_on():
            settled = _first_settled(folder, plan, left, claims, do)
            left = [one for one in left if one not in settled]
            done += (n_positions := sum(one.n_positions for one in settled))
            if settled:
                shown.advance(n_positions, **{"tokens/s": done / (time.monotonic() - started)})
            else:  # Another worker is at them, or dies at them.
                time.sleep(_WAIT)
    shown.done()
    finish(folder, plan)


def capture_shard(folder: Path, plan: Plan, shard: Shard, ask: Ask, *, reserve: int = RESERVE) -> None:
    """Ask about one shard of a store that was begun, unless it is there; wait while another worker is at it.

    This is all that an engine with an order of its own has to do, as often as it likes; :func:`finish` ends it.

    Raises:
        MashbillError: As :func:`capture`.
    """
    do = partial(_do, folder, plan, ask, reserve)
    with closing(Claims(folder)) as claims:
        while not _first_settled(folder, plan, [shard], claims, do):
            time.sleep(_WAIT)


def begin(folder: Path, plan: Plan) -> None:
    """Make the folder and its plan, or see that it is the same.

    Raises:
        MashbillError: It is another one, or the folder holds something else, or cannot be written to.
    """
    require_startable(folder, plan)
    if (folder / FILE).exists():
        return
    try:
        make_folder(folder / SHARDS)
        with closing(Claims(folder)) as claims, claims.alone():  # Workers begin together.
            sweep(folder, FILE)
            if not (folder / FILE).exists():
                write_text(folder / FILE, plan.text)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    require_same(folder, plan)


def require_startable(folder: Path, plan: Plan) -> None:
    """Refuse a folder in which this plan can neither be begun nor gone on with. Nothing is written.

    Raises:
        MashbillError: It is the store of something else, or holds other files, or cannot be written to.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise MashbillError(f"`{nearest}` is a file, not a folder", help="choose another `store`")
    if not (folder / FILE).exists():
        require_free(folder)
    if (folder / FILE).exists():
        require_same(folder, plan)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"no right to write to `{nearest}`")


def _unwritable(folder: Path, why: str) -> MashbillError:
    return MashbillError(f"cannot write a store to `{folder}`: {why}", help="choose another `store`")


def require_free(folder: Path) -> None:
    """Refuse a folder that holds something that is no store, or what is left of one whose plan is gone.

    Raises:
        MashbillError: It does.
        CorruptionError: There are shards, and nothing says whose.
    """
    if not folder.is_dir():
        return
    shards, others = list(folder.glob(f"{SHARDS}/[!.]*")), {one.name for one in folder.glob("[!.]*")} - {FILE, SHARDS}
    if (folder / FILE).exists():  # It has come since: workers begin together.
        return
    if shards:
        raise CorruptionError(
            f"`{folder}` holds {SHARDS}, but no {FILE}",
            where=str(folder / FILE),
            why="nothing says whose answers they are, and to which rows",
            help=f"restore {FILE}, or delete the folder to ask about all of its rows again",
        )
    if others:
        raise MashbillError(
            f"`{folder}` holds files, but no store", why="nothing is overwritten", help="choose another `store`"
        )


def require_same(folder: Path, plan: Plan) -> None:
    """Refuse a folder that holds a store of something else.

    Raises:
        MashbillError: It is of another teacher, other rows or other settings.
    """
    before = Plan.read(folder)
    if before.digest != plan.digest:
        raise MashbillError(
            f"`{folder}` is the store of something else: {', '.join(_differences(before, plan))}",
            where=str(folder / FILE),
            why="answers of different teachers, rows or settings do not mix",
            help="choose another `store`, or delete this one",
        )


def _first_settled(
    folder: Path, plan: Plan, left: Sequence[Shard], claims: Claims, do: Callable[[Shard], object]
) -> Sequence[Shard]:
    """Do the first shard that nobody is at; return it and those that others have done meanwhile."""
    settled = []
    for shard in left:
        if read_note(folder, plan, shard) is None:
            with claims.claimed(shard.number) as is_mine:
                if not is_mine:
                    continue
                if read_note(folder, plan, shard) is None:  # It may have come between the look and the claim.
                    do(shard)
                    return [*settled, shard]
        settled.append(shard)
    return settled


def _do(folder: Path, plan: Plan, ask: Ask, reserve: int, shard: Shard) -> None:
    sweep(folder / SHARDS, shard.name)  # whoever has claimed the shard is alone with its files
    _require_room(folder, plan, shard, reserve)
    _write(folder, plan, shard, ask(shard))


def _write(folder: Path, plan: Plan, shard: Shard, answered: Answered) -> Note:
    try:
        return write_shard(folder, plan, shard, answered)
    except OSError as error:
        raise MashbillError(
            f"cannot write shard {shard.name}: {error.strerror or error}",
            where=str(folder / SHARDS),
            why="every shard that is there is whole",
            help="make room or give the right to write; the same command goes on where this one stopped",
        ) from error


def expected_bytes(plan: Plan, n_positions: int) -> int:
    """Estimate what positions take on the disk, generously: ids and numbers hardly compress."""
    layout = plan.layout
    of_entry = 4.5
    return int(n_positions * (of_entry * min(layout.k, layout.n_entries) + 4 * (9 + len(layout.classes)))) + 2**16


def require_room(place: Path, *, free: int, needed: int, reserve: int) -> None:
    """Refuse work for which the disk is too small.

    Raises:
        MashbillError: It is.
    """
    if free - needed < reserve:
        raise MashbillError(
            f"the disk is too small: {free / 2**20:,.0f} MiB are free, and the store may take {needed / 2**20:,.0f}",
            where=str(place),
            why=f"{reserve / 2**20:,.0f} MiB are left free for others",
            help="make room, choose a `store` on another disk, or keep less: capture.k, capture.mass",
        )


def _require_room(folder: Path, plan: Plan, shard: Shard, reserve: int) -> None:
    free, needed = shutil.disk_usage(folder).free, expected_bytes(plan, shard.n_positions)
    if free - needed < reserve:
        raise MashbillError(
            f"the disk is nearly full: {free / 2**20:,.0f} MiB are free, and the next shard may take"
            f" {needed / 2**20:,.0f}",
            where=str(folder),
            why=f"{reserve / 2**20:,.0f} MiB are left free for others; every shard that is there is whole",
            help="make room; the same command goes on where this one stopped",
        )


def _differences(before: Plan, plan: Plan) -> list[str]:
    found = [
        f"the teacher's {name} differs"
        for name in sorted({*before.teacher, *plan.teacher})
        if before.teacher.get(name) != plan.teacher.get(name)
    ]
    if before.vocabulary != plan.vocabulary:
        found.append("the vocabulary differs")
    if before.layout != plan.layout:
        found.append("what is kept differs")
    if before.shards != plan.shards:
        found.append("the rows differ")
    return found
