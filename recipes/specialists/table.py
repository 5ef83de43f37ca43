"""Compare the specialists' recipe with uniform weights, routing and cross-entropy alone, and write the table.

    python recipes/specialists/prepare.py && python recipes/specialists/table.py

Cross-entropy is given three budgets: the same tokens, the same time in training (the teachers' answers count as there
already, as when several students are made), and the same time in all (asking the teachers counts too). Training the
teachers counts in none of them. Finished runs are kept, so the command can be stopped and repeated.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a run uses the cores better than threads do

from mashbill.cli.progress import for_stderr
from mashbill.train.compare import compare
from mashbill.train.loading import Loaded, load_recipe

RECIPE = Path(__file__).with_name("recipe.yaml")
NAMES = {
    "main": "token x task weights",
    "uniform": "uniform weights",
    "routing": "one-hot routing",
    "cross_entropy": "cross-entropy, equal tokens",
    "cross_entropy_training_time": "cross-entropy, equal training time",
    "cross_entropy_total_time": "cross-entropy, equal total time",
}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/specialists.md"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    loaded = load_recipe(RECIPE)
    found = compare(loaded, progress=for_stderr(), workers=options.workers)
    found = compare(with_time(loaded, found), progress=for_stderr(), workers=options.workers)
    options.output.write_text(page(found, asking_seconds(loaded)), encoding="utf-8")
    print(options.output.read_text(encoding="utf-8"))


def with_time(loaded: Loaded, found: Mapping[str, Any]) -> Loaded:
    """Add arms whose cross-entropy student trains as long as the main one, by steps at the measured speed."""
    run = loaded.resolve(loaded.recipe.output)
    stored = run / "equal-time-steps.json"  # measured once: another measurement would be another recipe
    if not stored.exists():
        n_steps = json.loads((run / "run.json").read_text())["steps"]
        of_step = seconds(found, "cross_entropy") / n_steps
        training = round(seconds(found, "main") / of_step)
        total = round((seconds(found, "main") + asking_seconds(loaded)) / of_step)
        stored.write_text(json.dumps({"training": training, "total": total}))
    steps = json.loads(stored.read_text())
    changes = {
        f"compare.arms.cross_entropy_{budget}_time": {
            "distill": {"cross_entropy": 1.0},
            "train.max_steps": n_steps,
        }
        for budget, n_steps in steps.items()
    }
    return loaded.with_changes(changes, source="table.py")


def seconds(found: Mapping[str, Any], arm: str) -> float:
    """Return the median training time of an arm over seeds, in seconds."""
    return statistics.median(run["train_seconds"] for run in found["arms"][arm].values())


def asking_seconds(loaded: Loaded) -> float:
    """Return how long the teachers took to answer for the main run, in seconds."""
    return json.loads((loaded.resolve(loaded.recipe.output) / "run.json").read_text())["teacher_seconds"]


def page(found: Mapping[str, Any], asking: float) -> str:
    """Return the Markdown page."""
    over = {(line["arm"], line["name"]): line for line in found["over_seeds"] if line["measure"] == "perplexity"}
    domains = sorted({name for _, name in over if name != "all"})
    lines = [
        "# Specialists",
        "",
        "Three language models of 2.6 M parameters, each trained on one domain, teach a student of 0.9 M.",
        f"Perplexity on held-out text, mean over seeds {', '.join(map(str, found['seeds']))} with the least and the",
        "greatest in brackets; lower is better. Written by `python recipes/specialists/table.py`.",
        "",
        f"| student | {' | '.join(domains)} | all | tokens, M | training, s |",
        f"|---|{'---|' * (len(domains) + 3)}",
    ]
    for arm, name in NAMES.items():
        if arm not in found["arms"]:
            continue
        cells = [_cell(over[arm, domain]) for domain in (*domains, "all")]
        tokens = statistics.median(run["n_tokens"] for run in found["arms"][arm].values()) / 1e6
        lines.append(f"| {name} | {' | '.join(cells)} | {tokens:.2f} | {seconds(found, arm):.0f} |")
    lines += [
        "",
        f"Asking the three teachers about all rows took {asking:.0f} s once, for all students together.",
        "",
        "Token x task weights against each arm: nats a token, paired by row, averaged over seeds; negative is better.",
        "",
        "| against | difference | 95 % interval | same sign at every seed |",
        "|---|---|---|---|",
    ]
    for line in found["against_main"]:
        if line["by"] != "all":
            continue
        loss = line["loss"]
        gap = loss["difference"]
        clear = "yes" if loss["is_clear"] else "not clear"
        lines.append(
            f"| {NAMES[line['arm']]} | {gap['value']:+.4f} | [{gap['low']:+.4f}, {gap['high']:+.4f}] | {clear} |"
        )
    return "\n".join(lines) + "\n"


def _cell(line: Mapping[str, Any]) -> str:
    return f"{line['mean']:.1f} ({line['least']:.1f}-{line['greatest']:.1f})"


if __name__ == "__main__":
    main()
