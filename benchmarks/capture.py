"""What capturing costs beside the teacher's bare forward pass, and what memory it takes.

    python benchmarks/capture.py                # SmolLM2-135M and a smaller shape; four minutes
    python benchmarks/capture.py --write        # and write what docs/store_sizes.md shows
    python benchmarks/capture.py --smoke        # a random model, sizes too small to mean anything

*capture* is `mashbill capture` with one worker, from a data file to the manifest: read and tokenised, laid down, asked,
normalised, measured, cut, encoded, compressed, hashed, synced. *forward* calls the same model with the tokens that the
store then holds, in the same batches, and drops its logits. Both compute with as many threads, in turns. What does not
grow with the rows, opening the model above all, is taken off: it is what capturing a single row takes. A share is the
forward pass's time over the capture's, of each round; shown are the median and the quartiles of rounds.

Memory is the most that a fresh process had resident while it captured short rows with a small language model.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.clock import quartiles
from harness.corpus_rows import LENGTH, manual, saved_shape, saved_smollm2, saved_tiny
from harness.machine import processor
from harness.memory import most_resident
from harness.render import markdown, replaced
from harness.tables import aligned
from torch.nn.utils.rnn import pad_sequence

from mashbill.teachers.store.files import read_shard
from mashbill.teachers.store.plan import Plan
from mashbill.train.capture import capture_recipe
from mashbill.train.loading import load_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGE, RECORD = ROOT / "docs/store_sizes.md", ROOT / "docs/store_capturing.json"
LEAST = 0.9
"""Share of the bare forward pass's pace, of a worker as a recipe has it that says nothing: with one thread."""
MOST_GROWTH = 16
"""MiB by which memory may differ between a data file and one eight times as large."""
BATCH = 8
RECIPE = """
version: 1
student: {{kind: causal_lm, model: {model}}}
teachers: [{{id: one, model: {model}, store: store, batch_size: {batch}}}]
data: {{format: text, train: rows.jsonl, max_length: {length}}}
capture: {{threads: {threads}, shard_positions: 4096}}
output: run
"""
HEAD = ["teacher", "threads", "tokens", "forward, tokens/s", "capture, tokens/s", "share", "quartiles"]


def write_recipe(folder: Path, model: Path, texts: Sequence[str], *, threads: int) -> Path:
    """Write a recipe and its data, and return where it lies."""
    lines = (json.dumps({"id": f"row {number}", "text": text}) for number, text in enumerate(texts))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(model=model, batch=BATCH, length=LENGTH, threads=threads), encoding="utf-8")
    return path


def captured(model: Path, texts: Sequence[str], *, threads: int) -> tuple[float, list[torch.Tensor], int]:
    """Return the seconds that a capture took, the batches that it asked about, and its bytes."""
    with tempfile.TemporaryDirectory() as place:
        path = write_recipe(Path(place), model, texts, threads=threads)
        started = time.perf_counter()
        (one,) = capture_recipe(load_recipe(path), workers=1)
        return time.perf_counter() - started, batches(one.folder), one.n_bytes


def batches(folder: Path) -> list[torch.Tensor]:
    """Return the tokens in a store as the teacher was given them, rows of like length together; -1 is padding."""
    plan, found = Plan.read(folder), []
    for shard in plan.shards:
        rows = [torch.from_numpy(row.astype(np.int64)) for row in read_shard(folder, plan, shard).tokens]
        rows.sort(key=len)
        each = (rows[first : first + BATCH] for first in range(0, len(rows), BATCH))
        found += [pad_sequence(some, batch_first=True, padding_value=-1) for some in each]
    return found


@torch.no_grad()
def forward(model: Any, asked: Sequence[torch.Tensor]) -> float:
    """Return the seconds of the bare forward pass."""
    started = time.perf_counter()
    for tokens in asked:
        model(input_ids=tokens.clamp_min(0), attention_mask=(tokens >= 0).long(), use_cache=False)
    return time.perf_counter() - started


