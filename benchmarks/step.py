"""Time of a whole training step under several teachers, and the loss's share of it.

A GPT-2 student of 4 layers and teachers of twice its width, random, built from configurations; the teachers answer
online, or their top entries were captured before. From tokens to the student's gradients; the optimiser is timed
beside it. `x parts` is the step over the student's forward and backward plus the teachers' forwards, each measured
alone, heads included, medians of rounds in which all take turns; `loss %` is what the step takes above them.

    python benchmarks/step.py                  # 1, 2, 4, 8 teachers at 32 000 entries; 4 teachers at 8 000 to 64 000
    python benchmarks/step.py --smoke          # seconds, sizes too small to mean anything
    python benchmarks/step.py --json out.json
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import clock, models
from harness.check import TOLERANCE
from harness.forms import Inputs
from harness.growth import exponent
from harness.machine import about
from harness.tables import aligned
from harness.variants import AbsentError, ours

Loss = Callable[[Inputs], torch.Tensor]
SMOKE = models.Sizes(teachers=2, entries=512, rows=2, positions=16, layers=1, width=64, teacher_width=64, k=8)


def same_gradient(step: models.Step, loss: Loss, world: models.World) -> float:
    """Return how far the student's gradients are from those of the naive loss in the same place, relative."""
    plain = models.STEPS["naive PyTorch" if step.online else "naive PyTorch, stored top-k"]
    found = []
    for run, function in ((step.run, loss), (plain.run, plain.load())):
        world.student.zero_grad()
        run(world, function)
        found.append(torch.cat([one.grad.flatten() for one in world.student.parameters()]))
    world.student.zero_grad()
    return float((found[0] - found[1]).norm() / found[1].norm())


def checked(arguments: argparse.Namespace) -> tuple[dict[str, Loss], dict[str, str]]:
    """Return the losses whose step gives the naive gradients in a small model, and why others are left out."""
    world, losses, notes = models.build(SMOKE, device=arguments.device), {}, {}
    for name, step in models.STEPS.items():
        try:
            loss = step.load()
            error = same_gradient(step, loss, world)
        except AbsentError as reason:
            notes[name] = str(reason)
        else:
            if error <= TOLERANCE:
                losses[name] = loss
            else:
                notes[name] = f"gradient off by {error:.1e}"
    return losses, notes


def measure(sizes: models.Sizes, losses: Mapping[str, Loss], arguments: argparse.Namespace) -> dict[str, Any]:
    """Time every step and part at one size, in turn."""
    world = models.build(sizes, device=arguments.device)
    work: dict[str, Callable[[], object]] = {
        "student forward, backward": models.student_alone(world),
        "teachers forward": models.teachers_alone(world),
        "AdamW": models.optimiser_alone(world),
    }
    if "mashbill, logits" in losses:
        work["loss, logits"] = models.loss_alone(world, ours)
    for name, loss in losses.items():
        work[name] = partial(models.STEPS[name].run, world, loss)
    samples: dict[str, list[tuple[float, float]]] = {}
    # Afterwards those that take gigabytes: who comes next waits for the memory that they gave back.
    heavy = {name: work.pop(name) for name in losses if name.startswith("TRL")}
    for part in filter(None, (work, heavy)):
        samples |= clock.interleaved(
            part,
            repeats=arguments.repeats,
            before=world.student.zero_grad,
            device=arguments.device,
            always=[name for name in part if not name.startswith(("naive", "TRL"))],
        )
    seconds = {name: clock.quartiles([wall for wall, _ in each]) for name, each in samples.items()}
    gc.collect()
    return {
        "sizes": asdict(sizes),
        "seconds": seconds,
        "steps": [line(name, seconds, len(samples[name])) for name in losses],
    }


def line(name: str, seconds: Mapping[str, Sequence[float]], turns: int) -> dict[str, Any]:
    """Say what a step costs above its parts."""
    parts = seconds["student forward, backward"][1]
    if models.STEPS[name].online:
        parts += seconds["teachers forward"][1]
    step = seconds[name][1]
    found = {"name": name, "turns": turns, "step_s": step, "parts_s": parts}
    return {**found, "over_parts": step / parts, "share": 1 - parts / step}


def sweep(arguments: argparse.Namespace) -> list[models.Sizes]:
    """Return the sizes to measure: teachers at one vocabulary, then vocabularies at one number of teachers."""
    if arguments.smoke:
        return [SMOKE, replace(SMOKE, teachers=1)]
    base = models.Sizes()
    found = [replace(base, teachers=count) for count in arguments.teachers]
    found += [replace(base, entries=size) for size in arguments.entries]
    return list(dict.fromkeys(found))


def show(record: Mapping[str, Any]) -> str:
    """Return one size's table."""
    sizes, seconds = record["sizes"], record["seconds"]
    rows = [["", "s", "quartiles", "x parts", "loss %"]]
    steps = {one["name"]: one for one in record["steps"]}
    for name, (low, middle, high) in seconds.items():
        found = steps.get(name)
        of_parts = [f"{found['over_parts']:.2f}", f"{100 * found['share']:.0f}"] if found else ["", ""]
        rows.append([name, f"{middle:.4f}", f"{low:.4f}-{high:.4f}", *of_parts])
    batch = f"{sizes['rows']} x {sizes['positions']} tokens"
    return f"== K={sizes['teachers']} V={sizes['entries']}, {batch}\n{aligned(rows)}\n"


def growth(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Fit exponents of each step's time, and of the loss on logits, over teachers and over entries."""
    found: dict[str, dict[str, float]] = {}
    for axis, other in (("teachers", "entries"), ("entries", "teachers")):
        held = max(({one["sizes"][other] for one in records}), key=lambda size: _count(records, other, size))
        part = [one for one in records if one["sizes"][other] == held]
        if len(part) < 2:
            continue
        names = [name for name in part[0]["seconds"] if all(name in one["seconds"] for one in part)]
        sizes = [one["sizes"][axis] for one in part]
        found[axis] = {name: exponent(sizes, [one["seconds"][name][1] for one in part]) for name in names}
    return found


def _count(records: Sequence[Mapping[str, Any]], axis: str, size: int) -> int:
    return sum(one["sizes"][axis] == size for one in records)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--entries", type=int, nargs="+", default=[8_000, 16_000, 32_000, 64_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--json", type=Path, help="write the record to this file as well")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.repeats = 2
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    losses, notes = checked(arguments)
    for name, note in notes.items():
        print(f"not timed: {name}: {note}")
    records = []
    for sizes in sweep(arguments):
        # Competitors at one size: how they grow is their own matter, and takes as long as all the rest.
        alone = sizes not in (models.Sizes(), SMOKE)
        taking_part = {name: loss for name, loss in losses.items() if not (alone and name.startswith("TRL"))}
        records.append(measure(sizes, taking_part, arguments))
        print(show(records[-1]), flush=True)
    exponents = growth(records)
    for axis, each in exponents.items():
        print(f"exponents in {axis}: " + ", ".join(f"{name} {value:.2f}" for name, value in each.items()))
    if arguments.json:
        whole = {"mode": "step", "about": about(arguments), "left_out": notes, "sizes": records, "growth": exponents}
        arguments.json.write_text(json.dumps([whole], indent=1) + "\n", encoding="utf-8")
    return int(any(name.startswith("mashbill") and "off by" in note for name, note in notes.items()))


if __name__ == "__main__":
    sys.exit(main())
