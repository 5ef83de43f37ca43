"""The shape of a recipe: every bound has a value that breaks it, and nothing is changed in silence."""

import copy
from typing import get_args

import pytest
from pydantic import ValidationError

from mashbill.losses.objective import DivergenceName
from mashbill.train.recipe import Divergence, Recipe

GOOD = {
    "version": 1,
    "student": {"kind": "classifier", "architecture": "hashed_ngram", "labels": ["a", "b"]},
    "teachers": [{"id": "one", "plugin": "x"}],
    "data": {"train": "t.jsonl", "format": "classification"},
    "output": "runs/x",
}


def changed(path, value):
    document = copy.deepcopy(GOOD)
    here = document
    *above, last = path.split(".")
    for part in above:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[last] = value
    return document


def test_the_least_recipe_is_enough():
    assert Recipe.model_validate(GOOD).train.seed == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2), ("version", "1"),
        ("student.kind", "llm"), ("student.peft", {"r": 0}), ("student.peft", {"dropout": 1.5}),
        ("teachers", []), ("teachers.0.id", ""), ("teachers.0.id", "a b"), ("teachers.0.top_k", 0),
        ("teachers.0.batch_size", 0), ("teachers.0.outside", "drop"), ("teachers.0.dtype", "int8"),
        ("data.max_length", 1), ("data.eval", {"a b": "x"}), ("data.format", "json"), ("data.train", ""),
        ("distill.cross_entropy", 1.1), ("distill.cross_entropy", -0.1), ("distill.pool", "geometric"),
        ("distill.divergence.temperature", 0), ("distill.divergence.name", "hellinger"),
        ("distill.divergence", {"name": "js", "beta": 0.0}), ("distill.divergence", {"name": "js", "beta": 1.0}),
        ("distill.divergence", {"name": "skew_kl", "skew": 0.0}),
        ("distill.divergence", {"name": "alpha", "alpha": 0.0}),
        ("distill.divergence", {"name": "alpha", "alpha": 1.0}),
        ("distill.divergence", {"name": "reverse_skew_kl", "skew": 1.0}),
        ("weighting.bounds", [0.1]), ("weighting.bounds", [-0.1, 1]), ("weighting.bounds", [0, 1.1]),
        ("weighting.temperatures.token", 0), ("weighting.guard", "none"), ("weighting.order", [["a"]]),
        ("weighting.token", {"beta": 1}), ("critical.confidence", 1.0), ("critical.confidence", 0.0),
        ("sampling.task", {"a": -0.1}), ("sampling.task", {"a": float("nan")}),
        ("train.max_steps", 0), ("train.num_train_epochs", 0), ("train.per_device_train_batch_size", 0),
        ("train.gradient_accumulation_steps", 0), ("train.learning_rate", 0), ("train.learning_rate", -1e-3),
        ("train.learning_rate", float("inf")), ("train.weight_decay", -0.1), ("train.adam_beta1", 1.0),
        ("train.adam_beta2", -0.1), ("train.max_grad_norm", 0), ("train.lr_scheduler_type", "step"),
        ("train.warmup_steps", -1), ("train.seed", -1), ("train.logging_steps", 0), ("train.eval_steps", 0),
        ("train.save_steps", 0), ("train.save_total_limit", 0), ("train.early_stopping_patience", 0),
        ("compare.arms", {"a b": {}}), ("report_to", "tensorboard"),
    ],
)  # fmt: skip
def test_every_bound_refuses_what_lies_beyond_it(path, value):
    with pytest.raises(ValidationError):
        Recipe.model_validate(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.seed", "0"), ("train.seed", True), ("train.seed", 1.0), ("train.bf16", 1), ("train.bf16", "true"),
        ("train.learning_rate", "1e-3"), ("train.learning_rate", True), ("student.labels", [1, 2]), ("data.train", 3),
    ],
)  # fmt: skip
def test_values_are_not_turned_into_other_types(path, value):
    with pytest.raises(ValidationError):
        Recipe.model_validate(changed(path, value))


@pytest.mark.parametrize(
    "section", ["student", "data", "distill", "weighting", "train", "sampling", "critical", "compare"]
)
def test_unknown_keys_are_refused_in_every_section(section):
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe.model_validate(changed(f"{section}.surprise", 1))


@pytest.mark.parametrize(
    ("divergence", "given"),
    [
        ({"name": "js", "beta": 0.2}, {"beta": 0.2}),
        ({"name": "skew_kl", "skew": 0.2}, {"skew": 0.2}),
        ({"name": "reverse_skew_kl", "skew": 0.2}, {"skew": 0.2}),
        ({"name": "alpha", "alpha": 0.2}, {"alpha": 0.2}),
        ({"name": "alpha", "alpha": None}, {}),
        ({"name": "total_variation"}, {}),
        ({"temperature": 2.0}, {}),
    ],
)
def test_a_divergence_says_which_options_are_given(divergence, given):
    assert Recipe.model_validate(changed("distill.divergence", divergence)).distill.divergence.given == given


@pytest.mark.parametrize(
    ("name", "option", "owner"),
    [
        ("forward_kl", "beta", "`js`"), ("skew_kl", "beta", "`js`"), ("js", "skew", "`skew_kl` and `reverse_skew_kl`"),
        ("total_variation", "alpha", "`alpha`"), ("skew_kl", "alpha", "`alpha`"),
    ],
)  # fmt: skip
def test_a_divergence_refuses_the_option_of_another(name, option, owner):
    with pytest.raises(ValidationError, match=f"`{option}` is an option of {owner}; leave it out for `{name}`"):
        Recipe.model_validate(changed("distill.divergence", {"name": name, option: 0.5}))


def test_recipe_and_loss_know_the_same_divergences():
    assert get_args(Divergence.model_fields["name"].annotation) == get_args(DivergenceName)


def test_a_rule_keeps_its_own_options():
    weighting = Recipe.model_validate(
        changed("weighting.token", {"rule": "mine", "gain": 2, "table": {"a": 1}})
    ).weighting
    assert weighting.token is not None
    assert weighting.token.options == {"gain": 2, "table": {"a": 1}}


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"kind": "causal_lm"}, "exactly one of"),
        ({"kind": "causal_lm", "model": "m", "architecture": "x"}, "exactly one of"),
        ({"kind": "causal_lm", "config": {}}, "needs `tokenizer`"),
        ({"kind": "classifier", "config": {}, "tokenizer": "t", "labels": ["a"]}, "builds a causal_lm"),
        ({"kind": "classifier", "architecture": "x"}, "needs `labels`"),
    ],
)
def test_a_student_has_one_origin(student, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({**GOOD, "student": student})


def test_a_recipe_cannot_be_changed_after_it_was_checked():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe.model_validate(GOOD).train.seed = 1
