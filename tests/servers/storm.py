"""Capture rows from a server that fails at three requests in ten, and say what became of each row.

    python tests/servers/storm.py                    # 5,000 rows; some minutes
    python tests/servers/storm.py --rows 300 --seed 7
    python tests/servers/storm.py --record           # into tests/servers/storm.json, which docs/endpoints.md shows

Every row has to be stored with the numbers of the model behind the server, or listed as a dead letter, and none twice;
the budget of further attempts has to hold, and the key may stand in no file and no output. Exits with 1 otherwise.
"""

import argparse
import base64
import contextlib
import io
import json
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow.parquet as pq
import yaml
from servers.faulty import KINDS, FaultyServer
from servers.pretend import next_logprobs, top_of
from servers.pretend_tokenizers import TEXT, make_tokenizer

from mashbill.cli.app import main as mashbill

VARIABLE = "MASHBILL_STORM_KEY"
KEY = "sk-storm-4f9c2ab1e07d5583Q"
K = 8


def write_recipe(folder: Path, url: str, rows: Mapping[str, str], *, budget: int, concurrency: int) -> Path:
    """Write tokenizer, rows and recipe."""
    make_tokenizer().save_pretrained(folder / "tokenizer")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for id, text in rows.items():
            file.write(json.dumps({"id": id, "text": text}) + "\n")
    endpoint = {"url": url, "model": "pretend", "form": "vllm", "key_variable": VARIABLE, "top_logprobs": K}
    endpoint |= {"concurrency": concurrency, "retry_budget": budget, "timeout": 0.5}
    config = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    recipe = {
        "version": 1,
        "student": {"kind": "causal_lm", "config": {**config, "intermediate_size": 16}, "tokenizer": "tokenizer"},
        "teachers": [{"id": "far", "endpoint": endpoint, "store": "stores/far", "batch_size": 256}],
        "data": {"format": "text", "train": "rows.jsonl", "max_length": 32},
        "capture": {"k": 16, "shard_positions": 8192},
        "output": "run",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


def draw_rows(n: int, *, seed: int) -> dict[str, str]:
    """Return different texts of a few words each."""
    words, drawn, texts = TEXT.split(), random.Random(seed), dict[str, None]()
    while len(texts) < n:
        texts[" ".join(drawn.choices(words, k=drawn.randint(2, 5)))] = None
    return {f"row-{number}": text for number, text in enumerate(texts)}


def stored_rows(store: Path) -> Iterator[dict[str, Any]]:
    """Yield every row of every shard."""
    for file in sorted((store / "shards").glob("*.parquet")):
        yield from pq.read_table(file).to_pylist()


def is_true(row: Mapping[str, Any], text: str, unit: float) -> bool:
    """Say whether a stored row holds the numbers of the model behind the server, at every position."""
    tokenizer = make_tokenizer()
    tokens = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    if row["positions"] != list(range(len(tokens) - 1)):
        return False
    start = 0
    for at, n in enumerate(row["n_kept"]):
        ids, numbers = row["ids"][start : start + n], [-unit * one for one in row["units"][start : start + n]]
        start += n
        truth = next_logprobs(tuple(tokens[: at + 1]), len(tokenizer))
        wanted = {*top_of(truth, K), tokens[at + 1]}
        is_near = all(abs(truth[id] - one) <= unit / 2 + 1e-5 for id, one in zip(ids, numbers, strict=True))
        tail = 1 - math.fsum(math.exp(truth[id]) for id in wanted)
        if set(ids) != wanted or not is_near or abs(math.exp(row["log_tail"][at]) - tail) > 1e-4:
            return False
    return True


def leaks(folder: Path) -> list[str]:
    """Return the files that hold the key, a half of it, or its base64."""
    forms = (KEY.encode(), KEY[:14].encode(), KEY[-12:].encode(), base64.b64encode(KEY.encode())[:20])
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return [str(file) for file in files if any(form in file.read_bytes() for form in forms)]


def storm(
    folder: Path, *, n_rows: int, share: float, seed: int, budget: int, concurrency: int = 32, n_good: int = 0
) -> dict[str, Any]:
    """Capture rows through a faulty server, and return what became of them.

    Args:
        folder: Written to.
        n_rows: Rows, a request each.
        share: Of attempts that fail.
        seed: Of rows and faults.
        budget: Further attempts allowed.
        concurrency: Requests under way at once.
        n_good: Requests that do not fail, the first ones; a self-test takes six.
    """
    rows = draw_rows(n_rows, seed=seed)
    log = logging.FileHandler(folder / "everything.log")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    os.environ[VARIABLE] = KEY
    out, began = io.StringIO(), time.perf_counter()
    try:
        with FaultyServer(seed=seed, share=share, n_good=n_good) as server:
            server.become(key=KEY)
            recipe = write_recipe(folder, server.url, rows, budget=budget, concurrency=concurrency)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code = mashbill(["capture", str(recipe), "--debug"])
    finally:
        del os.environ[VARIABLE]
        root.removeHandler(log)
        root.setLevel(level)
        log.close()
    (folder / "output.txt").write_text(out.getvalue(), encoding="utf-8")
    return {"exit_code": code, **_account(folder, rows, server, budget), "seconds": time.perf_counter() - began}


def _account(folder: Path, rows: Mapping[str, str], server: FaultyServer, budget: int) -> dict[str, Any]:
    store = folder / "stores" / "far" / "train"
    unit = 2**-11
    found = list(stored_rows(store))
    answered = [row for row in found if not row["refused"]]
    refused = {row["row_id"]: row["refused"] for row in found if row["refused"]}
    letters_file = store / "dead_letters.jsonl"
    letters = [json.loads(line) for line in letters_file.read_text().splitlines()] if letters_file.exists() else []
    counts = Counter(row["row_id"] for row in found)
    sent = Counter(body for _, _, body in server.requests if body)
    return {
        "rows": len(rows),
        "stored": len(answered),
        "true": sum(is_true(row, rows[row["row_id"]], unit) for row in answered),
        "dead_letters": len(letters),
        "letters_agree": {one["row_id"]: one["reason"] for one in letters} == refused,
        "lost": len(rows.keys() - counts.keys()),
        "twice": sum(n > 1 for n in counts.values()),
        "requests": sum(sent.values()),
        "further_attempts": sum(sent.values()) - len(sent),
        "budget": budget,
        "most_attempts_at_one": max(sent.values()),
        "faults": sum(server.faults.values()),
        "kinds": len(server.faults),
        "kinds_there_are": len(KINDS),
        "leaks": leaks(folder),
        "with_key": all(headers.get("authorization") == f"Bearer {KEY}" for _, headers, _ in server.requests),
        "reasons": dict(Counter(reason.split(":")[0][:60] for reason in refused.values())),
    }


def is_good(found: Mapping[str, Any]) -> bool:
    """Say whether nothing was lost, doubled, wrong, overspent or told."""
    whole = found["stored"] + found["dead_letters"] == found["rows"] and found["lost"] == found["twice"] == 0
    is_kept = found["further_attempts"] <= found["budget"] and found["most_attempts_at_one"] <= 6
    told = found["true"] == found["stored"] and found["letters_agree"] and not found["leaks"] and found["with_key"]
    return bool(found["exit_code"] == 0 and whole and is_kept and told)


def main() -> int:
    """Read the command line, run, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = storm(Path(folder), n_rows=options.rows, share=options.share, seed=options.seed, budget=options.budget)
        if not is_good(found):
            print((Path(folder) / "output.txt").read_text(encoding="utf-8")[-3000:])
    print(json.dumps(found, indent=1))
    if options.record and is_good(found):
        text = json.dumps({**found, "seed": options.seed, "share": options.share}, indent=1)
        (Path(__file__).parent / "storm.json").write_text(text + "\n", encoding="utf-8")
    return 0 if is_good(found) else 1


if __name__ == "__main__":
    sys.exit(main())
