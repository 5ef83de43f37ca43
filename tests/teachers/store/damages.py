"""What can happen to a store's files, or to a folder of stores, and what is said of it then."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout

from mashbill.cli.app import main
from mashbill.errors import MashbillError
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.verifying import verify


def flip(file, generator, older):
    content = bytearray(file.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content)
    return [file]


def cut_short(file, generator, older):
    content = file.read_bytes()
    file.write_bytes(content[: generator.randrange(len(content))])
    return [file]


def blank(file, generator, older):
    content = bytearray(file.read_bytes())
    start = generator.randrange(len(content))
    n = min(len(content) - start, generator.randrange(1, 200))
    while not any(content[start : start + n]):
        start, n = start - 1, n + 1
    content[start : start + n] = bytes(n)
    file.write_bytes(content)
    return [file]


def lose(file, generator, older):
    file.unlink()
    return [file]


def swap(file, generator, older):
    """Exchange two shards: the files, the notes, or both."""
    a, b = generator.sample(sorted(file.parent.glob("*.parquet")), 2)
    for ending in generator.choice([(".parquet",), (".json",), (".parquet", ".json")]):
        one, other = a.with_suffix(ending), b.with_suffix(ending)
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    return [a, b]


def go_back(file, generator, older):
    """Put a file of an older store in its place; a shard's with or without its note."""
    files = [file]
    if file.suffix == ".parquet" and generator.random() < 0.5:
        files.append(file.with_suffix(".json"))
    for one in files:
        shutil.copy(older.with_suffix(one.suffix), one)
    return [file]


def lose_shard(file, generator, older):
    """Lose a shard with its note."""
    for ending in (".parquet", ".json"):
        file.with_suffix(ending).unlink()
    return [file]


def lose_plan(file, generator, older):
    """Lose a set's plan."""
    plan = _set_of(file) / "store.json"
    plan.unlink()
    return [plan]


def lose_set(file, generator, older):
    """Lose a set with all of its files."""
    shutil.rmtree(_set_of(file))
    return [_set_of(file)]


DAMAGES = [flip, cut_short, blank, lose, swap, go_back]
DAMAGES_OF_SETS = [*DAMAGES, lose_shard, lose_plan, lose_set]


def damaged(whole, stale, place, generator, damage):
    """Copy a store or a folder of stores and damage it; return the files of which something has to be said."""
    shutil.copytree(whole, place)
    files = sorted(one for one in place.rglob("*") if one.is_file() and not one.name.startswith("."))
    if damage in (swap, lose_shard, lose_plan, lose_set):
        files = [one for one in files if one.parent.name == "shards"]
    file = generator.choice(files)
    return damage(file, generator, stale / file.relative_to(place))


def _set_of(shard):
    return shard.parent.parent


def found_in(folder):
    """Return what is said of a store: problems, or the refusal to look at it."""
    try:
        health = verify(folder)
    except MashbillError as error:
        return [str(error)], []
    return [str(one) for one in health.problems], list(health.missing)


def told_of(folder):
    """Return the exit code of `mashbill verify`, and what it says."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(["verify", str(folder)])
    return code, out.getvalue()


def is_named(file, plan: Plan, told):
    """Say whether a file and its folder are named, and, if it is a shard's, the rows in it."""
    if file.parent.name != "shards":
        return file.name in told and f"/{file.parent.name}/" in told
    shard = next(one for one in plan.shards if one.name == file.stem)
    return f"{_set_of(file).name}/shards/{file.stem}." in told and shard.rows in told
