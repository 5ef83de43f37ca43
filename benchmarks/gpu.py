#!/usr/bin/env python3
"""Time the loss on a GPU: Triton kernels against plain PyTorch, and against the bandwidth of a copy in the same run.

    python benchmarks/gpu.py                       # 8192 x 151936 x 4 in bfloat16, and smaller; a few minutes
    python benchmarks/gpu.py --divergence js --json gpu.json
    python benchmarks/gpu.py --smoke               # tiny shapes: does it run?

Each variant is first shown to compute the same number as float64. Times are of forward and backward to the gradient by
the student's logits, medians of rounds in which the variants take turns. `bytes` is what the kernels have to move: all
logits once for the norms, all again (twice for a divergence that is not the forward KL) for the mixture, and the
gradient. `of copy` is that over the time, as a share of what a copy of one such matrix moves a second, read and write.
`forward` is the first half alone, in which the gradient is computed already; the backward pass copies it once unless
the loss works in place.

Without a GPU it says so and ends; `TRITON_INTERPRET=1 python benchmarks/gpu.py --smoke` tries it there all the same.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness.clock import quartiles
from harness.forms import Inputs, Shape, double, make, naive

from mashbill.distributions import Logits
from mashbill.losses import triton, triton_scope
from mashbill.losses.objective import Objective
from mashbill.losses.weighing import Weighing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = (
    Shape("logits", 8192, 151_936, 4, dtype="bfloat16"),
    Shape("logits", 8192, 151_936, 1, dtype="bfloat16"),
    Shape("logits", 2048, 151_936, 4, dtype="float32"),
    Shape("logits", 2048, 32_000, 4, dtype="bfloat16"),
    Shape("logits", 512, 151_936, 4, dtype="bfloat16"),
    Shape("topk", 8192, 151_936, 4, dtype="bfloat16"),
    Shape("topk", 2048, 32_000, 4, dtype="bfloat16"),
)
SMOKE = (Shape("logits", 4, 1000, 2, dtype="bfloat16"), Shape("topk", 4, 1000, 2, k=8, dtype="float32"))
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # relative error of the gradient that is rounding


def kernels(inputs: Inputs, *, in_place: bool = False) -> torch.Tensor:
    """Call the kernels, with nothing in front of them."""
    assert inputs.logits is not None
    return triton.distillation_loss(
        inputs.logits,
        inputs.stored or [Logits(one) for one in inputs.teacher_logits],
        Weighing.by(inputs.log_weights, inputs.mask),
        mask=inputs.mask,
        labels=None,
        objective=Objective(inputs.divergence, scale=1 / inputs.rows),  # pyright: ignore[reportArgumentType]  # an option
        in_place=in_place,
    ).total


def backward(function: Callable[[Inputs], torch.Tensor], inputs: Inputs) -> torch.Tensor:
    """Return the gradient by the student's logits."""
    assert inputs.logits is not None
    # What is overwritten must not be a leaf, as in training, where it comes out of the head.
    student = inputs.logits.view_as(inputs.logits)
    return torch.autograd.grad(function(replace(inputs, logits=student)), student)[0]


@dataclass(frozen=True)
class Variant:
    """A name and what to time; ``in_place`` asks for the logits to be put back before each call."""

    name: str
    work: Callable[[Inputs], Any]
    in_place: bool = False


def variants(*, compiled: bool) -> list[Variant]:
    in_place = partial(kernels, in_place=True)
    found = [
        Variant("triton in place", partial(backward, in_place), in_place=True),
        Variant("triton", partial(backward, kernels)),
        Variant("triton forward", kernels),
        Variant("naive loop", partial(backward, naive)),
    ]
    if compiled:
        found.append(Variant("torch.compile(naive)", partial(backward, torch.compile(naive, dynamic=False))))
    return found


def check(shape: Shape, divergence: str, candidates: Sequence[Variant]) -> None:
    """Raise ``SystemExit`` unless all gradients are those of float64 up to rounding, at a small odd shape."""
    inputs = make(shape.small(shape.dtype), divergence=divergence, device=DEVICE)
    exact = backward(naive, double(inputs))
    for variant in candidates:
        if variant.name == "triton forward":
            continue
        inputs.restore()
        error = ((variant.work(inputs).double() - exact).norm() / exact.norm()).item()
        if not error < TOLERANCE[shape.dtype]:
            raise SystemExit(f"error: {variant.name} is not the same loss: relative error {error:.1e} of the gradient")


