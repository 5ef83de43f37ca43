import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mashbill.errors import MashbillError
from mashbill.train.compare import compare, plan
from mashbill.train.comparison import Run, gather_runs
from mashbill.train.summary import summary_lines


def test_every_arm_runs_with_every_seed_and_the_main_run_is_used_again(classifier_run):
    jobs = {(job.arm, job.seed): job for job in plan(classifier_run.loaded)}
    assert set(jobs) == {(arm, seed) for arm in ("main", "uniform", "lazy") for seed in (0, 1)}
    assert jobs["main", 0].directory == classifier_run.directory.absolute()
    assert jobs["main", 0].loaded is classifier_run.loaded
    assert jobs["main", 1].directory.name == "seed-1"
    assert jobs["uniform", 1].loaded.recipe.weighting.task is None
    assert jobs["uniform", 1].loaded.recipe.train.seed == 1
    assert jobs["lazy", 0].loaded.recipe.weighting.task is not None
    assert all((job.directory / "result.json").is_file() for job in jobs.values())


def test_teachers_are_asked_once_for_all_runs(classifier_run):
    shared = (classifier_run.directory / "teachers").resolve()
    for link in (classifier_run.directory / "arms").glob("*/*/teachers"):
        assert link.is_symlink()
        assert not os.path.isabs(os.readlink(link))  # the whole run can be moved
        assert link.resolve() == shared
    assert len(list(shared.glob("*.safetensors"))) == 2 * 3  # two teachers; training, evaluation and labelled rows


def test_the_comparison_has_the_promised_shape(classifier_run):
    found = classifier_run.comparison
    assert classifier_run.read("comparison.json") == found
    assert found["seeds"] == [0, 1]
    assert list(found["arms"]) == ["main", "uniform", "lazy"]
    run = found["arms"]["lazy"]["1"]
    assert {each["by"] for each in run["entries"]} == {"all", "task"}
    assert {each["who"] for each in run["entries"]} == {"student"}
    assert run["n_tokens"] > 0
    assert run["train_seconds"] > 0


def test_mean_least_and_greatest_are_over_seeds(classifier_run):
    found = classifier_run.comparison
    values = [
        entry["accuracy"]["value"]
        for run in found["arms"]["main"].values()
        for entry in run["entries"]
        if entry["by"] == "all"
    ]
    (line,) = [
        each
        for each in found["over_seeds"]
        if (each["arm"], each["by"], each["measure"]) == ("main", "all", "accuracy")
    ]
    assert (line["n_seeds"], line["least"], line["greatest"]) == (2, min(values), max(values))
    assert line["mean"] == pytest.approx(np.mean(values))


def test_an_arm_that_hardly_learns_is_clearly_worse_and_a_like_one_is_not(classifier_run):
    lines = {each["arm"]: each for each in classifier_run.comparison["against_main"] if each["by"] == "all"}
    assert lines["lazy"]["loss"]["is_clear"]
    assert lines["lazy"]["loss"]["difference"]["value"] < 0
    assert lines["lazy"]["loss"]["signs"] == [-1, -1]
    assert not lines["uniform"]["accuracy"]["is_clear"]


