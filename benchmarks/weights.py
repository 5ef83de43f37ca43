"""Time of the rules that learn inside a sequence, against a plain softmax over the same numbers.

One process, the same evidence, rules in turn, medians; no gradient, as in training. `extra ms` is the processor time
above that of the softmax: what a call costs more than any rule must.

    python benchmarks/weights.py               # 8 teachers, 16 rows, 8 192 positions, one thread
    python benchmarks/weights.py --smoke       # a second, shapes too small to mean anything
    python benchmarks/weights.py --json out.json
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from mashbill.distributions import Statistics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Evidence
from mashbill.weights.sequential import Bayes, FixedShare

Rule = Callable[[Evidence], LogWeights]


def softmax(evidence: Evidence) -> LogWeights:
    """Do what every rule does at least, in the dtype of the evidence."""
    return torch.log_softmax(evidence.statistics.label_logprob, dim=0)


RULES: dict[str, Rule] = {"softmax": softmax, "Bayes": Bayes(), "FixedShare": FixedShare(rate=0.01)}


def make_evidence(*, teachers: int, rows: int, positions: int, padding: float) -> Evidence:
    """Build evidence with random log-probabilities of labels; a share of the positions does not count."""
    generator = torch.Generator().manual_seed(0)
    label_logprob = -torch.rand(teachers, rows, positions, generator=generator).mul_(6)
    mask = torch.rand(rows, positions, generator=generator) >= padding
    label_logprob[:, ~mask] = torch.nan
    given = {"label_logprob": label_logprob, "class_mass": label_logprob.new_zeros(teachers, rows, positions, 0)}
    zeros = torch.zeros_like(label_logprob)
    all_of_them = Statistics(**{field.name: given.get(field.name, zeros) for field in fields(Statistics)})
    plain = Evidence.plain(tuple(f"t{k}" for k in range(teachers)), all_of_them, n_entries=2)
    plain.mask.copy_(mask)
    return plain


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> list[dict]:
    """Return one record a rule: median wall and processor seconds."""
    evidence = make_evidence(
        teachers=arguments.teachers, rows=arguments.rows, positions=arguments.positions, padding=arguments.padding
    )
    wall: dict[str, list[float]] = {name: [] for name in RULES}
    processor: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(arguments.repeats + 1):
        for name, rule in RULES.items():
            clock, work = time.perf_counter(), time.process_time()
            rule(evidence)
            wall[name].append(time.perf_counter() - clock)
            processor[name].append(time.process_time() - work)
    # The first round loads code and memory.
    medians = {name: (statistics.median(wall[name][1:]), statistics.median(processor[name][1:])) for name in RULES}
    base = medians["softmax"][1]
    return [
        {"rule": name, "wall_s": clock, "cpu_s": work, "extra_cpu_s": work - base}
        for name, (clock, work) in medians.items()
    ]


def show(arguments: argparse.Namespace, records: Sequence[dict]) -> None:
    print(
        f"{arguments.teachers} teachers, {arguments.rows} rows x {arguments.positions} positions, "
        f"{arguments.padding:.0%} of them padding, float32, {arguments.threads} thread(s)"
    )
    print(f"{'rule':<12}{'wall ms':>10}{'cpu ms':>10}{'extra ms':>10}")
    for one in records:
        print(
            f"{one['rule']:<12}{1e3 * one['wall_s']:>10.1f}{1e3 * one['cpu_s']:>10.1f}{1e3 * one['extra_cpu_s']:>10.1f}"
        )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--padding", type=float, default=0.1, help="share of positions that do not count")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: does it run?")
    parser.add_argument("--json", type=Path, help="write the records to this file as well")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.rows, arguments.positions, arguments.repeats = 2, 64, 2
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    records = measure(arguments)
    show(arguments, records)
    if arguments.json:
        about = {"torch": torch.__version__, "machine": platform.machine(), "processor": platform.processor()}
        options = {
            name: getattr(arguments, name)
            for name in ("teachers", "rows", "positions", "padding", "repeats", "threads")
        }
        text = json.dumps({"about": about, "options": options, "records": records}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
