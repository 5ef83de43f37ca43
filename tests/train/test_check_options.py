"""What a recipe says to our own rules is judged before torch is imported, and the judgement agrees with the rules."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from mashbill import plugins
from mashbill.errors import RecipeError
from mashbill.train.checks import check
from mashbill.train.loading import load_recipe

OWN = sorted(point.name for point in entry_points(group="mashbill.weights") if point.value.startswith("mashbill."))
RECIPE = """version: 1
student: {kind: classifier, architecture: hashed_ngram, labels: [yes, no]}
teachers:
  - {id: one, plugin: keywords, options: {words: {yes: [a]}}}
  - {id: two, plugin: keywords, options: {words: {no: [b]}}}
data: {train: t.jsonl, format: classification, task_column: kind, MORE}
output: run
weighting: {SCALE: RULE}
"""


@pytest.fixture
def place(tmp_path):
    rows = [{"id": str(i), "text": "a b", "kind": "k", "x": 0.5} for i in range(4)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labelled = [row | {"label": "yes"} for row in rows]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    return tmp_path


def survey(place, rule, *, scale="task", more="max_length: 9"):
    text = RECIPE.replace("RULE", rule).replace("SCALE", scale).replace("MORE", more)
    (place / "recipe.yaml").write_text(text)
    return check(load_recipe(place / "recipe.yaml"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{rule: entropy_softmax, beta: abc}", r"weighting\.task\.beta: must be a number, not `abc`"),
        ("{rule: entropy_softmax, beta: '2'}", r"beta: must be a number, not `2`"),
        ("{rule: entropy_softmax, beta: true}", r"beta: must be a number, not `true`"),
        ("{rule: entropy_softmax, beta: null}", r"beta: must be a number, not `null`"),
        ("{rule: entropy_softmax, beta: [1]}", r"beta: must be a number, not `\[1\]`"),
        ("{rule: entropy_softmax, beta: -1}", r"beta: must not be negative, and is -1"),
        ("{rule: entropy_softmax, beta: .nan}", r"beta: must be a finite number, not `nan`"),
        ("{rule: entropy_softmax, normalise: 1}", r"normalise: must be true or false, not `1`"),
        ("{rule: performance, measure: 1}", r"measure: must be a word, not `1`"),
        ("{rule: gibbs, reference: studnt}", r"must be one of mean, student, not `studnt` — did you mean `student`"),
        ("{rule: mgda, by: rows}", r"by: must be one of row, task, batch, not `rows` — did you mean `row`"),
        ("{rule: bayes, prior: 3}", r"prior: must be a mapping of teachers to weights, not `3`"),
        ("{rule: min_variance, covariance: 3}", r"covariance: must be a mapping of names to values or a list"),
        ("{rule: static}", r"weighting\.task: the rule `static` needs the option `weights`"),
        ("{rule: kendall}", r"needs the option `n_teachers`\n.*help: set it to 2, the number of teachers"),
        ("{rule: kendall, n_teachers: 5}", r"n_teachers: is 5, but must be 2, the number of teachers"),
        ("{rule: kendall, n_teachers: 2.0}", r"n_teachers: must be a whole number, not `2\.0`"),
        ("{rule: mtkdrl, n_teachers: 2, n_entries: 3}", r"n_entries: is 3, but must be 2, the number of labels"),
        ("{rule: amtmlkd, n_teachers: 2, n_features: 3}", r"must be 0, the number of data\.feature_columns; name some"),
        ("{rule: amtmlkd, n_teachers: 2, n_features: 3, reads: student}", r"must be 2, the number of labels"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_with_what_it_must_be(place, rule, message):
    with pytest.raises(RecipeError, match=message):
        survey(place, rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{rule: bayes, prior: {oen: 0.5, two: 0.5}}", r"prior\.oen: there is no teacher `oen` — did you mean `one`"),
        ("{rule: fixed_share, prior: {one: 1.0}}", r"prior: says nothing about teacher `two`"),
        ("{rule: hybrid, scores: {one: x, two: 1}}", r"scores\.one: must be a finite number, not `x`"),
        ("{rule: data_volume, volumes: {onee: 1, two: 2}}", r"volumes\.onee: there is no teacher"),
        ("{rule: data_volume, volumes: {kk: {one: 1, two: 2}}}", r"volumes\.kk: no row .* the task `kk` — did you"),
        ("{rule: data_volume, volumes: {k: {one: 1}}}", r"volumes\.k: says nothing about teacher `two`"),
        ("{rule: min_variance, covariance: {one: 1, tow: 2}}", r"covariance\.tow: there is no teacher"),
        ("{rule: bounded_mgda, safety: {one: 1, tow: 2}}", r"safety\.tow: there is no teacher"),
        ("{rule: nemo_rl, vocabulary_sizes: {one: 9}}", r"vocabulary_sizes: says nothing about teacher `two`"),
        ("{rule: static, by: job, weights: {one: 1, two: 0}}", r"by: must be one of all, task, context, not `job`"),
        ("{rule: shift_distance, domains: {one: [[1]], two: [[0]]}}", r"data\.feature_columns is empty"),
    ],
)  # fmt: skip
def test_tables_name_every_teacher_and_nothing_else(place, rule, message):
    with pytest.raises(RecipeError, match=message):
        survey(place, rule)


def test_domains_have_as_many_features_as_the_rows(place):
    with pytest.raises(RecipeError, match=r"domains\.two: must be a list of points, each a list of 1 number"):
        survey(place, "{rule: shift_distance, domains: {one: [[1]], two: [[1, 2]]}}", more="feature_columns: [x]")
    survey(place, "{rule: shift_distance, domains: {one: [[1]], two: [[1], [2]]}}", more="feature_columns: [x]")


@pytest.mark.parametrize("rule", ["camkd", "mtkdrl, n_teachers: 2, n_entries: 2", "nemo_rl", "bayes", "fixed_share"])
def test_a_rule_that_reads_labels_needs_some(place, rule):
    with pytest.raises(RecipeError, match=r"a row's label, and no row of data\.train has one\n.*add labels"):
        survey(place, f"{{rule: {rule}}}")
    (place / "t.jsonl").write_text((place / "s.jsonl").read_text())
    survey(place, f"{{rule: {rule}}}")


def test_a_metric_without_labels_needs_none(place):
    survey(place, "{rule: nemo_rl, metric: entropy}")


@pytest.mark.parametrize("rule", ["hybrid", "kendall_optimum", "inverse_loss", "partition_of_unity"])
def test_a_rule_that_reads_the_scorecard_says_so(place, rule):
    with pytest.raises(RecipeError, match=rf"`{rule}` needs measured scores, and data\.scorecard is missing"):
        survey(place, f"{{rule: {rule}}}")
    survey(place, f"{{rule: {rule}}}", more="scorecard: s.jsonl")


@pytest.mark.parametrize("rule", ["hybrid, scores: {one: 1, two: 0}", "kendall_optimum, losses: student"])
def test_a_rule_that_was_given_its_scores_needs_no_scorecard(place, rule):
    assert survey(place, f"{{rule: {rule}}}").warnings == ()


@pytest.mark.parametrize("rule", ["ranked_safety", "hybrid", "performance, measure: safety"])
def test_safety_without_critical_rows_is_pointed_out(place, rule):
    (warning,) = survey(place, f"{{rule: {rule}}}", more="scorecard: s.jsonl").warnings
    assert "no row is critical" in warning


@pytest.mark.parametrize("name", OWN)
def test_the_options_in_the_source_are_those_of_the_class(name):
    declared = plugins.declared_options("weights", name)
    assert declared is not None
    assert list(declared) == plugins.accepted(plugins.resolve("weights", name))
    unknown = [each.annotation for each in declared.values() if not each.choices and not _is_judged(each.annotation)]
    assert unknown == []


def _is_judged(annotation):
    return annotation.split("[")[0].split(" |")[0] in ("Number", "int", "bool", "str", "Mapping", "Shares")


@pytest.mark.parametrize("name", OWN)
def test_no_number_of_a_rule_may_be_negative(name):
    """What lets a recipe's negative numbers be refused without asking the rule."""
    declared = plugins.declared_options("weights", name) or {}
    rule = plugins.resolve("weights", name)
    given = {"weights": {"a": 1.0}, "volumes": {"a": 1.0}, "covariance": {"a": 1.0}, "domains": {"a": [[0.0]]}}
    sizes = dict.fromkeys(("n_teachers", "n_features", "n_entries"), 2)
    required = {
        option: value
        for option, value in (given | sizes).items()
        if option in declared and declared[option].is_required
    }
    rule(**required)
    for option, each in declared.items():
        if each.annotation == "Number":
            with pytest.raises(ValueError, match=option):
                rule(**required | {option: -1})


def test_options_are_judged_without_torch(place):
    survey(place, "{rule: mgda, by: row}")
    code = (
        "import sys; from mashbill.train.checks import check; from mashbill.train.loading import load_recipe;"
        "check(load_recipe(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(place / "recipe.yaml")], check=False).returncode == 0