def seconds(work: Callable[[], Any]) -> float:
    """Time one call on the device itself."""
    if DEVICE == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_rate(inputs: Inputs, repeats: int) -> float:
    """Return bytes read and written a second by a copy of the student's logits, the median."""
    source = inputs.pristine
    assert source is not None
    sink = source.clone()
    each = [seconds(partial(sink.copy_, source)) for _ in range(max(5, repeats))]
    return 2 * sink.numel() * sink.element_size() / statistics.median(each)


def bytes_moved(shape: Shape, divergence: str) -> int:
    """Return what the kernels have to read and write."""
    matrices = shape.teachers + 1 if shape.form == "logits" else 1
    n_reads = 2 if divergence == "forward_kl" else 3
    return (n_reads * matrices + 1) * shape.rows * shape.entries * shape.itemsize


def peak(variant: Variant, inputs: Inputs) -> float:
    """Return how far memory rises above the inputs, the gradient included, in MiB."""
    if DEVICE == "cpu":
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    variant.work(inputs)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(shape: Shape, divergence: str, candidates: Sequence[Variant], repeats: int) -> dict[str, Any]:
    """Return copy rate and, for each variant, times and peak memory; None for one that does not fit."""
    inputs = make(shape, divergence=divergence, device=DEVICE)
    rates = [copy_rate(inputs, repeats)]
    peaks: dict[str, float | None] = {}
    for variant in candidates:
        inputs.restore()
        try:
            variant.work(inputs)  # the first call compiles
            inputs.restore()
            peaks[variant.name] = peak(variant, inputs)
        except torch.OutOfMemoryError:
            peaks[variant.name] = None
            gc.collect()
            torch.cuda.empty_cache()
    samples: dict[str, list[float]] = {name: [] for name, value in peaks.items() if value is not None}
    for _ in range(repeats):
        for variant in candidates:
            if variant.name in samples:
                _ = variant.in_place and inputs.restore()
                samples[variant.name].append(seconds(lambda work=variant.work: work(inputs)))
        inputs.restore()
    rates.append(copy_rate(inputs, repeats))
    return {
        "shape": asdict(shape),
        "divergence": divergence,
        "copy_bytes_s": max(rates),
        "bytes": bytes_moved(shape, divergence),
        "seconds": {name: quartiles(each) for name, each in samples.items()},
        "peak_mib": peaks,
    }


def show(record: dict[str, Any]) -> None:
    shape = Shape(**record["shape"])
    stored = f" (top {shape.k})" if shape.form == "topk" else ""
    gradient = shape.rows * shape.entries * shape.itemsize / 2**20
    print(f"\n{record['divergence']}, {shape.rows} x {shape.entries} x {shape.teachers}{stored}, {shape.dtype}")
    print(
        f"copy {record['copy_bytes_s'] / 1e12:.3f} TB/s; {record['bytes'] / 1e9:.2f} GB to move, "
        f"{1e3 * record['bytes'] / record['copy_bytes_s']:.3f} ms at that rate; the gradient is {gradient:.0f} MiB"
    )
    print(f"{'variant':<22}{'ms':>10}{'quartiles':>20}{'naive/this':>12}{'of copy':>9}{'peak MiB':>10}")
    base = record["seconds"].get("naive loop")
    for name, memory in record["peak_mib"].items():
        if memory is None:
            print(f"{name:<22}{'out of memory':>30}")
            continue
        low, middle, high = record["seconds"][name]
        ratio = f"{base[1] / middle:.2f}" if base else "-"
        share = f"{record['bytes'] / middle / record['copy_bytes_s']:.0%}" if name.startswith("triton") else ""
        quarters = f"{1e3 * low:.3f}..{1e3 * high:.3f}"
        print(f"{name:<22}{1e3 * middle:>10.3f}{quarters:>20}{ratio:>12}{share:>9}{memory:>10.0f}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divergence", choices=triton_scope.KINDS, default="forward_kl")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", type=int, help="only shapes with this many positions")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes a while")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: does it run?")
    parser.add_argument("--json", type=Path, help="write the records to this file as well")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if not triton.is_available(torch.device(DEVICE)):
        print("no GPU with Triton here, so there is nothing to time: run this on one, as it is")
        return
    if DEVICE == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    shapes, repeats = (SMOKE, 2) if arguments.smoke else (SHAPES, arguments.repeats)
    records = []
    for shape in (one for one in shapes if arguments.rows in (None, one.rows)):
        candidates = variants(compiled=not arguments.no_compile and DEVICE == "cuda")
        check(shape, arguments.divergence, candidates)
        records.append(measure(shape, arguments.divergence, candidates, repeats))
        show(records[-1])
        gc.collect()
        _ = DEVICE == "cuda" and torch.cuda.empty_cache()
    if arguments.json:
        device = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
        text = json.dumps({"about": {"torch": torch.__version__, "device": device}, "records": records}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
