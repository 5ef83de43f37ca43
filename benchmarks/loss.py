"""Time and memory of the distillation loss: a plain PyTorch loop, the reference, and the chunked loss.

One process, the same inputs, variants in turn, medians; forward and backward to the gradient by the student's
logits. Memory is what each variant adds above its inputs at its peak, gradient included, in a process of its own.

    python benchmarks/loss.py                  # 512 positions, 32 000 entries, 4 teachers
    python benchmarks/loss.py --smoke          # a few seconds, shapes too small to mean anything
    python benchmarks/loss.py --json out.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from mashbill.distributions.dense import Dense
from mashbill.distributions.topk import TopK
from mashbill.losses.call import distillation_loss

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    logits: torch.Tensor
    dense: tuple[Dense, ...]
    stored: tuple[TopK, ...]
    log_weights: torch.Tensor
    mask: torch.Tensor


def make_inputs(*, rows: int, entries: int, teachers: int, k: int, dtype: torch.dtype, stored: bool) -> Inputs:
    """Build random inputs; teachers are kept either dense or as their top ``k``."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    dense, kept = [], []
    for _ in range(teachers):
        one = Dense.from_logits(noise(1, rows, entries).mul_(2))
        if stored:
            kept.append(TopK.from_logprobs(one.logprobs, k=k))
        else:
            dense.append(Dense(one.logprobs.to(dtype)))
    log_weights = torch.log_softmax(noise(teachers, 1, rows), dim=0)
    mask = torch.ones(1, rows, dtype=torch.bool)
    logits = noise(1, rows, entries).mul_(2).to(dtype).requires_grad_()
    return Inputs(logits, tuple(dense), tuple(kept), log_weights, mask)


def ours(inputs: Inputs, impl: str, divergence: str) -> torch.Tensor:
    teachers = inputs.dense or inputs.stored
    scale = 1 / inputs.mask.numel()
    return distillation_loss(
        inputs.logits,
        teachers,
        inputs.log_weights,
        mask=inputs.mask,
        divergence=divergence,  # pyright: ignore[reportArgumentType]
        scale=scale,
        impl=impl,  # pyright: ignore[reportArgumentType]
    ).total


def naive(inputs: Inputs, divergence: str) -> torch.Tensor:
    """Add up the teachers' probabilities and call ``F.kl_div``: what one writes first."""
    q = torch.zeros(inputs.logits.shape)
    for k in range(len(inputs.log_weights)):
        logprobs = inputs.dense[k].logprobs.float() if inputs.dense else inputs.stored[k].densify()
        q = q + inputs.log_weights[k].exp().unsqueeze(-1) * logprobs.exp()
    log_p = F.log_softmax(inputs.logits.float(), dim=-1)
    if divergence == "forward_kl":
        value = F.kl_div(log_p, q, reduction="sum")
    elif divergence == "reverse_kl":
        value = F.kl_div(q.log(), log_p, reduction="sum", log_target=True)
    else:
        log_m = (0.5 * (q + log_p.exp())).log()
        value = F.kl_div(log_m, q, reduction="sum") + F.kl_div(log_m, log_p, reduction="sum", log_target=True)
        value = value / 2
    return value / inputs.mask.numel()


Variant = Callable[[Inputs, str], torch.Tensor]
VARIANTS: dict[str, Variant] = {
    "naive loop": naive,
    "reference": lambda inputs, divergence: ours(inputs, "reference", divergence),
    "chunked": lambda inputs, divergence: ours(inputs, "chunked", divergence),
}


def run(variant: Variant, inputs: Inputs, divergence: str) -> None:
    torch.autograd.grad(variant(inputs, divergence), inputs.logits)


