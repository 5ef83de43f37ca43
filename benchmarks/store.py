"""How fast a store is read, and what memory that takes.

    python benchmarks/store.py                # SmolLM2-135M beside it; some minutes
    python benchmarks/store.py --smoke        # a random model, sizes too small to mean anything

Three ways to read, in positions a second of processor time on one thread: `shards` streams them, hashes, pages and rows
proved; `targets` is what a run does before its first step, from the store into the mapped file of answers, every row
found by what was asked; `batches` is what a step asks of that file, rows in a random order. The pace of the teacher is
its bare forward pass on rows of that length. Memory is what a process has of its own (RssAnon; pages of files can be
taken back) while it reads stores of several sizes, a process for each.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.corpus_rows import Real, smollm2, tiny
from harness.machine import processor
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

LEAST = 20
"""Times the pace of the teacher's forward pass."""


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


def fill(folder: Path, corpus: Corpus, answers: list[Scored], layout: Layout) -> None:
    """Write a store in which rows have the given answers, again and again."""
    contents = [content_of(corpus.inputs(torch.tensor([n])), 0) for n in range(len(corpus))]
    shards = cut(corpus.n_counted.tolist(), [row.id for row in corpus.rows], contents, at_most=2**14)
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


def memory(folder: Path, corpus: Corpus, n_entries: int) -> int:
    """Return the most memory in bytes that reading takes above what the process had, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_remembered, args=(send, folder, corpus, n_entries))
    child.start()
    try:
        return receive.recv()
    finally:
        child.join()


def _remembered(send: Any, folder: Path, corpus: Corpus, n_entries: int) -> None:
    torch.set_num_threads(1)
    before, most = _own(), 0
    for _ in StoredTeacher("one", folder, words(n_entries)).shards():
        most = max(most, _own())
    teacher = StoredTeacher("one", folder, words(n_entries))
    with tempfile.TemporaryDirectory() as place:
        targets = collect(teacher, corpus, Path(place))
        most = max(most, _own())
        for index in torch.randperm(len(corpus)).split(16):
            targets.batch(index, int(corpus.lengths.max()))
            most = max(most, _own())
    send.send(most - before)


def _own() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


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
        for size in sorted({*sizes, n_rows}):
            corpus = corpus_of([real.rows[n % len(real.rows)] for n in range(size)])
            folder = Path(place) / str(size)
            fill(folder, corpus, answers, layout)
            if size in sizes:
                most[size * len(real.rows[0])] = memory(folder, corpus, layout.n_entries) / 2**20
            if size == n_rows:
                for name, pace in paces(folder, corpus, layout.n_entries).items():
                    lines.append({"name": name, "pace": pace, "times": pace / teacher})
    return {
        "teacher": real.name,
        "positions": n_rows * len(real.rows[0]),
        "forward": teacher,
        "forward_and_softmax": with_softmax,
        "lines": lines,
        "memory_mib": most,
        "machine": {"processor": processor(), "torch": torch.__version__, "threads": 1},
    }


def main() -> int:
    """Read the command line, measure, and say whether reading is fast enough and memory does not grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="rows of 128 tokens that are read")
    parser.add_argument("--smoke", action="store_true", help="sizes too small to mean anything")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = run(tiny(2), 16, [8, 16]) if options.smoke else run(smollm2(8), options.rows, [256, 512, 1024, 2048])
    rows = [["", "positions/s", "x forward"]]
    rows.append([f"{record['teacher']}, forward", f"{record['forward']:,.0f}", "1"])
    rows += [[one["name"], f"{one['pace']:,.0f}", f"{one['times']:.0f}"] for one in record["lines"]]
    print(aligned(rows))
    print(", ".join(f"{n:,} positions: {most:.0f} MiB" for n, most in record["memory_mib"].items()))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    slow = [one["name"] for one in record["lines"] if one["times"] < LEAST]
    if slow and not options.smoke:
        print(f"slower than {LEAST} times the teacher's forward pass: {', '.join(slow)}")
    return int(bool(slow) and not options.smoke)


if __name__ == "__main__":
    raise SystemExit(main())
