"""What can happen to a store's files, and what is said of it then."""

import shutil

from mashbill.errors import MashbillError
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.verifying import verify


def flip(file, generator, stale):
    content = bytearray(file.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content)
    return [file]


def cut_short(file, generator, stale):
    content = file.read_bytes()
    file.write_bytes(content[: generator.randrange(len(content))])
    return [file]


def blank(file, generator, stale):
    content = bytearray(file.read_bytes())
    start = generator.randrange(len(content))
    n = min(len(content) - start, generator.randrange(1, 200))
    while not any(content[start : start + n]):
        start, n = start - 1, n + 1
    content[start : start + n] = bytes(n)
    file.write_bytes(content)
    return [file]


def lose(file, generator, stale):
    file.unlink()
    return [file]


def swap(file, generator, stale):
    """Exchange two shards: the files, the notes, or both."""
    a, b = generator.sample(sorted(file.parent.parent.glob("shards/*.parquet")), 2)
    for ending in generator.choice([(".parquet",), (".json",), (".parquet", ".json")]):
        one, other = a.with_suffix(ending), b.with_suffix(ending)
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    return [a, b]


def go_back(file, generator, stale):
    """Put a file of an older store in its place; a shard's with or without its note."""
    files = [file]
    if file.suffix == ".parquet" and generator.random() < 0.5:
        files.append(file.with_suffix(".json"))
    for one in files:
        shutil.copy(stale / one.relative_to(file.parent.parent if file.parent.name == "shards" else file.parent), one)
    return [file]


DAMAGES = [flip, cut_short, blank, lose, swap, go_back]


def damaged(whole, stale, place, generator, damage):
    """Copy a store and damage it; return the files of which something has to be said."""
    shutil.copytree(whole, place)
    files = sorted(one for one in place.rglob("*") if one.is_file() and not one.name.startswith("."))
    if damage is swap:
        files = [one for one in files if one.parent.name == "shards"]
    return damage(generator.choice(files), generator, stale)


def found_in(folder):
    """Return what is said of a store: problems, or the refusal to look at it."""
    try:
        health = verify(folder)
    except MashbillError as error:
        return [str(error)], []
    return [str(one) for one in health.problems], list(health.missing)


def is_named(file, plan: Plan, told):
    """Say whether a file is named, and, if it is a shard's, the rows in it."""
    if file.parent.name != "shards":
        return file.name in told
    shard = next(one for one in plan.shards if one.name == file.stem)
    return f"{file.stem}." in told and shard.rows in told
