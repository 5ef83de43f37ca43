"""A store that is made anew beside the one that is there: other rows, or rows that got no answer, of the same teacher.

Nothing that was paid for is lost, whenever somebody is killed: the store that is there stays as it is until the new one
is complete, which takes over its answers; then the two change places. Those that nobody needs any more are removed.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from mashbill.durable import sync, written_aside
from mashbill.teachers.store.claims import FILE as CLAIMS
from mashbill.teachers.store.claims import Claims
from mashbill.teachers.store.files import path_of, read_note
from mashbill.teachers.store.known import Known
from mashbill.teachers.store.plan import FILE, SHARDS, Plan, Shard


def beside(place: Path) -> Path:
    """Return the folder of stores that are being made for a place, or that stood there."""
    return place.with_name(f".beside-{place.name}")


def folder_for(place: Path, plan: Plan, *, again: bool = False) -> Path:
    """Return where a store is to be filled: at its place, or beside the one that is there.

    Args:
        place: Where the store is to lie.
        plan: What it is to hold.
        again: Whether rows that got no answer are to be asked about again.

    Raises:
        CorruptionError: What is there is not what was written.
    """
    anew = beside(place) / f"new-{plan.digest[:16]}"
    if not (place / FILE).exists():  # A kill between two renames leaves nothing there.
        return anew if not place.exists() and (anew / FILE).exists() else place
    before = Plan.read(place)
    if before.digest == plan.digest:
        return anew if again and any(not is_answered(place, plan, one) for one in plan.shards) else place
    return anew if _differ_in_rows(before, plan) else place


def is_answered(folder: Path, plan: Plan, shard: Shard) -> bool:
    """Say whether a shard is there, and no row of it was refused."""
    note = read_note(folder, plan, shard)
    return note is not None and not note.n_refused


def stores_for(place: Path, folder: Path, plan: Plan) -> Mapping[Path, Plan]:
    """Return the stores whose answers the one that is filled at ``folder`` takes over.

    Raises:
        CorruptionError: A plan is not what was written.
    """
    others = [one for one in (place, *sorted(beside(place).glob("*/"))) if one != folder and (one / FILE).exists()]
    plans = {one: Plan.read(one) for one in others}
    return {one: other for one, other in plans.items() if _differ_in_rows(other, plan)}


def carry(place: Path, folder: Path, plan: Plan) -> None:
    """Bring shards of the same plan over in which every row is answered."""
    mine = [one for one in plan.shards if is_answered(place, plan, one) and read_note(folder, plan, one) is None]
    for ending in (".parquet", ".json"):
        for shard in mine:
            _link(path_of(place, shard).with_suffix(ending), path_of(folder, shard).with_suffix(ending))
        sync(folder / SHARDS)  # the note comes after what it speaks of


def settle(place: Path, folder: Path) -> None:
    """Put a complete store in its place, and what is there beside it."""
    root = beside(place)
    with closing(Claims(root)) as claims, claims.alone():
        if (folder / FILE).exists():  # else another command has done it
            if place.exists():
                place.rename(next(one for n in count() if not (one := root / f"old-{n}").exists()))
                sync(root)
                sync(place.parent)
            folder.rename(place)
            sync(place.parent)
            sync(root)


def tidy(place: Path) -> Mapping[Path, int]:
    """Remove the stores beside a complete one that hold no answer but its own; count such answers of the others."""
    root, kept = beside(place), {}
    if not root.is_dir():
        return kept
    plan = Plan.read(place)
    here = Known({place: plan})
    for one in sorted(root.glob("*/")):
        other = Plan.read(one) if (one / FILE).exists() else None
        keys = None if other is None else Known({one: other}).keys
        if other is not None and keys is not None:
            n = int((~here.has(keys)).sum()) if _differ_in_rows(other, plan) else len(keys)
            if n:
                kept[one] = n
                continue
        (one / FILE).unlink(missing_ok=True)  # what is half removed is no store
        shutil.rmtree(one, ignore_errors=True)
    if not kept:
        (root / CLAIMS).unlink(missing_ok=True)
        with suppress(OSError):  # another command is at work there
            root.rmdir()
    return kept


def _differ_in_rows(one: Plan, other: Plan) -> bool:
    """Say whether two plans are of one teacher, asked and kept alike: they differ in their rows, if at all."""
    return replace(one, shards=()) == replace(other, shards=())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the disk knows no links, or another command was faster
        with written_aside(target) as aside:
            shutil.copyfile(source, aside)