def seconds(inputs: Inputs, divergence: str, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median wall and processor seconds of each variant, measured in turn."""
    for variant in VARIANTS.values():
        run(variant, inputs, divergence)
    wall: dict[str, list[float]] = {name: [] for name in VARIANTS}
    processor: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(repeats):
        for name, variant in VARIANTS.items():
            clock, work = time.perf_counter(), time.process_time()
            run(variant, inputs, divergence)
            wall[name].append(time.perf_counter() - clock)
            processor[name].append(time.process_time() - work)
    return {name: (statistics.median(wall[name]), statistics.median(processor[name])) for name in VARIANTS}


def memory_field(name: str) -> float:
    """Read one field of the process's status, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def own_peak(name: str, divergence: str, sizes: dict) -> float:
    """Run one variant once and return how far memory rose above the inputs, in MiB."""
    tiny = make_inputs(**{**sizes, "rows": 2, "entries": 64, "k": 4})
    run(VARIANTS[name], tiny, divergence)  # the first call loads code
    inputs = make_inputs(**sizes)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory_field("VmRSS")
    run(VARIANTS[name], inputs, divergence)
    return memory_field("VmHWM") - before


def peak(name: str, divergence: str, arguments: argparse.Namespace, *, stored: bool) -> float | None:
    """Measure :func:`own_peak` in a new process; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--peak", name, "--divergence", divergence]
    for size in ("rows", "entries", "teachers", "k", "dtype", "threads"):
        command += [f"--{size}", str(getattr(arguments, size))]
    command += ["--stored"] if stored else []
    # Without this, glibc keeps what building the inputs freed, and a variant that takes it again seems to need nothing.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def measure(arguments: argparse.Namespace, *, stored: bool) -> list[dict]:
    """Return one record a variant for dense or top-k teachers."""
    inputs = make_inputs(**sizes_of(arguments), stored=stored)
    times = seconds(inputs, arguments.divergence, arguments.repeats)
    del inputs
    base = times["naive loop"][1]
    return [
        {
            "teachers": f"top {arguments.k}" if stored else "dense",
            "variant": name,
            "wall_s": wall,
            "cpu_s": processor,
            "naive_over_this": base / processor,
            "peak_mib": peak(name, arguments.divergence, arguments, stored=stored),
        }
        for name, (wall, processor) in times.items()
    ]


def sizes_of(arguments: argparse.Namespace) -> dict:
    return {
        "rows": arguments.rows,
        "entries": arguments.entries,
        "teachers": arguments.teachers,
        "k": arguments.k,
        "dtype": DTYPES[arguments.dtype],
    }


def show(arguments: argparse.Namespace, records: Sequence[dict]) -> None:
    gradient = arguments.rows * arguments.entries * DTYPES[arguments.dtype].itemsize / 2**20
    print(
        f"{arguments.divergence}, {arguments.rows} positions x {arguments.entries} entries, {arguments.teachers} "
        f"teachers, {arguments.dtype}, {arguments.threads} thread(s); the gradient alone is {gradient:.0f} MiB"
    )
    print(f"{'teachers':<10}{'variant':<12}{'wall s':>10}{'cpu s':>10}{'naive/this':>12}{'peak MiB':>10}")
    for one in records:
        memory = "-" if one["peak_mib"] is None else f"{one['peak_mib']:.0f}"
        print(
            f"{one['teachers']:<10}{one['variant']:<12}{one['wall_s']:>10.4f}{one['cpu_s']:>10.4f}"
            f"{one['naive_over_this']:>12.2f}{memory:>10}"
        )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--entries", type=int, default=32_000)
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--divergence", choices=["forward_kl", "reverse_kl", "js"], default="forward_kl")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: does it run?")
    parser.add_argument("--json", type=Path, help="write the records to this file as well")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--stored", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.rows, arguments.entries, arguments.k, arguments.repeats = 16, 1000, 8, 2
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(own_peak(arguments.peak, arguments.divergence, {**sizes_of(arguments), "stored": arguments.stored}))
        return
    records = measure(arguments, stored=False) + measure(arguments, stored=True)
    show(arguments, records)
    if arguments.json:
        about = {"torch": torch.__version__, "machine": platform.machine(), "processor": platform.processor()}
        options = {
            name: getattr(arguments, name)
            for name in ("rows", "entries", "teachers", "k", "dtype", "divergence", "repeats", "threads")
        }
        text = json.dumps({"about": about, "options": options, "records": records}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
