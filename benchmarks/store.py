"""How fast a store is read, and what memory that takes.

    python benchmarks/store.py                # SmolLM2-135M beside it; some minutes
    python benchmarks/store.py --write        # and write what docs/store_sizes.md shows
    python benchmarks/store.py --smoke        # a random model, sizes too small to mean anything

Three ways to read, in positions a second of processor time on one thread: `shards` streams them, hashes, pages and rows
proved; `targets` is what a run does before its first step, from the store into the mapped file of answers, every row
found by what was asked; `batches` is what a step asks of that file, rows in a random order. The pace of the teacher is
its bare forward pass on rows of that length. Memory is the most that a fresh process takes of its own (RssAnon, looked
at every few milliseconds; pages of files can be taken back) above what it had with the rows, while it reads a store in
all three ways.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.corpus_rows import Real, smollm2, tiny
from harness.machine import processor
from harness.memory import own
from harness.render import markdown, replaced
from harness.tables import aligned

from mashbill.distributions import Dense, TopK, measure
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.columns import Answered, joined
from mashbill.teachers.store.content import content_of
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, Shard, cut
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train.corpus import Corpus, Ragged
from mashbill.train.data import Row
from mashbill.train.targets import collect

ROOT = Path(__file__).resolve().parents[1]
PAGE, RECORD = ROOT / "docs/store_sizes.md", ROOT / "docs/store_reading.json"
LEAST = 20
"""Times the pace of the teacher's forward pass."""
MOST_GROWTH = 16
"""MiB by which memory may differ between a store and one eight times as large."""
SHARD = 2**12
"""Positions of a shard where memory is measured: even the smaller store has more shards than are ever held."""
WAYS = {
    "shards": "a stream of shards, every hash checked",
    "targets": "from the store into a run's mapped file, every row found by what was asked",
    "batches": "rows of that file in a random order",
}


def corpus_of(rows: list[torch.Tensor]) -> Corpus:
    """Return rows of tokens as a run has them, every position counted."""
    none = torch.zeros(len(rows), dtype=torch.long)
    names = tuple(Row(f"row {number}", text=str(number)) for number in range(len(rows)))
    tokens = Ragged.of(rows)
    return Corpus(
        "causal_lm", names, tokens, tokens, ("one",), ("all",), ("all",),
        none, none, none - 1, torch.zeros(len(rows), 0), torch.zeros(len(rows), 0), none.bool(),
    )  # fmt: skip


def words(n: int) -> Vocabulary:
    """Return a vocabulary of any size."""
    return Vocabulary.from_labels([str(index) for index in range(n)])


def fill(folder: Path, corpus: Corpus, answers: list[Scored], layout: Layout, *, at_most: int = 2**14) -> None:
    """Write a store in which rows have the given answers, again and again."""
    contents = [content_of(corpus.inputs(torch.tensor([n])), 0) for n in range(len(corpus))]
    shards = cut(corpus.n_counted.tolist(), [row.id for row in corpus.rows], contents, at_most=at_most)
    plan = Plan({"kind": "benchmark", "source": "rows"}, words(layout.n_entries).digest, layout, shards)

    def one(n: int) -> Answered:
        tokens = corpus.inputs(torch.tensor([n])).input_ids
        assert tokens is not None
        here = np.arange(tokens.shape[1])
        return Answered(
            (corpus.rows[n].id,), (contents[n],), (tokens[0].numpy(),), np.array([0, len(here)]), here,
            answers[n % len(answers)], ("",),
        )  # fmt: skip

    def ask(shard: Shard) -> Answered:
        return joined([one(shard.first + n) for n in range(shard.n_rows)])

    capture(folder, plan, ask, reserve=0)


def paces(folder: Path, corpus: Corpus, n_entries: int) -> dict[str, float]:
    """Return positions a second of each way to read a store."""
    vocabulary, n_positions = words(n_entries), int(corpus.n_counted.sum())
    found = {}
    started = time.process_time()
    assert sum(len(one.positions) for one in StoredTeacher("one", folder, vocabulary).shards(seed=0)) == n_positions
    found["shards"] = n_positions / (time.process_time() - started)
    with tempfile.TemporaryDirectory() as place:
        started = time.process_time()
        targets = collect(StoredTeacher("one", folder, vocabulary), corpus, Path(place))
        found["targets"] = n_positions / (time.process_time() - started)
        order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(0))
        started = time.process_time()
        for index in order.split(16):
            targets.batch(index, int(corpus.lengths.max()))
        found["batches"] = n_positions / (time.process_time() - started)
    return found


