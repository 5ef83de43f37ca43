"""What no loss over hidden states can go below: the products of the heads, as many rows at a time as memory holds.

    python benchmarks/products.py             # bfloat16, both vocabularies, all threads and one; two minutes
    python benchmarks/products.py --smoke     # sizes too small to mean anything

`x all` is the time of the products of so many rows at a time over that of all rows at once; `with exponentials` adds
one exponential for each logit of student and teachers, at the best rate measured here, and nothing else.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import clock, limits
from harness.forms import DTYPES, Shape
from harness.render import markdown

SHAPES = {
    Shape("hidden", 1024, 32000, 4, dtype="bfloat16"): (1024, 352),
    Shape("hidden", 512, 151936, 4, dtype="bfloat16"): (512, 96),
}
"""And rows at a time: all, and what the loss takes so as to stay within 84 MiB of scores."""
SMALL = {Shape("hidden", 13, 311, 2, width=19, teacher_width=23, dtype="bfloat16"): (13, 4)}


def products(shape: Shape, n_each: int) -> Callable[[], None]:
    """Return the three products of the student's head and one of each teacher's, ``n_each`` rows at a time."""
    dtype, generator = DTYPES[shape.dtype], torch.Generator().manual_seed(0)

    def made(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator).to(dtype)

    pairs = [
        (made(shape.rows, width), made(shape.entries, width))
        for width in (shape.width, *[shape.teacher_width] * shape.teachers)
    ]
    (hidden, head), *_ = pairs
    scores, grad_hidden, grad_head = made(n_each, shape.entries), torch.empty_like(hidden), torch.empty_like(head)

    def multiply() -> None:
        for part in torch.arange(shape.rows).split(n_each):
            here, out = slice(int(part[0]), int(part[-1]) + 1), scores[: len(part)]
            for states, weight in pairs:
                torch.mm(states[here], weight.T, out=out)
            torch.mm(out, head, out=grad_hidden[here])
            torch.mm(out.T, hidden[here], out=grad_head)

    return multiply


def record(shape: Shape, n_eaches: tuple[int, ...], *, repeats: int, seconds: float) -> list[dict]:
    """Measure one shape with PyTorch's present number of threads."""
    work = {n_each: products(shape, n_each) for n_each in n_eaches}
    samples = clock.interleaved({str(n): one for n, one in work.items()}, repeats=repeats)
    found = {name: statistics.median(wall for wall, _ in each) for name, each in samples.items()}
    at_once = found[str(n_eaches[0])]
    each = limits.least_seconds(shape, limits.measure(shape, seconds=seconds))["exp"]
    return [
        {
            "rows": shape.rows,
            "entries": shape.entries,
            "threads": torch.get_num_threads(),
            "at a time": int(name),
            "s": wall,
            "x all": wall / at_once,
            "with exponentials": (wall + each) / at_once,
        }
        for name, wall in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the products of heads alone, a number of rows at a time.")
    parser.add_argument("--smoke", action="store_true", help="sizes too small to mean anything")
    parser.add_argument("--json", type=Path, help="write the records there as well")
    arguments = parser.parse_args()
    measured = partial(record, repeats=1 if arguments.smoke else 5, seconds=0.01 if arguments.smoke else 0.5)
    records = []
    for n_threads in sorted({1, torch.get_num_threads()}, reverse=True):
        torch.set_num_threads(n_threads)
        for shape, n_eaches in (SMALL if arguments.smoke else SHAPES).items():
            records += measured(shape, n_eaches)
    lines = [
        [f"{one[name]:.3g}" if isinstance(one[name], float) else str(one[name]) for name in one] for one in records
    ]
    print(markdown([list(records[0]), *lines]))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
