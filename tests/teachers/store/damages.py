"""What can happen to a store's files, and what is said of it then."""

import shutil

from mashbill.errors import MashbillError
from mashbill.teachers.store.verifying import verify


def flip(file, generator):
    content = bytearray(file.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content)


def cut_short(file, generator):
    content = file.read_bytes()
    file.write_bytes(content[: generator.randrange(len(content))])


def blank(file, generator):
    content = bytearray(file.read_bytes())
    start = generator.randrange(len(content))
    n = min(len(content) - start, generator.randrange(1, 200))
    while not any(content[start : start + n]):
        start, n = start - 1, n + 1
    content[start : start + n] = bytes(n)
    file.write_bytes(content)


def lose(file, generator):
    file.unlink()


DAMAGES = [flip, cut_short, blank, lose]


def damaged(whole, place, generator, damage):
    shutil.copytree(whole, place)
    files = sorted(one for one in place.rglob("*") if one.is_file() and not one.name.startswith("."))
    file = generator.choice(files)
    damage(file, generator)
    return file


def found_in(folder):
    """Return what is said of a store: problems, or the refusal to look at it."""
    try:
        health = verify(folder)
    except MashbillError as error:
        return [str(error)], []
    return [str(one) for one in health.problems], list(health.missing)
