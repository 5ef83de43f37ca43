"""How often a store survives kills and corruptions: the figures of docs/stores.md.

    python tests/reliability.py                                 # 200 kills, 2,000 corruptions; minutes
    python tests/reliability.py --kills 20 --corruptions 100    # a first impression

A share of bad cases has the upper end of its exact 95 % interval beside it: no failure seen is not no failure. The exit
code is 1 if anything was lost, twice there, unnoticed or unnamed.
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
from teachers.store.damages import DAMAGES, damaged, found_in, is_named
from teachers.store.fire import asking, bytes_of, fill_under_fire
from teachers.store.worlds import answered, inputs, plan_of

from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.files import read_index
from mashbill.teachers.store.verifying import verify

N_ROWS = 60


def kills(n: int, place: Path) -> tuple[int, list[str]]:
    """Kill one of two workers at random moments, ``n`` times in all; compare each store with that of one worker."""
    asked, generator = inputs(N_ROWS), random.Random(0)
    plan = plan_of(asked)
    capture(place / "alone", plan, asking(asked), reserve=0)
    alone, n_kills, found = bytes_of(place / "alone"), 0, Counter()
    while n_kills < n:
        folder = place / "store"
        here = fill_under_fire(folder, asked, generator, most_kills=min(8, n - n_kills))
        n_kills += here
        rows = Counter(row_id for shard in plan.shards for row_id, _ in read_index(folder, shard))
        found["stores"] += 1
        found["lost"] += len(set(asked.row_ids) - set(rows))
        found["twice"] += sum(number > 1 for number in rows.values())
        found["bad"] += not (verify(folder).is_whole and bytes_of(folder) == alone)
        found["left over"] += len(list((folder / "shards").glob(".*")))
        log = folder.with_name("store log")
        found["asked in vain"] += len(log.read_text().split()) - len(plan.shards)
        shutil.rmtree(folder)
        log.unlink()
    return found["lost"] + found["twice"] + found["bad"] + found["left over"], [
        f"kills of one of two workers: {n_kills} in {found['stores']} stores of {N_ROWS} rows",
        f"  rows lost {found['lost']}, rows there twice {found['twice']}, files left over {found['left over']},"
        f" shards asked about again after a kill {found['asked in vain']}",
        f"  kills after which a store was not whole, or had other bytes: {_share(found['bad'], n_kills)}",
    ]


def corruptions(n: int, place: Path) -> tuple[int, list[str]]:
    """Damage a whole store in one place at a time, and see whether that is noticed, and file and rows are named."""
    asked, generator = inputs(N_ROWS), random.Random(0)
    plan, before = plan_of(asked), plan_of(asked, teacher={"kind": "test", "source": "yesterday's"})
    capture(place / "whole", plan, asking(asked), reserve=0)
    capture(
        place / "stale", before, lambda s: answered(asked, range(s.first, s.first + s.n_rows), refused=[5]), reserve=0
    )
    found = {damage.__name__: Counter() for damage in DAMAGES}
    for number in range(n):
        damage, folder = DAMAGES[number % len(DAMAGES)], place / "damaged"
        files = damaged(place / "whole", place / "stale", folder, generator, damage)
        problems, missing = found_in(folder)
        told, each = "\n".join([*problems, *missing]), found[damage.__name__]
        each["n"] += 1
        each["unnoticed"] += not told
        each["unnamed"] += bool(told) and not all(is_named(one, plan, told) for one in files)
        shutil.rmtree(folder)
    unnoticed = sum(each["unnoticed"] for each in found.values())
    unnamed = sum(each["unnamed"] for each in found.values())
    lines = [
        f"  {name}: {each['n']}, unnoticed {each['unnoticed']}, unnamed {each['unnamed']}"
        for name, each in found.items()
    ]
    head = f"corruptions: {n}, unnoticed {_share(unnoticed, n)}; noticed, but file or rows not named: {unnamed}"
    return unnoticed + unnamed, [head, *lines]


def _share(bad: int, total: int) -> str:
    high = binomtest(bad, total).proportion_ci(0.95, method="exact").high
    return f"{bad} of {total}, at most {100 * high:.2f} % at 95 % confidence"


def main() -> int:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--corruptions", type=int, default=2000)
    arguments = parser.parse_args()
    bad = 0
    for work, n in ((kills, arguments.kills), (corruptions, arguments.corruptions)):
        with tempfile.TemporaryDirectory() as place:
            n_bad, lines = work(n, Path(place)) if n else (0, [])
        bad += n_bad
        print("\n".join(lines), flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
