"""What a store keeps of a teacher and what it costs: KL lost, bytes and time for several k, beside DistillKit's layout.

    python benchmarks/store_sizes.py              # SmolLM2-135M on 2 048 tokens of Python's manual; a minute
    python benchmarks/store_sizes.py --write      # and write the table and the plot of docs/store_sizes.md
    python benchmarks/store_sizes.py --smoke      # a random model, sizes too small to mean anything

Losses are exact: the teacher's whole distributions are at hand. `cut` is KL(teacher || kept) if the same entries were
kept exactly, the tail spread evenly over all others; `rounding` is what the numbers' form adds. Where a form leaves
nothing for the entries that it does not keep, KL is infinite: the share of such positions is told, and `KL lost`, `cut`
and `rounding` are of the others. Times are medians of several, after one that does not count. Bytes are those of files
on the disk, over all positions: of a store everything in it (tokens, statistics, digests, notes), of a capture its
Parquet files as documented; `of entries` are ids and log-probabilities alone, before compression.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar, cast

import numpy as np
import torch
from harness.captures import BINNED, BUDGET, RECOMMENDED, write_capture
from harness.corpus_rows import Real, smollm2, tiny
from harness.machine import processor
from harness.tables import aligned

from mashbill import numerics
from mashbill.distributions import Dense, TopK, measure
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.columns import Answered, joined
from mashbill.teachers.store.distillkit_files import Capture, _group, as_topk
from mashbill.teachers.store.files import read_note, read_shard
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, Shard, cut

ROOT = Path(__file__).resolve().parents[1]
PAGE, RECORD, PLOT = ROOT / "docs/store_sizes.md", ROOT / "docs/store_sizes.json", ROOT / "docs/images/store_sizes.svg"
Result = TypeVar("Result")
MARK = "<!-- written by benchmarks/store_sizes.py --write -->"
SIZES = (8, 32, 64, 128)
N_TIMES = 5
COARSE = 2.0**-6
"""Nats; the second, coarser unit that is measured."""


@dataclass(frozen=True)
class Said:
    """What the teacher said of all rows.

    Attributes:
        logprobs: Of each row, ``[T V]``.
        entropy: Of each position, in nats, from float64.
        answers: What a store is given, with as many entries as any keeps.
    """

    logprobs: list[torch.Tensor]
    entropy: torch.Tensor
    answers: list[Answered]

    @classmethod
    def of(cls, rows: Sequence[torch.Tensor], logprobs: list[torch.Tensor]) -> "Said":
        """Measure answers."""
        entropy = torch.cat([-(one.double().exp() * one.double()).sum(dim=1) for one in logprobs])
        return cls(logprobs, entropy, [answered(n, row, logprobs[n]) for n, row in enumerate(rows)])

    def lost(self, kept: TopK) -> dict[str, float]:
        """Return how often KL is infinite, its mean elsewhere, its part with exact entries, and the largest error."""
        starts = np.cumsum([0, *(len(one) for one in self.logprobs)])
        ids, used = kept.ids.clamp_min(0), kept.ids >= 0
        said = torch.cat(
            [one.gather(1, ids[starts[n] : starts[n + 1]]) for n, one in enumerate(self.logprobs)]
        ).double()
        p = said.exp().masked_fill(~used, 0)
        rest = (1 - p.sum(dim=1)).clamp_min(0)
        share = rest.clamp_min(1e-300).log() - (kept.n_entries - used.sum(dim=1)).clamp_min(1).log()
        is_open = (kept.log_tail > numerics.LOG_ZERO) | (kept.n_used == kept.n_entries)
        crossed = -(p * kept.logprobs.double()).sum(dim=1) - rest * kept.log_tail_share().double()
        exact = -(p * said).sum(dim=1) - rest * share
        error = torch.where(used, (said - kept.logprobs).abs(), 0).max()
        return {
            "infinite": float((~is_open).double().mean()),
            "lost": float((crossed - self.entropy)[is_open].mean()),
            "cut": float((exact - self.entropy)[is_open].mean()),
            "error": float(error),
        }


def answered(number: int, row: torch.Tensor, logprobs: torch.Tensor) -> Answered:
    """Return what a store is given about one row."""
    labels = torch.cat([row[1:], row.new_tensor([-100])])
    scored = Scored(TopK.from_logprobs(logprobs, k=max(SIZES)), measure(Dense(logprobs), labels=labels))
    n, digest = len(row), number.to_bytes(32, "little")
    return Answered((f"row {number}",), (digest,), (row.numpy(),), np.array([0, n]), np.arange(n), scored, ("",))


def our_store(real: Real, said: Said, k: int, unit: float, folder: Path) -> dict[str, Any]:
    """Write a store, read it, and say what it cost and lost."""
    n_entries, n_positions = said.logprobs[0].shape[1], sum(len(row) for row in real.rows)
    contents = [number.to_bytes(32, "little") for number in range(len(real.rows))]
    shards = cut([len(row) for row in real.rows], contents, at_most=2**14)
    plan = Plan({"kind": "benchmark", "source": real.name}, "none", Layout(n_entries, k=k, unit=unit), shards)

    def ask(shard: Shard) -> Answered:
        return joined(said.answers[shard.first : shard.first + shard.n_rows])

    writing, _ = timed(
        lambda: capture(folder, plan, ask, reserve=0), before=lambda: shutil.rmtree(folder, ignore_errors=True)
    )
    reading, found = timed(lambda: [read_shard(folder, plan, shard) for shard in shards])
    notes = [note for shard in shards if (note := read_note(folder, plan, shard))]
    topk = joined(found).scored.distribution
    assert isinstance(topk, TopK)
    return {
        "name": f"store, k={k}" + ("" if unit == Layout(2).unit else f", unit 2^{int(np.log2(unit))}"),
        "k": k,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / n_positions,
        "of_entries": sum(note.encoded_bytes for note in notes) / n_positions,
        "per_entry": sum(note.encoded_bytes for note in notes) / sum(note.n_kept for note in notes),
        "mass": float((1 - topk.log_tail.double().exp()).mean()),
        **said.lost(topk),
        "write": 1e6 * writing / n_positions,
        "read": 1e6 * reading / n_positions,
    }


def distillkit(real: Real, said: Said, name: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write a capture in the documented layout, read it with ours, and say the same of it."""
    n_entries, n_positions = said.logprobs[0].shape[1], sum(len(row) for row in real.rows)
    known = {**settings, "d": n_entries}
    rows = []
    for row, each in zip(real.rows, said.logprobs, strict=True):
        top = each.topk(settings["k"], dim=1)
        rows.append((row.tolist(), top.indices, top.values))
    writing, _ = timed(
        lambda: write_capture(folder, rows, known, rows_a_file=10**6, row_group_size=1000),
        before=lambda: shutil.rmtree(folder, ignore_errors=True),
    )
    source = Capture.open(folder)
    reading, found = timed(
        lambda: [as_topk(source.read(place), n_entries)[0] for place, _ in source.tokens()], before=_group.cache_clear
    )
    topk = TopK(
        torch.cat([one.ids for one in found]),
        torch.cat([one.logprobs for one in found]),
        torch.cat([one.log_tail for one in found]),
        n_entries,
    )
    files = source.settings
    return {
        "name": f"DistillKit, {name}",
        "k": settings["k"],
        "bytes": sum(file.stat().st_size for file in folder.glob("*.parquet")) / n_positions,
        "of_entries": files.logprob_bytes + files.index_bytes,
        "per_entry": (files.logprob_bytes + files.index_bytes) / settings["k"],
        "mass": float((1 - topk.log_tail.double().exp()).mean()),
        **said.lost(topk),
        "write": 1e6 * writing / n_positions,
        "read": 1e6 * reading / n_positions,
    }


