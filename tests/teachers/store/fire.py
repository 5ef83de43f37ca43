"""Workers that fill a store and are killed at random moments."""

import os
import signal
import time
from pathlib import Path

from teachers.store.worlds import answered, plan_of

from mashbill.teachers.store.capturing import capture

REFUSED = (3, 17)
"""Rows that the teacher cannot answer."""


def asking(asked, log=None, *, seconds=0.0, refused=REFUSED):
    def ask(shard):
        if log is not None:
            with Path(log).open("a") as file:  # One short write is whole, whoever else writes.
                file.write(f"{shard.number}\n")
        time.sleep(seconds)
        return answered(asked, range(shard.first, shard.first + shard.n_rows), refused=refused)

    return ask


def bytes_of(folder):
    """Return what is in a store, without claims and what a killed worker left half written."""
    names = [one for one in Path(folder).rglob("*") if one.is_file() and not one.name.startswith(".")]
    return {str(one.relative_to(folder)): one.read_bytes() for one in names}


def forked(folder, asked, log, **options):
    child = os.fork()
    if child == 0:
        try:
            capture(folder, plan_of(asked), asking(asked, log, seconds=0.003), reserve=0, **options)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def fill_under_fire(folder, asked, generator, *, most_kills, n_workers=2):
    """Fill a store with workers of which one is killed now and then and replaced; return how often."""
    log, n_kills = folder.with_name(f"{folder.name} log"), 0
    running = [forked(folder, asked, log) for _ in range(n_workers)]
    while running:
        time.sleep(generator.uniform(0.001, 0.06))
        victim = generator.choice(running)
        done, status = os.waitpid(victim, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            running.remove(victim)
        elif n_kills < most_kills:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            n_kills += 1
            running[running.index(victim)] = forked(folder, asked, log)
    return n_kills