def test_comparing_again_runs_nothing(classifier_run, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("trained again")

    monkeypatch.setattr("mashbill.train.run._run", refuse)
    assert compare(classifier_run.loaded) == classifier_run.comparison


def test_an_accepted_change_holds_for_every_arm(classifier_run, monkeypatch):
    longer = classifier_run.loaded.with_changes(
        {"train.max_steps": classifier_run.loaded.recipe.train.max_steps + 1}, source="--set"
    )
    asked = []

    def note(_loaded, **options):
        asked.append(options["accept_change"])

    monkeypatch.setattr("mashbill.train.run.distill", note)
    assert compare(longer, accept_change=["train.max_steps"]) == classifier_run.comparison
    assert asked == [("train.max_steps",)] * len(plan(longer))


def test_nothing_starts_after_an_arm_has_failed(classifier_run, monkeypatch):
    started = []

    def fail_in_an_arm(loaded, **_options):
        started.append(loaded)
        if len(started) == 2:
            raise KeyboardInterrupt
        time.sleep(0.1)

    def threads(workers, **_options):
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr("mashbill.train.run.distill", fail_in_an_arm)
    monkeypatch.setattr("mashbill.train.compare.ProcessPoolExecutor", threads)
    with pytest.raises(KeyboardInterrupt):
        compare(classifier_run.loaded, workers=2)
    assert len(started) == 3  # the main run, then two at a time


def test_what_makes_runs_comparable_cannot_be_changed(classifier):
    for changes, message in (({"data.train": "x"}, "cannot change `data.train`"), ({"output": "x"}, "`output`")):
        broken = classifier.with_changes({"compare.arms": {"odd": changes}}, source="--set")
        with pytest.raises(MashbillError, match=message):
            plan(broken)
    named = classifier.with_changes({"compare.arms": {"main": {"weighting": {}}}}, source="--set")
    with pytest.raises(MashbillError, match="cannot be called `main`"):
        plan(named)


def test_nothing_to_compare_is_said(classifier):
    with pytest.raises(MashbillError, match="no `compare` section"):
        compare(classifier.with_changes({"compare": None}, source="--set"))
    with pytest.raises(MashbillError, match="workers=0"):
        compare(classifier, workers=0)


def finished(folder, arm: str, seed: int, n_correct) -> Run:
    """Write what a run leaves behind, with these rows right."""
    right = torch.as_tensor(n_correct, dtype=torch.float64)
    directory = folder / arm / str(seed)
    directory.mkdir(parents=True)
    one = torch.ones_like(right)
    rows = {"row": one.cumsum(0).long() - 1, "n": one, "nll": 2 - right, "n_correct": right, "task": 0 * one.long()}
    save_file(
        {f"set/{key}": value for key, value in rows.items()},
        directory / "outcomes.safetensors",
        metadata={"tasks": json.dumps({"set": ["ui"]})},
    )
    interval = {"value": float(right.mean()), "low": 0.0, "high": 1.0}
    entry = {"set": "set", "who": "student", "by": "all", "name": "all", "accuracy": interval, "loss": interval}
    result = {"primary": "accuracy", "confidence": 0.95, "entries": [entry], "paired": []}
    (directory / "result.json").write_text(json.dumps(result))
    (directory / "run.json").write_text(json.dumps({"train_seconds": 1.0}))
    return Run(arm, seed, directory)


def test_a_difference_needs_an_interval_without_zero_and_one_sign_at_every_seed(tmp_path):
    generator = np.random.default_rng(0)
    base = (generator.random(400) < 0.5).astype(float)
    better, worse = np.clip(base + (generator.random(400) < 0.3), 0, 1), base * (generator.random(400) < 0.6)
    steady = gather_runs(
        [finished(tmp_path / "a", "main", s, better) for s in (0, 1)]
        + [finished(tmp_path / "a", "arm", s, base) for s in (0, 1)]
    )
    assert all(line["accuracy"]["is_clear"] for line in steady["against_main"])
    runs = [finished(tmp_path / "b", "main", 0, better), finished(tmp_path / "b", "main", 1, worse * 0)]
    runs += [finished(tmp_path / "b", "arm", s, base) for s in (0, 1)]
    unsteady = gather_runs(runs)["against_main"][0]["accuracy"]
    assert sorted(unsteady["signs"]) == [-1, 1]
    assert not unsteady["is_clear"]


def test_the_summary_claims_only_what_is_clear(classifier_run):
    first, *facts = summary_lines(classifier_run.result, classifier_run.comparison)
    assert first.startswith("held_out: student accuracy")
    assert all(fact.startswith("  ") for fact in facts)
    text = "\n".join(facts)
    assert "teacher germanic" in text
    assert "no clear difference from arm uniform" in text
    assert "over 2 seed(s)" in text


def test_a_missing_run_is_named(tmp_path):
    run = finished(tmp_path, "main", 0, [1.0, 0.0])
    (run.directory / "result.json").unlink()
    with pytest.raises(MashbillError, match="a run of the comparison has no result") as caught:
        gather_runs([run])
    assert caught.value.where.endswith("result.json")


@pytest.mark.slow
def test_several_workers_find_what_one_finds(classifier_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(classifier_run.loaded.path.parent))
    again = classifier_run.loaded.with_changes({"output": str(tmp_path / "run")}, source="--set")
    found = compare(again, workers=2)
    for arm, runs in found["arms"].items():
        for seed, run in runs.items():
            assert run["entries"] == classifier_run.comparison["arms"][arm][seed]["entries"]
