"""Measure everything that docs/performance.md shows, and write its tables and plots.

    python benchmarks/page.py                      # all runs, one after the other; about an hour
    python benchmarks/page.py --only logits        # the runs whose names hold that word
    python benchmarks/page.py --write              # no run: tables and plots from the records that there are
    python benchmarks/page.py --list               # the runs, and what is claimed of them
    python benchmarks/page.py --device cuda        # the runs for a GPU

Each run is a process and leaves a record in docs/performance/, so that one can be repeated without the others. The
machine should do nothing else meanwhile, and the competitors should be installed: see benchmarks/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import render
from harness.claims import CLAIMS
from harness.plan import JOBS, Job

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"


def measure(job: Job, folder: Path, *, cores: int, device: str, smoke: bool) -> bool:
    """Run one job and return whether it succeeded; its record is only replaced if it did."""
    fresh = folder / f"{job.name}.json.new"
    command = [sys.executable, str(ROOT / "benchmarks" / job.script), *job.words, "--device", device]
    command += ["--threads", str(job.threads or cores), "--json", str(fresh)]
    command += ["--smoke"] if smoke else []
    print(f"-- {job.name}: {' '.join(command[1:])}", flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode != 0 or not fresh.exists():
        fresh.unlink(missing_ok=True)
        return False
    fresh.rename(folder / f"{job.name}.json")
    return True


def read(folder: Path) -> dict[str, Any]:
    """Return the records by job; a run of one form stands for itself, of several as a list."""
    found = {}
    for job in JOBS:
        file = folder / f"{job.name}.json"
        if file.exists():
            records = json.loads(file.read_text(encoding="utf-8"))
            found[job.name] = records if "--mode" in job.words else records[0]
    return found


def write(page: Path, records: Mapping[str, Any]) -> None:
    """Put tables and plots into the page."""
    text = page.read_text(encoding="utf-8")
    for name, block in render.blocks(records).items():
        text = render.replaced(text, name, block)
    page.write_text(text, encoding="utf-8")
    render.plots(records, page.parent / "images")


def show_list() -> None:
    for job in JOBS:
        print(f"{job.name:<28}{job.script} {' '.join(job.words)}{' --threads 1' if job.threads == 1 else ''}")
    print()
    for claim in CLAIMS:
        print(f"{claim.text}: {'at most' if claim.below else 'at least'} {claim.bound:g}{claim.unit}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word in the names of the runs")
    parser.add_argument("--write", action="store_true", help="only write the page, from what was measured before")
    parser.add_argument("--list", action="store_true", help="say what would run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for runs on all cores")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, and no page: does it run?")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.list:
        show_list()
        return 0
    folder = ROOT / (".cache/performance" if arguments.smoke else "docs/performance")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in JOBS if arguments.only in job.name and job.device == arguments.device]
    jobs = [] if arguments.write else jobs
    options = {"cores": arguments.threads, "device": arguments.device, "smoke": arguments.smoke}
    failed = [job.name for job in jobs if not measure(job, folder, **options)]
    records = read(folder)
    if not arguments.smoke:
        write(PAGE, records)
    print(render.verdicts(records))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
