"""Try settings of the demonstration on its development rows, which no test row is among.

    python recipes/langid/choose.py

Prints accuracy and loss of the student for the recipe as it is and for each change below. The test files are not read.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

from mashbill.cli.progress import for_stderr
from mashbill.train.compare import compare
from mashbill.train.loading import load_recipe
from mashbill_langid.data import prepare

CHANGES = {
    "no_dropout": {"student.options.dropout": 0.0},
    "half_the_epochs": {"train.num_train_epochs": 12},
    "batch_64": {"train.per_device_train_batch_size": 64, "train.learning_rate": 1.0e-2},
    "sharper_tokens": {"weighting.token.beta": 4.0},
    "sharper_skill": {"weighting.task.temperature": 0.05, "weighting.context.temperature": 0.05},
    "linear_pool": {"distill.pool": "linear"},
    "uniform": {"weighting": {}},
}


def main() -> None:
    """Run every change and print the table."""
    recipe = Path(__file__).with_name("recipe.yaml")
    root = recipe.parents[2] / "runs"
    prepare(root / "langid-input")
    loaded = load_recipe(recipe).with_changes(
        {
            "data.eval": {"dev": str(root / "langid-input" / "dev.jsonl")},
            "compare": {"seeds": [0], "arms": CHANGES},
            "output": str(root / "langid-choice"),
        },
        source="choose.py",
    )
    found = compare(loaded, progress=for_stderr(), workers=os.cpu_count() or 1)
    means = {(line["arm"], line["measure"]): line["mean"] for line in found["over_seeds"] if line["by"] == "all"}
    for arm in found["arms"]:
        print(f"{arm:16} accuracy {means[arm, 'accuracy']:.4f}  loss {means[arm, 'loss']:.4f} nats")


if __name__ == "__main__":
    main()
