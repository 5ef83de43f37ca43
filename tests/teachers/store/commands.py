"""The command `mashbill capture` as a user gives it, with helpers, questions laid down and two sets; and killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from teachers.store.fire import bytes_of

from mashbill.teachers.store.claims import FILE as CLAIMS
from mashbill.teachers.store.files import read_index
from mashbill.teachers.store.finishing import MANIFEST
from mashbill.teachers.store.plan import FILE, Plan

ROWS = {"train": 72, "held_out": 36}
RECIPE = """\
version: 1
student: {kind: classifier, architecture: hashed_ngram, options: {buckets: 64, dim: 4, hidden: 4}, labels: [a, b, c]}
teachers: [{id: slow, plugin: slow, store: store, batch_size: 3}]
data: {format: classification, train: train.jsonl, eval: {held_out: held_out.jsonl}}
output: run
"""
TEACHER = """\
import hashlib, os, time

class Teacher:
    labels = ["a", "b", "c"]

    def predict(self, texts):
        time.sleep(float(os.environ["SECONDS"]))
        each = [hashlib.sha256(text.encode()).digest()[:3] for text in texts]
        return [{label: (n + 1) / (sum(one) + 3) for label, n in zip("abc", one)} for one in each]

MASHBILL_PLUGINS = {"teachers": {"slow": Teacher}}
"""


def write_recipe(place, *, shard_positions=6):
    """Write a recipe with two sets, and a teacher that takes its time."""
    place.mkdir(parents=True)
    (place / "slow.py").write_text(TEACHER)
    (place / "recipe.yaml").write_text(RECIPE + f"capture: {{k: 3, shard_positions: {shard_positions}}}\n")
    for name, n in ROWS.items():
        texts = (hashlib.sha256(f"{name} {row}".encode()).hexdigest() for row in range(n))
        lines = [
            json.dumps({"id": f"{name} {row}", "text": text, "label": "abc"[row % 3]}) for row, text in enumerate(texts)
        ]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def started(place, *, n_workers=2, seconds=0.1):
    """Start the command in a process group of its own; what it says goes to a file beside the recipe."""
    path = os.pathsep.join([str(place), *(one for one in sys.path if one)])
    options = ["--workers", str(n_workers), "--plugin", "slow"]
    with (place / "said").open("a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "mashbill", "capture", "recipe.yaml", *options],
            cwd=place,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SECONDS": str(seconds)},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def fill_under_fire(place, generator, *, most_kills, seconds):
    """Give the command again and again until it is done, killing it at random moments; return what each kill hit.

    Args:
        place: The recipe's folder.
        generator: Draws moments and victims.
        most_kills: After so many it is left alone.
        seconds: About how long the undisturbed command takes.
    """
    found = []
    running = started(place)
    groups = {running.pid}
    while True:
        try:
            code = running.wait(generator.uniform(0, seconds) if len(found) < most_kills else 300)
        except subprocess.TimeoutExpired:
            assert len(found) < most_kills, (place / "said").read_text()
            found.append((_stage(place / "store"), _struck(running, generator)))
            if running.poll() is not None:
                running = started(place)  # at once: a helper whose command was killed may still be at work
                groups.add(running.pid)
            continue
        assert code == 0, (place / "said").read_text()
        break
    until = time.monotonic() + 60
    while _alive(groups):
        assert time.monotonic() < until, "helpers outlive their commands"
        time.sleep(0.05)
    return found


def rows_of(store):
    """Return the ids of all rows in the shards of a folder of stores, as often as they are there."""
    plans = {one.parent: Plan.read(one.parent) for one in sorted(store.glob(f"*/{FILE}"))}
    return [row for folder, plan in plans.items() for shard in plan.shards for row, _ in read_index(folder, shard)]


def left_over(store):
    """Return hidden files and folders, which only killed commands leave behind, but for the locks."""
    return [one for one in Path(store).rglob(".*") if one.name != CLAIMS]


def whole(place, **options):
    """Let the command fill a store undisturbed; return its bytes and how many seconds it took."""
    write_recipe(place)
    begun = time.monotonic()
    assert started(place, **options).wait(300) == 0, (place / "said").read_text()
    return bytes_of(place / "store"), time.monotonic() - begun


def _struck(running, generator):
    """Kill the command, one of its helpers, or all of them; say which."""
    helpers = _helpers(running.pid)
    victim = generator.choice(["the command", "a helper", "all"]) if helpers else "the command"
    if victim == "a helper":
        os.kill(generator.choice(helpers), signal.SIGKILL)
        return victim
    if victim == "all":
        os.killpg(running.pid, signal.SIGKILL)
    running.kill()
    running.wait()
    return victim


def _stage(store):
    if not list(store.glob(f"*/{FILE}")):
        return "before it began"
    n_whole = len(list(store.glob(f"*/{MANIFEST}")))
    return "after the last shard" if n_whole == len(ROWS) else "while it filled"


def _helpers(command):
    try:
        children = Path(f"/proc/{command}/task/{command}/children").read_text().split()
        return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    except OSError:
        return []


def _alive(groups):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) in groups and state not in "ZX":
            found.append(stat.parent.name)
    return found
