"""Rules that learn: found wherever they stand, shown every step, kept over a kill."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mashbill import plugins
from mashbill.errors import MashbillError
from mashbill.train.learners import learners_of, state_of
from mashbill.train.loading import Loaded
from mashbill.train.run import distill
from mashbill.weights import EntropySoftmax, average, conform, product
from mashbill.weights.evidence import Evidence, Observation


class Follower(nn.Module):
    """Leans toward the teacher that the student is nearest to; sees every step once."""

    scale = "task"
    needs = frozenset({"divergence:student", "gram"})

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("scores", torch.zeros(2))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long))

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        assert evidence.given("divergence:student").shape == evidence.statistics.entropy.shape
        assert evidence.given("gram").shape[1:] == (3, 3)
        return torch.log_softmax(self.scores, dim=0).reshape(-1, 1, 1).expand(-1, len(evidence.task), 1)

    def observe(self, observation: Observation, /) -> None:
        assert observation.step == int(self.n_seen) + 1
        self.n_seen += 1
        mask = observation.evidence.mask
        self.scores -= self.rate * observation.losses[:, mask].mean(dim=1)


def test_learners_are_found_wherever_they_stand() -> None:
    rule = Follower()
    operator = product(token=EntropySoftmax(), task=conform(average(EntropySoftmax(), rule), bounds=(0.1, 0.9)))
    assert learners_of(operator) == {"task.rule.rules.1": rule}
    assert state_of(operator)["weighting/task.rule.rules.1/scores"] is not None
    assert learners_of(product(token=EntropySoftmax())) == {}


@pytest.fixture
def with_rule(classification: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loaded]:
    """Return ``with_rule(rule class, **changes)``: a small recipe whose task rule it is."""

    def make(rule: type, **changes: object) -> Loaded:
        monkeypatch.setitem(plugins._given, "weights", {"mine": rule})
        return classification({"weighting": {"task": {"rule": "mine"}}, **changes})

    return make


def learnt(directory: Path) -> dict[str, torch.Tensor]:
    """Return what the last checkpoint keeps of the rules."""
    last = sorted((directory / "checkpoints").glob("step-*"))[-1]
    return {k: v for k, v in load_file(last / "model.safetensors").items() if k.startswith("weighting/")}


def test_a_rule_learns_in_training_and_a_resume_changes_nothing(
    with_rule: Callable[..., Loaded], tmp_path: Path
) -> None:
    distill(with_rule(Follower, output="whole"))
    stopped = with_rule(Follower, output="parts")
    assert distill(stopped, stop_after=5).status == "stopped"
    assert distill(stopped).status == "finished"
    whole, parts = learnt(tmp_path / "whole"), learnt(tmp_path / "parts")
    assert whole.keys() == {"weighting/task/scores", "weighting/task/n_seen"}
    assert int(whole["weighting/task/n_seen"]) == 12
    assert whole["weighting/task/scores"].abs().min() > 0
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    results = [(tmp_path / run / "result.json").read_bytes() for run in ("whole", "parts")]
    assert results[0] == results[1]


class Broken(Follower):
    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        raise KeyError("no such thing")


class Undefined(Follower):
    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return torch.full((2, len(evidence.task), 1), torch.nan)


@pytest.mark.parametrize(
    ("rule", "message"),
    [(Broken, "a weight rule fails.*KeyError"), (Undefined, "no weight")],
)
def test_a_rule_that_cannot_work_is_refused_before_anything_is_written(
    rule: type, message: str, with_rule: Callable[..., Loaded], tmp_path: Path
) -> None:
    loaded = with_rule(rule, output="never")
    with pytest.raises(MashbillError) as caught:
        distill(loaded)
    assert re.search(message, str(caught.value), re.DOTALL)
    assert type(caught.value) is MashbillError  # bad input: exit code 2
    assert not (tmp_path / "never").exists()


class SuppliedVariance:
    needs = frozenset({"variance"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(-evidence.given("variance"), dim=0)


def test_variances_come_from_the_rows(with_rule: Callable[..., Loaded], tmp_path: Path) -> None:
    with pytest.raises(MashbillError, match="variance_columns"):
        distill(with_rule(SuppliedVariance, output="never"))
    path = tmp_path / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row |= {"g": 0.5, "f": 0.25 + number / 1000}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"data.variance_columns": {"french": "f", "german": "g"}, "data.eval": {}}
    distill(with_rule(SuppliedVariance, output="run", **columns), stop_after=3)
    record = json.loads((tmp_path / "run/records.jsonl").read_text(encoding="utf-8").splitlines()[0])
    weights = record["weights"]["all"]
    assert weights["french"] > weights["german"]
