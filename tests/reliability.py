"""How often a store survives kills and damage: the figures of docs/stores.md.

    python tests/reliability.py                                 # 200 kills, 2,000 damages; some minutes
    python tests/reliability.py --kills 20 --damages 100        # a first impression

Each figure is printed with the upper end of its exact 95 % interval: no failure seen is not no failure.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scipy.stats import binomtest
from teachers.store.damages import DAMAGES, damaged, found_in
from teachers.store.fire import asking, bytes_of, fill_under_fire
from teachers.store.worlds import inputs, plan_of

from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.verifying import verify

N_ROWS = 60


def kills(n: int, place: Path) -> list[str]:
    """Kill one of two workers at random moments, until ``n`` are dead, and compare stores with that of one worker."""
    asked, generator = inputs(N_ROWS), random.Random(0)
    capture(place / "alone", plan_of(asked), asking(asked), reserve=0)
    alone, n_kills, found = bytes_of(place / "alone"), 0, Counter()
    while n_kills < n:
        folder = place / "store"
        n_kills += fill_under_fire(folder, asked, generator, most_kills=min(8, n - n_kills))
        health, there = verify(folder), bytes_of(folder)
        found["stores"] += 1
        found["rows lost"] += N_ROWS - health.n_rows
        found["not whole"] += not health.is_whole
        found["other bytes"] += there != alone
        shutil.rmtree(folder)
        folder.with_name("store log").unlink()
    bad = found["not whole"] + found["other bytes"]
    return [
        f"kills of one of two workers: {n_kills}, in {found['stores']} stores of {N_ROWS} rows",
        f"  rows lost {found['rows lost']}, stores not whole {found['not whole']}, with other bytes {found['other bytes']}"
        f"  (bad stores {_share(bad, found['stores'])})",
    ]


def damages(n: int, place: Path) -> list[str]:
    """Damage a whole store in one place at a time, and see whether that is noticed and the file named."""
    asked, generator = inputs(N_ROWS), random.Random(0)
    capture(place / "whole", plan_of(asked), asking(asked), reserve=0)
    lines, unnoticed, unnamed = [], 0, 0
    for damage in DAMAGES:
        each = Counter()
        for _ in range(n // len(DAMAGES)):
            folder = place / "damaged"
            file = damaged(place / "whole", folder, generator, damage)
            problems, missing = found_in(folder)
            told = "\n".join([*problems, *missing])
            each["n"] += 1
            each["unnoticed"] += not told
            each["unnamed"] += bool(told) and file.stem not in told
            shutil.rmtree(folder)
        unnoticed, unnamed = unnoticed + each["unnoticed"], unnamed + each["unnamed"]
        lines.append(
            f"  {damage.__name__}: {each['n']}, unnoticed {each['unnoticed']}, file not named {each['unnamed']}"
        )
    total = n // len(DAMAGES) * len(DAMAGES)
    return [f"damages: {total}, unnoticed {_share(unnoticed, total)}, file not named {unnamed}", *lines]


def _share(bad: int, total: int) -> str:
    high = binomtest(bad, total).proportion_ci(0.95, method="exact").high
    return f"{bad} of {total}, at most {100 * high:.2f} % at 95 % confidence"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=2000)
    arguments = parser.parse_args()
    for work, n in ((kills, arguments.kills), (damages, arguments.damages)):
        with tempfile.TemporaryDirectory() as place:
            print("\n".join(work(n, Path(place))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
