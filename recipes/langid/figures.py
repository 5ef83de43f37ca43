"""Write the demonstration's figures into README.md, from the files of a finished run.

    make demo
    .venv/bin/python recipes/langid/figures.py        # reads runs/langid

Nothing is measured here, so the figures are those of the run, and the run names its versions and hashes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "runs" / "langid"
START, END = "<!-- figures -->", "<!-- /figures -->"
ARMS = {"main": "**student**, token x task x context weights", "uniform": "student, uniform weights"}


def main() -> None:
    """Replace what stands between the two marks in README.md."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{table()}{END}{after}", encoding="utf-8")


def table() -> str:
    """Return the table: students as mean and range over seeds, teachers as accuracy with its interval."""
    result, found, run = (_read(name) for name in ("result.json", "comparison.json", "run.json"))
    sets = list(dict.fromkeys(entry["set"] for entry in result["entries"]))
    over = {
        (line["arm"], line["set"]): line
        for line in found["over_seeds"]
        if line["by"] == "all" and line["measure"] == "accuracy"
    }
    n_seeds = len(found["seeds"])
    lines = [
        f"Accuracy in percent. Students: mean over {n_seeds} seeds (least to greatest). Others: 95 % interval.",
        "",
        f"| | {' | '.join(_title(result, name) for name in sets)} |",
        f"|---|{'---|' * len(sets)}",
    ]
    for arm, title in ARMS.items():
        lines.append(f"| {title} | {' | '.join(_range(over[arm, name]) for name in sets)} |")
    whole = {(entry["who"], entry["set"]): entry for entry in result["entries"] if entry["by"] == "all"}
    others = [who for who in dict.fromkeys(who for who, _ in whole) if who != "student"]
    others.sort(key=lambda who: -whole[who, sets[0]]["accuracy"]["value"])
    for who in others:
        title = "all five pooled by these weights" if who == "pool" else f"teacher {who.removeprefix('teacher:')}"
        lines.append(f"| {title} | {' | '.join(_interval(whole[who, name]) for name in sets)} |")
    size, n_rows = run["student"]["n_parameters"] / 1e6, run["data"]["train"]["rows"]
    lines += [
        "",
        f"The student has {size:.1f} M parameters and read {n_rows:,} texts without one label.",
        "`make demo` makes the run, `recipes/langid/figures.py` this table;",
        "`recipes/langid/choose.py` compares its settings on rows of their own.",
    ]
    return "\n".join(lines) + "\n"


def _title(result: Mapping[str, Any], name: str) -> str:
    n = next(e["n"] for e in result["entries"] if e["set"] == name and e["who"] == "student" and e["by"] == "all")
    return f"{name} ({n:,} texts)"


def _range(line: Mapping[str, Any]) -> str:
    return f"{100 * line['mean']:.1f} ({100 * line['least']:.1f} to {100 * line['greatest']:.1f})"


def _interval(entry: Mapping[str, Any]) -> str:
    accuracy = entry["accuracy"]
    return f"{100 * accuracy['value']:.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RUN / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