def timed(work: Callable[[], Result], *, before: Callable[[], object] = lambda: None) -> tuple[float, Result]:
    """Return the median of the processor seconds of this process that some work took, and what it gave.

    The first time counts for nothing: it pays for what is loaded once.
    """
    seconds, found = [], None
    for _ in range(N_TIMES + 1):
        before()
        started = time.process_time()
        found = work()
        seconds.append(time.process_time() - started)
    return median(seconds[1:]), cast("Result", found)


def run(real: Real) -> dict[str, Any]:
    """Ask the teacher once, and keep its answers in every way."""
    real.logprobs(real.rows[0])
    started = time.process_time()
    logprobs = [real.logprobs(row) for row in real.rows]
    asking = time.process_time() - started
    n_positions, said = sum(len(row) for row in real.rows), Said.of(real.rows, logprobs)
    lines = []
    with tempfile.TemporaryDirectory() as place:
        for number, (k, unit) in enumerate([(k, Layout(2).unit) for k in SIZES] + [(64, COARSE)]):
            lines.append(our_store(real, said, k, unit, Path(place) / str(number)))
        settings = {"k=64, all in bfloat16": {**RECOMMENDED, "k": 64, "exact_k": 64, "polynomial_terms": []}}
        settings |= {"budget (k=50)": BUDGET, "recommended (k=128)": RECOMMENDED, "with bins (k=128)": BINNED}
        for name, one in settings.items():
            lines.append(distillkit(real, said, name, one, Path(place) / name))
    return {
        "teacher": real.name,
        "rows": len(real.rows),
        "positions": n_positions,
        "entries": logprobs[0].shape[1],
        "forward": 1e6 * asking / n_positions,
        "machine": {"processor": processor(), "torch": torch.__version__, "threads": 1},
        "lines": lines,
    }


