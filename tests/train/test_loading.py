"""From a file to a checked recipe: YAML as it looks, every line known, every change accounted for."""

import contextlib
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mashbill.errors import MashbillError, RecipeError
from mashbill.train.loading import load_recipe
from mashbill.train.recipe import Recipe
from mashbill.train.strict_yaml import dump, parse, spell

SMALL = """version: 1
student:
  kind: classifier
  architecture: hashed_ngram
  labels: [a, b]
teachers:
  - {id: one, plugin: x}
  - {id: two, plugin: x, top_k: 3}
data: {train: data/t.jsonl, format: classification}
output: runs/x
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text=SMALL):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("12:30", "12:30"), ("2026-01-02", "2026-01-02"), ("012", 12), ("0o14", 12),
        ("0x1F", 31), ("1e-4", 1e-4), ("1E3", 1000.0), ("-.5", -0.5), ("+3", 3), ("1_000", "1_000"), ("true", True),
        ("True", True), ("yes", "yes"), ("null", None), ("~", None), ("", None), ("'1'", "1"), ('"true"', "true"),
        (".inf", math.inf), ("-.INF", -math.inf), ("!!str 12", "12"), ("!!float 3", 3.0), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text, value):
    result = parse(f"a: {text}", name="x").value["a"]
    assert result == value
    assert type(result) is type(value)


def test_keys_are_text_whatever_they_look_like():
    assert parse("1: a\ntrue: b\nnull: c\n012: d", name="x").value == {"1": "a", "true": "b", "null": "c", "012": "d"}


def test_aliases_are_values_of_their_own():
    value = parse("a: &x {b: [1]}\nc: *x", name="x").value
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert value["a"] is not value["c"]


def test_every_key_has_its_line():
    lines = parse("a: 1\nb:\n  c:\n    - d\n    - e: 2\n", name="x").lines
    assert {spell(path): line for path, line in lines.items()} == {
        "": 1, "a": 1, "b": 2, "b.c": 3, "b.c[0]": 4, "b.c[1]": 5, "b.c[1].e": 5,
    }  # fmt: skip


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
KEYS = st.text("abc_.:-# 019", min_size=1, max_size=6)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_what_is_dumped_is_read_back(value):
    assert parse(dump({"a": value}), name="x").value == {"a": value}


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("abc:[]{},&*!|>'\"#%@`-? \n\t0.~<"), max_size=60))
def test_any_text_is_a_value_or_a_recipe_error(text):
    with contextlib.suppress(RecipeError):
        parse(text, name="x")


def test_the_safe_loader_of_yaml_would_have_read_these_differently():
    """The reason for a reader of our own; if this fails, PyYAML has changed and the reader may be retired."""
    assert yaml.safe_load("a: no\nb: 012\nc: 1e-4\nd: 12:30\na: 1") == {"a": 1, "b": 10, "c": "1e-4", "d": 750}


def test_a_recipe_is_loaded_with_defaults(recipe):
    loaded = load_recipe(recipe())
    assert loaded.recipe.train.learning_rate == 1e-3
    assert loaded.text == SMALL
    assert loaded.where("teachers[1].top_k") == f"{loaded.path}:8: teachers[1].top_k"
    assert loaded.where("train.seed") == f"{loaded.path}:1: train.seed"


def test_relative_paths_start_at_the_recipes_folder(recipe, tmp_path, monkeypatch):
    loaded = load_recipe(recipe())
    monkeypatch.chdir("/")
    assert loaded.resolve(loaded.recipe.data.train) == tmp_path / "data" / "t.jsonl"
    assert loaded.resolve("/elsewhere/t.jsonl") == Path("/elsewhere/t.jsonl")


def test_values_change_from_the_command_line(recipe):
    changes = [
        "train.learning_rate=1e-4",
        "teachers[1].top_k=5",
        "teachers.0.batch_size=2",
        "weighting.bounds=[0.1, 0.9]",
    ]
    loaded = load_recipe(recipe(), overrides=changes)
    assert loaded.recipe.train.learning_rate == 1e-4
    assert [teacher.top_k for teacher in loaded.recipe.teachers] == [64, 5]
    assert loaded.recipe.teachers[0].batch_size == 2
    assert loaded.recipe.weighting.bounds == (0.1, 0.9)
    assert loaded.where("train.learning_rate") == "--set train.learning_rate"


def test_the_text_of_a_changed_recipe_gives_the_changed_recipe(recipe):
    loaded = load_recipe(recipe(), overrides=["train.seed=7", "student.options.tag='no'"])
    again = load_recipe(recipe(loaded.text))
    assert again.recipe == loaded.recipe
    assert again.recipe.student.options == {"tag": "no"}


def test_an_arm_replaces_all_that_stands_at_its_keys(recipe):
    text = SMALL + "weighting: {token: {rule: entropy_softmax}, task: {rule: uniform}, guard: l2}\n"
    loaded = load_recipe(recipe(text))
    assert loaded.with_changes({"weighting": {}}, source="compare.arms.a").recipe.weighting.token is None
    one = loaded.with_changes({"weighting.task": {"rule": "route"}}, source="compare.arms.a")
    assert (one.recipe.weighting.task.rule, one.recipe.weighting.token.rule) == ("route", "entropy_softmax")
    assert one.recipe.weighting.guard == "l2"
    assert loaded.recipe.weighting.task.rule == "uniform"
    assert load_recipe(recipe(one.text)).recipe == one.recipe


def test_a_wrong_arm_says_which_arm(recipe):
    loaded = load_recipe(recipe(SMALL + "compare: {arms: {fast: {train.lr: 1}}}\n"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml:11: compare\.arms\.fast: train\.lr: unknown key `lr`"):
        loaded.with_changes({"train.lr": 1}, source="compare.arms.fast")


def test_a_recipe_error_is_an_error_of_ours(tmp_path):
    with pytest.raises(MashbillError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_the_schema_can_be_printed():
    assert set(Recipe.model_json_schema()["required"]) == {"version", "student", "teachers", "data", "output"}
