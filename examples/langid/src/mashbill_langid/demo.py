"""The demonstration: data, the teachers' scorecard, the student and its report, and one line a test set.

python -m mashbill_langid.demo                 # a few minutes on two cores
python -m mashbill_langid.demo --smoke         # seconds; the same path, a student that learns little
python -m mashbill_langid.demo --output DIR    # elsewhere than in runs/langid
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mashbill_langid.data import prepare

RECIPE = Path(__file__).resolve().parents[4] / "recipes" / "langid" / "recipe.yaml"
SMOKE_ROWS = {"n_train": 400, "n_scorecard": 200, "n_eval": 200, "n_shifted": 100}
SMOKE_CHANGES = ("train.num_train_epochs=1", "train.logging_steps=2", "compare=null")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit code of the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="default: the one in the clone")
    parser.add_argument("--output", type=Path, default=Path("runs/langid"))
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args(arguments)
    # Steps this small are slower on two threads, which wait for each other, than on one. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from mashbill.cli.app import main as mashbill  # the parser's help needs none of it

    output = given.output.resolve()
    written = prepare(_input(output), **(SMOKE_ROWS if given.smoke else {}))
    print("data:", ", ".join(f"{n:,} {name}" for name, n in written.items()))
    changes = [f"--set={change}" for change in (*_places(output), *(SMOKE_CHANGES if given.smoke else ()))]
    for command in ("scorecard", "distill"):
        if code := mashbill([command, str(given.recipe), *changes]):
            return code
    print(verdict(output))
    return 0


def verdict(run: Path) -> str:
    """Return one line a test set, the student beside pool and teachers, and where the report is."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    whole = [entry for entry in result["entries"] if entry["by"] == "all"]
    lines = []
    for name in dict.fromkeys(entry["set"] for entry in whole):
        scores = {entry["who"]: entry["accuracy"]["value"] for entry in whole if entry["set"] == name}
        student = scores.pop("student")
        others = ", ".join(f"{who.removeprefix('teacher:')} {score:.1%}" for who, score in scores.items())
        lines.append(f"{name}: student {student:.1%}, trained without labels; {others}")
    return "\n".join([*lines, f"report: {run / 'report.html'}"])


def _input(output: Path) -> Path:
    return output.with_name(f"{output.name}-input")


def _places(output: Path) -> list[str]:
    """Return the recipe's paths, for a run that may lie elsewhere."""
    data = _input(output)
    return [
        f"output={output}",
        f"student.labels={data / 'labels.txt'}",
        f"data.train={data / 'train.jsonl'}",
        f"data.scorecard={data / 'scorecard.jsonl'}",
        f"data.eval.django={data / 'eval_django.jsonl'}",
        f"data.eval.udhr={data / 'eval_udhr.jsonl'}",
    ]


if __name__ == "__main__":
    sys.exit(main())
