"""How often a store survives kills and corruptions: the figures of docs/stores.md.

    python tests/reliability.py --write                                  # 200 kills, 2,000 corruptions; 15 minutes
    python tests/reliability.py --kills 20 --commands 4 --corruptions 90 # a first impression

Some kills hit one of two bare workers, and some the command `mashbill capture` and its helpers. A share of bad cases
has the upper end of its exact 95 % interval beside it: no failure seen is not no failure. A kill is bad if the store
that it hit came out bad, so one bad store makes all of its kills bad. The exit code is 1 if anything was lost, twice
there, left over, unnoticed or unnamed. `--write` keeps the figures in docs/reliability.json, and the table in the page.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scipy.stats import binomtest
from teachers.store.commands import ROWS, left_over, rows_of, whole, write_recipe
from teachers.store.commands import fill_under_fire as command_under_fire
from teachers.store.damages import DAMAGES_OF_SETS, damaged, is_named, told_of
from teachers.store.fire import asking, bytes_of, fill_under_fire
from teachers.store.worlds import inputs, plan_of

from mashbill.durable import write_json
from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.files import read_index
from mashbill.teachers.store.sets import LIST, list_sets
from mashbill.teachers.store.verifying import verify

ROOT = Path(__file__).resolve().parents[1]
PAGE, RECORD = ROOT / "docs/stores.md", ROOT / "docs/reliability.json"
MARK = "<!-- written by tests/reliability.py --write -->"
N_ROWS = 60
MOST = 8
"""Kills of a store."""
OUTCOMES = ("kills", "stores", "lost", "twice", "left over", "bad stores", "kills of bad stores")
STAGES = ("before it began", "while it filled", "after the last shard")
VICTIMS = ("the command", "a helper", "all")
SETS = {"train": inputs(N_ROWS), "eval-held": inputs(N_ROWS // 2, seed=1)}
WORDS = {
    "flip": "a bit flipped",
    "cut_short": "a file cut short",
    "blank": "bytes made zero",
    "lose": "a file lost",
    "swap": "two shards exchanged",
    "go_back": "a file of an older store in its place",
    "lose_shard": "a shard lost with its note",
    "lose_plan": "a set's plan lost",
    "lose_set": "a whole set lost",
}


def kills(n: int, place: Path) -> Counter:
    """Kill one of two workers at random moments, ``n`` times in all; compare each store with that of one worker."""
    asked, generator = inputs(N_ROWS), random.Random(0)
    plan = plan_of(asked)
    capture(place / "alone", plan, asking(asked), reserve=0)
    alone, found = bytes_of(place / "alone"), Counter(dict.fromkeys((*OUTCOMES, "asked again"), 0))
    while found["kills"] < n:
        folder = place / "store"
        here = fill_under_fire(folder, asked, generator, most_kills=min(MOST, n - found["kills"]))
        rows = [row_id for shard in plan.shards for row_id, _ in read_index(folder, shard)]
        is_good = verify(folder).is_whole and bytes_of(folder) == alone
        _count(found, here, rows, set(asked.row_ids), is_good=is_good, over=len(left_over(folder)))
        log = folder.with_name("store log")
        found["asked again"] += len(log.read_text().split()) - len(plan.shards)
        shutil.rmtree(folder)
        log.unlink()
    return found


def command_kills(n: int, place: Path) -> Counter:
    """Kill the command, a helper or both at random moments, ``n`` times in all; compare with an undisturbed command."""
    alone, seconds = whole(place / "alone")
    expected, generator = set(rows_of(place / "alone/store")), random.Random(0)
    found = Counter(dict.fromkeys((*OUTCOMES, *STAGES, *VICTIMS), 0))
    assert len(expected) == sum(ROWS.values())
    while found["kills"] < n:
        here = place / str(found["stores"])
        write_recipe(here)
        hit = command_under_fire(here, generator, most_kills=min(MOST, n - found["kills"]), seconds=seconds)
        store = here / "store"
        is_good = told_of(store)[0] == 0 and bytes_of(store) == alone
        _count(found, len(hit), rows_of(store), expected, is_good=is_good, over=len(left_over(store)))
        found.update(stage for stage, _ in hit)
        found.update(victim for _, victim in hit)
    return found


def _count(found: Counter, n_kills: int, rows: list[str], expected: set[str], *, is_good: bool, over: int) -> None:
    twice = sum(number > 1 for number in Counter(rows).values())
    is_bad = not is_good or bool(expected - set(rows)) or twice > 0 or over > 0
    found.update({"kills": n_kills, "stores": 1, "lost": len(expected - set(rows)), "twice": twice, "left over": over})
    found.update({"bad stores": int(is_bad), "kills of bad stores": n_kills * is_bad})


def corruptions(n: int, place: Path) -> dict[str, Counter]:
    """Damage a folder of two sets in one place at a time; see whether `mashbill verify` says so, and names it."""
    generator = random.Random(0)
    plans = {name: plan_of(asked) for name, asked in SETS.items()}
    for name, asked in SETS.items():
        before = plan_of(asked, teacher={"kind": "test", "source": "yesterday's"})
        capture(place / "whole/store" / name, plans[name], asking(asked), reserve=0)
        capture(place / "stale/store" / name, before, asking(asked, refused=(5,)), reserve=0)
    list_sets(place / "whole/store", SETS)
    write_json(place / "stale/store" / LIST, {"sets": ["train"]})
    code, told = told_of(place / "whole/store")
    assert code == 0, told
    found = {damage.__name__: Counter(n=0, unnoticed=0, unnamed=0) for damage in DAMAGES_OF_SETS}
    for number in range(n):
        damage, folder = DAMAGES_OF_SETS[number % len(DAMAGES_OF_SETS)], place / "damaged"
        files = damaged(place / "whole/store", place / "stale/store", folder, generator, damage)
        code, told = told_of(folder)
        each = found[damage.__name__]
        each["n"] += 1
        each["unnoticed"] += code == 0
        each["unnamed"] += code != 0 and not all(
            is_named(one, plans.get(one.parents[1].name, plans["train"]), told) for one in files
        )
        shutil.rmtree(folder)
    return found


def n_bad(record: dict) -> int:
    """Return how many things were lost, twice there, other than they should be, left over, unnoticed or unnamed."""
    killed = ("lost", "twice", "left over", "bad stores")
    of_kills = sum(record[name][what] for name in ("workers", "command") for what in killed)
    return of_kills + sum(each["unnoticed"] + each["unnamed"] for each in record["corruptions"].values())


def total_of(record: dict) -> tuple[int, int]:
    """Return how many kills and how many corruptions there were."""
    return sum(record[name]["kills"] for name in ("workers", "command")), sum(
        each["n"] for each in record["corruptions"].values()
    )


def table(record: dict) -> str:
    """Return the figures as the tables of the page."""
    workers, command, damages = record["workers"], record["command"], record["corruptions"]
    both = Counter(workers) + Counter(command)
    total = Counter()
    for each in damages.values():
        total.update(each)
    rows = OUTCOMES[:6]
    lines = [
        "| `kill -9` of | kills | stores | rows lost | rows twice | files left over | bad stores |",
        "| --- |" + " ---: |" * len(rows),
        _row("one of two workers", [workers[name] for name in rows]),
        _row("`mashbill capture --workers 2`", [command[name] for name in rows]),
        "",
        f"A bad store is not whole, or has other bytes than an undisturbed one. Kills that hit one that came out bad:"
        f" {_share(both['kills of bad stores'], both['kills'])}; stores that did:"
        f" {_share(both['bad stores'], both['stores'])}.",
        f"Of the {command['kills']} kills of the command {command['before it began']} hit it before it wrote anything,"
        f" {command['while it filled']} while stores were filled, {command['after the last shard']} after that;"
        f" {command['the command']} hit the command alone, {command['a helper']} a helper alone,"
        f" {command['all']} all processes.",
        "",
        "| one damage to a store of two sets | tried | unnoticed | file or rows not named |",
        "| --- | ---: | ---: | ---: |",
        *(_row(WORDS[name], [each["n"], each["unnoticed"], each["unnamed"]]) for name, each in damages.items()),
        _row("all", [total["n"], total["unnoticed"], total["unnamed"]]),
        "",
        f"Unnoticed by `mashbill verify`: {_share(total['unnoticed'], total['n'])}.",
    ]
    return "\n".join(lines)


def _row(name: str, numbers: list[int]) -> str:
    return f"| {name} | " + " | ".join(f"{number:,}" for number in numbers) + " |"


def _share(bad: int, total: int) -> str:
    high = binomtest(bad, total).proportion_ci(0.95, method="exact").high if total else 1
    return f"{bad:,} of {total:,}, at most {100 * high:.2f} % at 95 % confidence"


def on_page(text: str, record: dict) -> str:
    """Return a page with the table between its marks."""
    before, _, after = text.split(MARK)
    return f"{before}{MARK}\n\n{table(record)}\n\n{MARK}{after}"


def main() -> int:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150, help="of bare workers")
    parser.add_argument("--commands", type=int, default=50, help="kills of the command and its helpers")
    parser.add_argument("--corruptions", type=int, default=2000)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    record = {}
    for name, work, n in (
        ("corruptions", corruptions, arguments.corruptions),
        ("workers", kills, arguments.kills),
        ("command", command_kills, arguments.commands),
    ):
        with tempfile.TemporaryDirectory() as place:
            record[name] = work(n, Path(place))
        print(name, json.dumps(record[name]), file=sys.stderr, flush=True)
    print(table(record))
    if arguments.write:
        write_json(RECORD, record)
        PAGE.write_text(on_page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    return int(n_bad(record) > 0)


if __name__ == "__main__":
    sys.exit(main())