def memory(folder: Path, rows: list[torch.Tensor], n_rows: int, n_entries: int) -> float:
    """Return the most MiB that reading takes above what the process had, in a fresh one."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    each = [row.tolist() for row in rows]
    child = context.Process(target=_remembered, args=(send, folder, each, n_rows, n_entries))
    child.start()
    send.close()
    try:
        return receive.recv()
    finally:
        child.join()


def _remembered(send: Any, folder: Path, rows: list[list[int]], n_rows: int, n_entries: int) -> None:
    torch.set_num_threads(1)
    corpus, vocabulary = corpus_of([torch.tensor(rows[n % len(rows)]) for n in range(n_rows)]), words(n_entries)
    before, most, is_done = own(), 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not is_done.wait(0.005):
            most = max(most, own())

    looking = threading.Thread(target=look)
    looking.start()
    for _ in StoredTeacher("one", folder, vocabulary).shards():
        pass
    with tempfile.TemporaryDirectory() as place:
        targets = collect(StoredTeacher("one", folder, vocabulary), corpus, Path(place))
        for index in torch.randperm(len(corpus)).split(16):
            targets.batch(index, int(corpus.lengths.max()))
    is_done.set()
    looking.join()
    send.send(most - before)


def run(real: Real, n_rows: int, sizes: list[int]) -> dict[str, Any]:
    """Measure everything."""
    real.logprobs(real.rows[0])
    started = time.process_time()
    logprobs = [real.logprobs(row) for row in real.rows]
    n_positions = sum(len(row) for row in real.rows)
    with_softmax = n_positions / (time.process_time() - started)
    started = time.process_time()
    with torch.no_grad():
        for row in real.rows:
            real.model(input_ids=row.unsqueeze(0), use_cache=False)
    teacher = n_positions / (time.process_time() - started)
    answers = [Scored(TopK.from_logprobs(one, k=64), measure(Dense(one))) for one in logprobs]
    answers = [replace(one, refused={}) for one in answers]
    layout = Layout(logprobs[0].shape[1], k=64)
    lines, most = [], {}
    with tempfile.TemporaryDirectory() as place:
        corpus = corpus_of([real.rows[n % len(real.rows)] for n in range(n_rows)])
        fill(Path(place) / "read", corpus, answers, layout)
        for name, pace in paces(Path(place) / "read", corpus, layout.n_entries).items():
            lines.append({"name": name, "pace": pace, "times": pace / teacher})
        for size in sizes:
            corpus, folder = corpus_of([real.rows[n % len(real.rows)] for n in range(size)]), Path(place) / str(size)
            fill(folder, corpus, answers, layout, at_most=SHARD)
            most[str(size * len(real.rows[0]))] = memory(folder, real.rows, size, layout.n_entries)
    return {
        "teacher": real.name,
        "positions": n_rows * len(real.rows[0]),
        "forward": teacher,
        "forward_and_softmax": with_softmax,
        "lines": lines,
        "memory_mib": most,
        "machine": {"processor": processor(), "torch": torch.__version__, "threads": 1},
    }


def problems(record: dict[str, Any]) -> list[str]:
    """Say what a record shows that must not be."""
    slow = [one["name"] for one in record["lines"] if one["times"] < LEAST]
    found = [f"slower than {LEAST} times the teacher's forward pass: {', '.join(slow)}"] if slow else []
    least, *_, most = record["memory_mib"].values()
    if most - least > MOST_GROWTH:
        found.append(f"memory grew by {most - least:.0f} MiB, not {MOST_GROWTH} at most")
    return found


def block(record: dict[str, Any]) -> str:
    """Return what the page shows of a record."""
    rows = [["", "positions/s", "x the teacher"]]
    rows.append(["the teacher's forward pass", f"{record['forward']:,.0f}", "1"])
    for one in record["lines"]:
        name, pace, times = one["name"], one["pace"], one["times"]
        rows += [[f"`{name}`: {WAYS[name]}", f"{pace:,.0f}", f"{times:,.0f}"]]
    memory = [["positions", "shards", "most in memory above the rows, MiB"]]
    memory += [[f"{int(n):,}", f"{int(n) // SHARD}", f"{mib:,.0f}"] for n, mib in record["memory_mib"].items()]
    return markdown(rows) + "\n\n" + markdown(memory)


def main() -> int:
    """Read the command line, measure, and say whether reading is fast enough and memory does not grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="rows of 128 tokens that are read")
    parser.add_argument("--smoke", action="store_true", help="sizes too small to mean anything")
    parser.add_argument("--write", action="store_true", help="write what the documentation shows")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = run(tiny(2), 16, [8, 16]) if options.smoke else run(smollm2(8), options.rows, [256, 2048])
    rows = [["", "positions/s", "x forward"]]
    rows.append([f"{record['teacher']}, forward", f"{record['forward']:,.0f}", "1"])
    rows += [[one["name"], f"{one['pace']:,.0f}", f"{one['times']:.0f}"] for one in record["lines"]]
    print(aligned(rows))
    print(", ".join(f"{int(n):,} positions: {most:.0f} MiB" for n, most in record["memory_mib"].items()))
    for path in [RECORD] * options.write + ([options.json] if options.json else []):
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), "reading", block(record)), encoding="utf-8")
    wrong = [] if options.smoke else problems(record)
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
