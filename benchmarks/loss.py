"""Time, memory and correctness of the distillation loss beside its competitors, forward and backward.

One process, the same inputs, everybody in turn, medians with quartiles. Each competitor is first shown to compute the
same number; who does not, or is not installed, is listed with the reason. The machine's limits are measured in the
same run. Memory is what each adds above its inputs at its peak, gradients included, in a process of its own.

    python benchmarks/loss.py                                  # all forms, 512 positions, 32 000 entries, 4 teachers
    python benchmarks/loss.py --form hidden --rows 1024 --threads 2 --dtype bfloat16
    python benchmarks/loss.py --mode growth                    # exponents in positions, entries and teachers
    python benchmarks/loss.py --mode adaptive                  # weights from entropies against fixed ones
    python benchmarks/loss.py --device cuda --rows 8192        # the kernels, with memory as the GPU's allocator sees it
    python benchmarks/loss.py --competitor                     # with another process that keeps one core busy
    python benchmarks/loss.py --smoke                          # seconds, sizes too small to mean anything
    python benchmarks/loss.py --json out.json
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from harness import clock, limits, memory, tables
from harness.adaptive import adaptive_cost
from harness.check import Verdict, examine
from harness.forms import Form, Inputs, Shape, make
from harness.growth import growth
from harness.machine import about
from harness.peers import PEERS
from harness.variants import OWN, Variant, run

EVERYBODY = (*OWN, *PEERS)
DEFAULT_FORMS = ("logits", "hidden", "topk")
SMOKE = {"rows": 16, "entries": 1000, "k": 8, "width": 24, "teacher_width": 32, "repeats": 2}


def shape_of(arguments: argparse.Namespace, form: Form) -> Shape:
    sizes = ("rows", "entries", "teachers", "k", "width", "teacher_width", "dtype")
    return Shape(form, **{name: getattr(arguments, name) for name in sizes})


def chosen(arguments: argparse.Namespace, shape: Shape) -> list[Variant]:
    """Return who takes part in a form."""
    words = [word.strip().lower() for word in arguments.only.split(";")] if arguments.only else [""]
    return [
        one
        for one in EVERYBODY
        if shape.form in one.forms
        and one.dtype in (None, shape.dtype)
        and any(word in one.name.lower() for word in words)
    ]


def verdicts(arguments: argparse.Namespace, shape: Shape) -> dict[Variant, Verdict]:
    """Check everybody; in a smoke run nobody waits for a compiler."""
    found = {}
    for variant in chosen(arguments, shape):
        if arguments.smoke and variant.compiled:
            found[variant] = Verdict("absent", "left out of a smoke run, since it compiles")
        elif shape.teachers * shape.rows * shape.entries > variant.most:
            found[variant] = Verdict("absent", "for comparison at small sizes; nobody wants to wait for it at this one")
        else:
            found[variant] = examine(variant, shape, divergence=arguments.divergence, device=arguments.device)
    return found


def work_of(variant: Variant, function: Callable[[Inputs], Any], inputs: Inputs) -> Callable[[], object]:
    return partial(run, function, inputs, floor=variant.kind == "floor")


def tried(variant: Variant, verdict: Verdict, inputs: Inputs) -> Verdict:
    """Run a variant once, which also warms it up; who needs more memory than there is leaves."""
    if verdict.function is None:
        return verdict
    try:
        work_of(variant, verdict.function, inputs)()
    except torch.OutOfMemoryError:
        return Verdict("failed", "needs more memory than there is")
    finally:
        inputs.restore()
    return verdict


def table(arguments: argparse.Namespace, form: Form) -> dict[str, Any]:
    """Check, time and weigh everybody in one form and return a record."""
    shape = shape_of(arguments, form)
    seconds = 0.02 if arguments.smoke else 0.5
    checked = verdicts(arguments, shape)
    best = limits.measure(shape, device=arguments.device, seconds=seconds)
    inputs = make(shape, divergence=arguments.divergence, device=arguments.device)
    checked = {variant: tried(variant, verdict, inputs) for variant, verdict in checked.items()}
    work = {
        variant.name: work_of(variant, verdict.function, inputs)
        for variant, verdict in checked.items()
        if verdict.function is not None
    }
    with clock.competitor(arguments.competitor):
        samples = clock.interleaved(
            work,
            repeats=arguments.repeats,
            before=inputs.restore,
            device=arguments.device,
            is_warm=True,
            always=[one.name for one in checked if one.kind in ("ours", "floor")],
        )
    del inputs, work
    gc.collect()
    best = best.best(limits.measure(shape, device=arguments.device, seconds=seconds))
    timed = [one for one, verdict in checked.items() if verdict.function is not None]
    peaks = {one.name: found for one, found in zip(timed, all_peaks(timed, arguments, form), strict=True)}
    return {
        "mode": "table",
        "shape": asdict(shape),
        "divergence": arguments.divergence,
        "competitor": arguments.competitor,
        "limits": asdict(best),
        "least_seconds": limits.least_seconds(shape, best, device=arguments.device),
        "variants": tables.lines(checked, samples, peaks),
    }


def all_peaks(variants: Sequence[Variant], arguments: argparse.Namespace, form: Form) -> list[float | None]:
    """Measure the memory of each; on a processor two processes at once, since nobody is timed any more."""
    with ThreadPoolExecutor(2 if arguments.device == "cpu" else 1) as pool:
        return list(pool.map(lambda one: peak(one, arguments, form), variants))


def peak(variant: Variant, arguments: argparse.Namespace, form: Form) -> float | None:
    """Measure the memory of one variant in a process of its own; a floor's buffers mean nothing."""
    if variant.kind == "floor" or arguments.no_peak:
        return None
    names = ("rows", "entries", "teachers", "k", "width", "teacher_width", "dtype", "divergence", "threads", "device")
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))]
    return memory.in_new_process([*words, "--form", form, "--peak", variant.name])