HEAD = [
    "",
    "infinite",
    "KL lost",
    "cut",
    "rounding",
    "mass",
    "largest error",
    "bytes",
    "of entries",
    "an entry",
    "write µs",
    "read µs",
]


def cells(line: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    nats = [f"{line['lost']:.2e}", f"{line['cut']:.2e}", f"{line['lost'] - line['cut']:.0e}"]
    kept = [f"{100 * line['mass']:.1f} %", f"{line['error']:.1e}", f"{line['bytes']:.0f}", f"{line['of_entries']:.0f}"]
    kept += [f"{line['per_entry']:.2f}", f"{line['write']:.0f}", f"{line['read']:.0f}"]
    infinite = f"{100 * line['infinite']:.1f} %" if line["infinite"] else "0"
    return [line["name"], infinite, *nats, *kept]


def page(record: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    rows = [HEAD, ["---"] + ["---:"] * (len(HEAD) - 1), *(cells(line) for line in record["lines"])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw KL lost over bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "mashbill"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    ours = [line for line in record["lines"] if line["name"].startswith("store") and "unit" not in line["name"]]
    others = [line for line in record["lines"] if line not in ours]
    axes.plot([one["bytes"] for one in ours], [one["lost"] for one in ours], "o-", color="#2a6f97", label="store")
    for line in ours:
        axes.annotate(f"k={line['k']}", (line["bytes"], line["lost"]), xytext=(6, 5), textcoords="offset points")
    for line, mark in zip(others, "D^sv*", strict=False):
        axes.plot(line["bytes"], line["lost"], mark, color="#c1666b", label=_labelled(line))
    axes.set(xlabel="bytes a position, on the disk", ylabel="KL lost, nats", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _labelled(line: dict[str, Any]) -> str:
    beside = f" (infinite at {100 * line['infinite']:.0f} % of positions)" if line["infinite"] else ""
    return line["name"] + beside


def write(record: dict[str, Any]) -> None:
    """Write record, plot and the page's table between its marks."""
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PLOT.parent.mkdir(exist_ok=True)
    plot(record, PLOT)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(MARK)[2]
    PAGE.write_text(f"{before}{MARK}\n\n{page(record)}\n\n{MARK}{after}", encoding="utf-8")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="rows of 128 tokens")
    parser.add_argument("--smoke", action="store_true", help="sizes too small to mean anything")
    parser.add_argument("--write", action="store_true", help="write what the documentation shows")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = run(tiny(2) if options.smoke else smollm2(options.rows))
    print(f"{record['teacher']}: {record['positions']:,} positions, {record['forward']:.0f} µs each forward")
    print(aligned([HEAD, *(cells(line) for line in record["lines"])]))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.write:
        write(record)


if __name__ == "__main__":
    main()
