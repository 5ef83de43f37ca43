"""The example package with rules of its own: installed, given as a module, and from Python."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

import mashbill as mb
from mashbill.distributions import Dense, Statistics, measure
from mashbill.weights import Evidence
from mashbill_agreement import Agreement, confidence

ROOT = Path(__file__).parents[2]


def evidence(divergence: torch.Tensor) -> Evidence:
    """Two teachers at one position, at these distances from their mean."""
    each = [Dense.from_probs(torch.tensor([[p, 1 - p]], dtype=torch.float64)) for p in (0.9, 0.6)]
    statistics = Statistics.stack([measure(one) for one in each])
    plain = Evidence.plain(
        ("near", "far"), Statistics(*(f.unsqueeze(1) for f in vars(statistics).values())), n_entries=2
    )
    return Evidence(**{**vars(plain), "divergences": {"mean": divergence.reshape(2, 1, 1)}})


def test_both_rules_in_closed_form() -> None:
    given = evidence(torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert Agreement(sharpness=0.5)(given).exp().flatten().tolist() == pytest.approx([0.731058579, 0.268941421])
    assert confidence(given, power=2.0).exp().flatten().tolist() == pytest.approx([0.81 / 1.17, 0.36 / 1.17])


def test_from_python_any_callable_is_a_rule() -> None:
    operator = mb.product(
        token=Agreement(sharpness=9.0), task=confidence, bounds=(0.1, 0.7), order=mb.order.SafetyOrder(2, ((1, 0),))
    )
    weights = operator(evidence(torch.tensor([0.0, 2.0], dtype=torch.float64))).exp().flatten()
    assert weights.tolist() == pytest.approx([0.5, 0.5])  # the order of safety has the last word


def test_the_package_is_installed_and_offers_its_rules() -> None:
    offered = {
        point.name: point.value for point in entry_points(group="mashbill.weights") if "agreement" in point.value
    }
    assert offered == {"agreement": "mashbill_agreement:Agreement", "confidence": "mashbill_agreement:confidence"}


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run mashbill as a user does, in a folder with the starter recipe."""
    return subprocess.run(
        [sys.executable, "-m", "mashbill", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert command(tmp_path, "init", ".").returncode == 0
    return tmp_path


GIVEN = {"MASHBILL_NO_PLUGINS": "1", "PYTHONPATH": str(ROOT / "examples/plugin/src")}


@pytest.mark.parametrize(
    ("rule", "words", "environment"),
    [
        ("{rule: agreement, sharpness: 3.0}", (), {}),
        ("{rule: confidence, power: 2.0}", ("--plugin", "mashbill_agreement"), GIVEN),
    ],
    ids=["a dataclass, installed", "a function, given as a module"],
)
def test_a_recipe_names_them(rule: str, words: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
    settings = (f"weighting={{token: {rule}}}", "train.num_train_epochs=2", "output=run")
    words = ("distill", "recipe.yaml", *words, *(word for each in settings for word in ("--set", each)))
    outcome = command(folder, *words, **environment)
    assert outcome.returncode == 0, outcome.stderr
    lines = (folder / "run/records.jsonl").read_text(encoding="utf-8").splitlines()
    weights = json.loads(lines[-1])["weights"]["all"].values()
    assert sum(weights) == pytest.approx(1, abs=1e-6)
    assert max(weights) - min(weights) > 0.01  # the rule had a say


@pytest.mark.parametrize("rule", ["{rule: confidence, powr: 2}", "{rule: agreement, sharpnes: 2}"])
def test_a_misspelt_option_is_the_users_error(rule: str, folder: Path) -> None:
    outcome = command(folder, "distill", "recipe.yaml", "--set", f"weighting.token={rule}", "--set", "output=run")
    assert outcome.returncode == 2
    assert re.search("powr|sharpnes", outcome.stderr)
    assert "Traceback" not in outcome.stderr
    assert not (folder / "run").exists()


def test_its_own_tests_pass_as_a_stranger_runs_them() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rxs", "-p", "no:cacheprovider"],
        cwd=ROOT / "examples" / "plugin",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert outcome.returncode == 0, outcome.stdout
    assert re.search(r"\d+ passed, \d+ skipped, 2 xfailed", outcome.stdout)
    assert "the rule knows of no safety order" in outcome.stdout
