"""Checks of recipes for language models, and what the command's catalogue of mistakes does not reach."""

import json

import pytest

from mashbill.errors import MashbillError, RecipeError
from mashbill.train.checks import check, check_plugins
from mashbill.train.label_list import read_labels
from mashbill.train.loading import load_recipe

BASE = """version: 1
student: {kind: causal_lm, tokenizer: tok, config: {model_type: llama}}
teachers:
  - {id: one, model: m1}
  - {id: two, model: m2}
data: {train: t.jsonl, format: text}
output: run
"""


@pytest.fixture
def place(tmp_path):
    for name in ("m1", "m2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(10)))
    return tmp_path


def loaded(place, text=BASE):
    (place / "recipe.yaml").write_text(text)
    return load_recipe(place / "recipe.yaml")


def test_a_language_models_recipe_is_surveyed(place):
    survey = check(loaded(place, BASE + "train: {per_device_train_batch_size: 2, num_train_epochs: 3}\n"))
    assert (survey.teachers, survey.rows, survey.n_labels, survey.n_steps) == (
        ("one", "two"),
        {"data.train": 10},
        0,
        15,
    )
    assert (survey.tasks, survey.contexts) == (("all",), ("all",))


def test_a_long_file_is_read_up_to_the_limit(place):
    survey = check(loaded(place), limit=4)
    assert not survey.is_complete
    assert survey.rows == {"data.train": 4}


def test_names_are_not_judged_by_the_first_rows_alone(place):
    sampled = "sampling: {task: {late: 0.5}}\n"
    rows = [{"text": "a", "kind": "early"}] * 3 + [{"text": "a", "kind": "late"}]
    (place / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = BASE.replace("format: text", "format: text, task_column: kind") + sampled
    assert check(loaded(place, text), limit=2).tasks == ("early",)
    assert check(loaded(place, text)).tasks == ("early", "late")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model: m1", "plugin: keywords, options: {words: {a: [b]}}", r"teachers\[0\]\.plugin: a plug-in teacher says"),
        ("model: m1", "model: m1, labels: {a: b}", r"teachers\[0\]\.labels: maps labels, but"),
        ("model: m1", "model: m1, options: {a: 1}", r"teachers\[0\]\.options: are those of a `plugin`"),
        ("model: m1", "model: m1, gguf_file: x.gguf", r"teachers\[0\]\.model: no weight file `x\.gguf`"),
        ("tokenizer: tok", "tokenizer: nowhere", r"student\.tokenizer: no folder at"),
        ("tokenizer: tok", "tokenizer: m1", r"student\.tokenizer: neither tokenizer\.json nor"),
        ("model_type: llama", "hidden_size: 8", r"student\.config: needs `model_type`"),
        ("model_type: llama}", "model_type: llama}, options: {a: 1}", r"student\.options: are those of an"),
        ("format: text", "format: classification", r"data\.format: `classification` does not fit"),
        ("output: run", "output: run\ncritical: {labels: [a]}", r"critical\.labels\[0\]: a causal_lm has no labels"),
        ("format: text", "format: messages", r"data\.format: .*has no column `messages`; it has: text"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_named(place, old, new, message):
    with pytest.raises(RecipeError, match=message):
        check(loaded(place, BASE.replace(old, new)))


def test_a_model_of_the_wrong_kind_is_named(place):
    (place / "m2" / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    with pytest.raises(RecipeError, match=r"teachers\[1\]\.model: holds a BertForSequenceClassification, but"):
        check(loaded(place))


def test_rules_are_built_once_before_any_work(place):
    check_plugins(loaded(place, BASE + "weighting: {token: {rule: entropy_softmax, beta: 2.0}}\n"))
    wrong = "weighting: {token: {rule: entropy_softmax, beta: -2.0}}\ncompare: {arms: {a: {weighting.guard: l2}}}\n"
    with pytest.raises(RecipeError, match=r"recipe\.yaml:8: weighting\.token: `entropy_softmax`: beta=-2\.0"):
        check_plugins(loaded(place, BASE + wrong))


def test_labels_come_from_a_list_or_a_file(tmp_path):
    (tmp_path / "l.txt").write_text("a\n\nb\n", encoding="utf-8")
    (tmp_path / "l.json").write_text('["a", "b"]', encoding="utf-8")
    assert read_labels(["a", "b"]) == read_labels(tmp_path / "l.txt") == read_labels(tmp_path / "l.json") == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", "a\n", "at least two labels, got 1"),
        ("l.txt", "a\nb\na\n", "`a` stands there twice"),
        ("l.json", "[1, 2]", "must hold a JSON list of text"),
        ("l.json", '["a", " "]', "a label is blank"),
        ("l.json", "{", "cannot read the labels"),
    ],
)
def test_a_file_of_labels_is_checked(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(MashbillError, match=message):
        read_labels(tmp_path / name)