def paces(name: str, folder: Path, texts: Sequence[str], *, threads: int, rounds: int) -> dict[str, Any]:
    """Return tokens a second of both."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    _, asked, n_bytes = captured(folder, texts, threads=threads)
    n_tokens = sum(int((tokens >= 0).sum()) for tokens in asked)
    bare, whole, row = [], [], [texts[0][: 4 * LENGTH]]  # as long as the first, which is asked about beforehand
    first, tokens, _ = captured(folder, row, threads=threads)
    opening, n_first = [first], sum(int((one >= 0).sum()) for one in tokens)
    forward(model, asked[:2])
    for _ in range(rounds):
        bare.append(forward(model, asked))
        whole.append(captured(folder, texts, threads=threads)[0])
    opening.append(captured(folder, row, threads=threads)[0])
    fixed = statistics.mean(opening)
    counted = 1 - n_first / n_tokens  # the row that is in both is taken off both
    shares = [counted * one / (all_of_it - fixed) for one, all_of_it in zip(bare, whole, strict=True)]
    line = {
        "teacher": name,
        "threads": threads,
        "tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens,
        "opening_s": fixed,
        "forward": n_tokens / statistics.median(bare),
        "capture": counted * n_tokens / (statistics.median(whole) - fixed),
        "share": quartiles(shares),
    }
    print(*cells(line), sep="  ", flush=True)
    return line


def memory(n_rows: int) -> float:
    """Return the most MiB that a fresh process has while it captures so many short rows."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as place:
        model = saved_tiny(Path(place) / "model")
        texts = [" ".join(str((7 * n + m) % 2000) for m in range(16)) for n in range(n_rows)]
        path = write_recipe(Path(place), model, texts, threads=1)
        process = context.Process(target=_captures, args=(path, send))
        process.start()
        send.close()
        most = receive.recv()
        process.join()
    return most


def _captures(path: Path, send: Any) -> None:
    capture_recipe(load_recipe(path), workers=1)
    send.send(most_resident())


def run(*, rounds: int, is_smoke: bool) -> dict[str, Any]:
    """Measure everything."""
    threads = sorted({1, len(os.sched_getaffinity(0))})
    lines = []
    with tempfile.TemporaryDirectory() as place:
        if is_smoke:
            texts = [" ".join(str(n % 2000) for n in range(one, one + 40)) for one in range(8)]
            lines.append(paces("random", saved_tiny(Path(place)), texts, threads=1, rounds=1))
        else:
            name, folder = saved_smollm2(ROOT / ".cache/smollm2")
            lines += [paces(name, folder, manual(10_000 * n), threads=n, rounds=rounds) for n in threads]
            name, shape = saved_shape(folder, Path(place))
            lines += [paces(name, shape, manual(20_000 * n), threads=n, rounds=rounds) for n in threads[-1:]]
    sizes = (20, 40) if is_smoke else (2_000, 16_000)
    return {
        "lines": lines,
        "rounds": rounds,
        "memory_mib": {str(n): memory(n) for n in sizes},
        "machine": {"processor": processor(), "cores": threads[-1], "torch": torch.__version__},
    }


def problems(record: dict[str, Any]) -> list[str]:
    """Say what a record shows that must not be."""
    found = [
        f"{one['teacher']}: capturing has {one['share'][1]:.3f} of the forward pass's pace, not {LEAST}"
        for one in record["lines"]
        if one["threads"] == 1 and one["share"][1] < LEAST
    ]
    least, *_, most = record["memory_mib"].values()
    if most - least > MOST_GROWTH:
        found.append(f"memory grew by {most - least:.0f} MiB, not {MOST_GROWTH} at most")
    return found


def cells(line: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    low, middle, high = (f"{100 * one:.1f}" for one in line["share"])
    paces = [f"{line['tokens']:,}", f"{line['forward']:,.0f}", f"{line['capture']:,.0f}"]
    return [line["teacher"], str(line["threads"]), *paces, f"{middle} %", f"{low} to {high}"]


def block(record: dict[str, Any]) -> str:
    """Return what the page shows of a record."""
    memory = [["rows", "most in memory, MiB"]]
    memory += [[f"{int(n):,}", f"{mib:,.0f}"] for n, mib in record["memory_mib"].items()]
    return markdown([HEAD, *map(cells, record["lines"])]) + "\n\n" + markdown(memory)


def main() -> int:
    """Read the command line, measure, and say whether capturing is fast enough and memory does not grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="sizes too small to mean anything")
    parser.add_argument("--write", action="store_true", help="write what the documentation shows")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    record = run(rounds=options.rounds, is_smoke=options.smoke)
    print(aligned([HEAD, *map(cells, record["lines"])]))
    print("; ".join(f"{int(n):,} rows: {most:.0f} MiB" for n, most in record["memory_mib"].items()))
    for path in [RECORD] * options.write + ([options.json] if options.json else []):
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replaced(text, "capturing", block(record)), encoding="utf-8")
    wrong = [] if options.smoke else problems(record)
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
