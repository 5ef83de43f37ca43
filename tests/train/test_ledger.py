"""Which changes a resume notices: every key of a recipe is refused or listed as free."""

import json
from typing import Any

import pytest

from mashbill.errors import MashbillError
from mashbill.train.ledger import FREE, ledger_of, require_same
from mashbill.train.recipe import Recipe

BASE = {
    "version": 1,
    "student": {"kind": "classifier", "architecture": "hashed_ngram", "labels": ["de", "en"], "options": {"dim": 8}},
    "teachers": [{"id": "a", "plugin": "words"}, {"id": "b", "plugin": "words"}],
    "data": {"format": "classification", "train": "train.jsonl", "eval": {"held_out": "eval.jsonl"}},
    "weighting": {"token": {"rule": "entropy_softmax", "beta": 1.0}, "bounds": [0.1, 0.9]},
    "output": "run",
}


def ledger(changes: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(BASE))
    for key, value in (changes or {}).items():
        here = values
        *parents, last = key.split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    options = {
        "data": {"data.train": "11", "data.eval.held_out": "22"},
        "teachers": {"a": {"sha256": "aa"}, "b": {"sha256": "bb"}},
        "student": {"kind": "classifier", "source": "hashed_ngram"},
    }
    return ledger_of(Recipe.model_validate(values), **{**options, **given})


REFUSED = [
    ({"student.options": {"dim": 9}}, "student.options.dim"),
    ({"student.labels": ["de", "fr"]}, "student.labels"),
    ({"data.text_column": "body"}, "data.text_column"),
    ({"data.max_length": 9}, "data.max_length"),
    ({"distill.cross_entropy": 0.1}, "distill.cross_entropy"),
    ({"distill.divergence": {"name": "js"}}, "distill.divergence.name"),
    ({"weighting.token": {"rule": "uniform"}}, "weighting.token.rule"),
    ({"weighting.bounds": [0.2, 0.8]}, "weighting.bounds"),
    ({"critical.labels": ["de"]}, "critical.labels"),
    ({"sampling.task": {"a": 0.5}}, "sampling.task.a"),
    *(
        ({f"train.{key}": value}, f"train.{key}")
        for key, value in {
            "max_steps": 7,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 3,
            "per_device_eval_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.5,
            "weight_decay": 0.5,
            "adam_beta1": 0.5,
            "adam_beta2": 0.5,
            "max_grad_norm": 0.5,
            "lr_scheduler_type": "linear",
            "warmup_steps": 5,
            "bf16": True,
            "seed": 5,
            "eval_steps": 5,
            "early_stopping_patience": 5,
        }.items()
    ),
]


@pytest.mark.parametrize(("changes", "key"), REFUSED)
def test_a_changed_key_is_refused_by_name_and_can_be_accepted(changes: dict[str, Any], key: str) -> None:
    before, now = ledger(), ledger(changes)
    with pytest.raises(MashbillError) as caught:
        require_same(before, now, accepted=[])
    assert f"{key} was" in caught.value.what
    assert f"--accept-change {key}" in caught.value.help
    changed = [each for each in before.keys() | now.keys() if before.get(each) != now.get(each)]
    assert len(require_same(before, now, accepted=changed)) == len(changed)


def test_every_training_argument_is_refused_or_free() -> None:
    tested = {key for changes, _ in REFUSED for key in changes}
    every = {f"train.{name}" for name in Recipe.model_fields["train"].default.model_dump()}
    assert every - tested == {key for key in FREE if key.startswith("train.")}


@pytest.mark.parametrize(
    "changes",
    [{"output": "elsewhere"}, {"report_to": ["tensorboard"]}, {"train.save_steps": 3}, {"compare.seeds": [1, 2]}],
)
def test_free_keys_may_differ(changes: dict[str, Any]) -> None:
    assert require_same(ledger(), ledger(changes), accepted=[]) == []


def test_contents_count_and_names_do_not() -> None:
    assert ledger({"data.train": "moved.jsonl"}) == ledger()
    for given, key in (
        ({"data": {"data.train": "99", "data.eval.held_out": "22"}}, "data.train was 11, is 99"),
        ({"data": {"data.train": "11"}}, "data.eval.held_out was 22, is absent"),
        ({"teachers": {"a": {"sha256": "aa"}, "b": {"sha256": "cc"}}}, r"teachers\[1\].identity"),
        ({"student": {"kind": "classifier", "sha256": "9"}}, "student.origin"),
    ):
        with pytest.raises(MashbillError, match=key):
            require_same(ledger(), ledger(**given), accepted=[])


def test_a_beginning_of_a_key_accepts_all_below_it() -> None:
    now = ledger({"train.learning_rate": 0.5, "train.warmup_steps": 3})
    assert len(require_same(ledger(), now, accepted=["train"])) == 2
    with pytest.raises(MashbillError, match="no such key: trian; undo"):
        require_same(ledger(), now, accepted=["trian"])


def test_an_arm_may_lack_an_accepted_key() -> None:
    now = ledger({"train.warmup_steps": 3})
    accepted = ["train.warmup_steps", "weighting.token.nothing"]
    assert len(require_same(ledger(), now, accepted=accepted)) == 1
    with pytest.raises(MashbillError, match="--> runs/arms/one"):
        require_same(ledger(), now, accepted=[], where="runs/arms/one")