def own_peak(arguments: argparse.Namespace, form: Form) -> float:
    """Run one variant once, and return how far memory rose."""
    variant = next(one for one in EVERYBODY if one.name == arguments.peak)
    function, shape = variant.load(), shape_of(arguments, form)
    run(function, make(shape.small(shape.dtype), divergence=arguments.divergence, device=arguments.device))
    if variant.compiled:
        torch._dynamo.reset()
    inputs = make(shape, divergence=arguments.divergence, device=arguments.device)
    if variant.compiled:
        run(function, inputs)  # what the compiler takes is not the loss's
    return memory.peak_above(partial(run, function, inputs), device=arguments.device)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=get_args(Form), action="append", help="may be given several times")
    parser.add_argument("--mode", choices=["table", "growth", "adaptive"], default="table")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--entries", type=int, default=32_000)
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--k", type=int, default=64, help="entries that a top-k teacher stored")
    parser.add_argument("--width", type=int, default=512, help="of the student before its head")
    parser.add_argument("--teacher-width", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--divergence", choices=["forward_kl", "reverse_kl", "js"], default="forward_kl")
    parser.add_argument("--impl", choices=["auto", "chunked"], default="auto", help="of our loss, in --mode adaptive")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", help="parts of names, with `;` between: who takes part")
    parser.add_argument("--competitor", action="store_true", help="keep another process busy meanwhile")
    parser.add_argument("--no-peak", action="store_true", help="do not measure memory")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--json", type=Path, help="write the records to this file as well")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        for name, value in SMOKE.items():
            setattr(arguments, name, value)
        # A process a variant is too slow for a smoke run; one of them shows that the way works.
        arguments.no_peak |= not arguments.only
    arguments.form = arguments.form or list(DEFAULT_FORMS)
    return arguments


def measure(arguments: argparse.Namespace, form: Form) -> dict[str, Any]:
    """Measure one form in the mode asked for."""
    if arguments.mode == "growth":
        return growth(shape_of(arguments, form), arguments)
    if arguments.mode == "adaptive":
        return adaptive_cost(shape_of(arguments, form), arguments)
    return table(arguments, form)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(own_peak(arguments, arguments.form[0]))
        return 0
    records = []
    for form in arguments.form:
        record = {**measure(arguments, form), "about": about(arguments)}
        print(tables.as_text(record), flush=True)
        records.append(record)
    if arguments.mode == "table":
        print(tables.LEGEND)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return tables.status(records)


if __name__ == "__main__":
    sys.exit(main())
