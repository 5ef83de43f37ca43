"""Declared classes: what they name, and that their mass is the same from a store as from the teacher."""

import pytest
import torch
import yaml

from mashbill import plugins
from mashbill.errors import MashbillError, RecipeError
from mashbill.train.assemble import TRAIN, build_parts, data_hashes
from mashbill.train.capture import capture_recipe
from mashbill.train.checks import check
from mashbill.train.classes import declared_classes
from mashbill.train.gather import densified
from mashbill.train.loading import load_recipe
from mashbill.train.run import distill
from mashbill.train.students import build_student
from mashbill.train.targets import collect

CLASSES = {"first": [5, 6, 7], "second": [*range(20, 90)]}


def with_teachers(loaded, **changes):
    """Return a recipe with the same changes to every teacher; ``{id}`` is that of each."""
    values = yaml.safe_load(loaded.path.read_text())
    for spec in values["teachers"]:
        told = {name: value.format(**spec) if isinstance(value, str) else value for name, value in changes.items()}
        spec.update(told)
    loaded.path.write_text(yaml.safe_dump(values))
    return load_recipe(loaded.path)


def members(loaded):
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    found = declared_classes(loaded, student)
    return {name: [student.vocabulary.tokens[id] for id in ids] for name, ids in found.members.items()}


def answers(loaded, directory):
    """Return what each teacher says of the first training rows, as a step gets it, and which positions count."""
    parts = build_parts(loaded, data_hashes(loaded))
    corpus, index = parts.corpora[TRAIN], torch.arange(6)
    batch = corpus.batch(index)
    return [collect(one, corpus, directory).batch(index, batch.labels.shape[1]) for one in parts.teachers], batch.mask


def test_a_store_has_the_class_masses_of_the_whole_distribution(language, tmp_path):
    changes = {"classes": CLASSES}
    whole, mask = answers(with_teachers(language(changes), top_k=None), tmp_path / "whole")
    live, _ = answers(with_teachers(language(changes), top_k=4), tmp_path / "live")
    stored = with_teachers(language({**changes, "capture": {"k": 4}}), store="store-{id}")
    capture_recipe(stored, workers=1)
    kept, _ = answers(stored, tmp_path / "kept")
    for k in range(2):
        p = whole[k].distribution.logprobs[mask].double().exp()
        wanted = torch.stack([p[:, ids].sum(dim=-1) for ids in CLASSES.values()], dim=-1)
        assert 0.01 < float(wanted.mean()) < 0.9
        for one in (whole[k], live[k], kept[k]):
            assert torch.allclose(one.statistics.class_mass[mask].double(), wanted, atol=1e-6)


class Massive:
    """A plug-in rule: whoever says more of the first class counts more."""

    scale, needs = "token", frozenset({"class_mass"})
    seen: list[torch.Tensor]

    def __call__(self, evidence):
        self.seen.append(evidence.statistics.class_mass[:, evidence.mask])
        return torch.log_softmax(3 * evidence.statistics.class_mass[..., 0], dim=0)


def test_a_rule_reads_the_same_masses_from_the_store_as_live(language, tmp_path, monkeypatch):
    monkeypatch.setitem(plugins._given, "weights", {"massive": Massive})
    changes = {"classes": {"last": [20, 21], **CLASSES, "second": [*range(22, 90)]}, "weighting.token.rule": "massive"}
    runs = []
    for name in ("live", "stored"):
        loaded = language({**changes, "output": name})
        if name == "stored":
            loaded = with_teachers(loaded, store="store-{id}")
            capture_recipe(loaded, workers=1)
        monkeypatch.setattr(Massive, "seen", [], raising=False)
        assert distill(loaded).status == "finished"
        runs.append(Massive.seen)
    assert {mass.shape[-1] for run in runs for mass in run} == {3}
    for one, other in zip(*(run[:7] for run in runs), strict=True):  # a row beforehand, and six steps
        assert torch.allclose(one, other, atol=1e-6)


def test_a_plug_in_s_labels_and_a_store_of_them_too(classification, tmp_path):
    changes = {"classes": {"germanic": ["de", "en"]}}
    live, mask = answers(classification(changes), tmp_path / "live")
    stored = with_teachers(classification(changes), store="store-{id}")
    capture_recipe(stored, workers=1)
    kept, _ = answers(stored, tmp_path / "kept")
    for one, other in zip(live, kept, strict=True):
        p = densified(one.distribution)[mask].exp()
        assert torch.allclose(one.statistics.class_mass[mask][:, 0], p[:, :2].sum(dim=-1), atol=1e-6)
        assert torch.equal(one.statistics.class_mass[mask], other.statistics.class_mass[mask])


def test_a_store_of_other_classes_is_refused_and_one_with_more_than_none_is_read(language, tmp_path):
    capture_recipe(with_teachers(language({"classes": CLASSES}), store="store-{id}"), workers=1)
    for classes in ({**CLASSES, "first": [5, 6]}, {"first": CLASSES["first"]}):
        loaded = with_teachers(language({"classes": classes}), store="store-{id}")
        with pytest.raises(MashbillError, match="has not the mass of the recipe's `classes`"):
            build_parts(loaded, data_hashes(loaded))
    kept, _ = answers(with_teachers(language(), store="store-{id}"), tmp_path / "kept")
    assert kept[0].statistics.class_mass.shape[-1] == 0


def test_answers_that_were_kept_for_other_classes_are_not_reused(language, tmp_path):
    before, _ = answers(language({"classes": CLASSES}), tmp_path / "kept")
    loaded = language({"classes": CLASSES})
    values = yaml.safe_load(loaded.path.read_text())
    values["classes"] = dict(reversed(CLASSES.items()))
    loaded.path.write_text(yaml.safe_dump(values, sort_keys=False))
    turned, mask = answers(load_recipe(loaded.path), tmp_path / "kept")
    assert torch.equal(before[0].statistics.class_mass[mask].flip(-1), turned[0].statistics.class_mass[mask])


def test_entries_are_named_by_text_by_id_and_by_pattern(language):
    named = members(language({"classes": {"a": [" th", "</s>", 9], "letters": "[xyz]", "spaced": " d.*"}}))
    assert named["a"][0] == "</s>"
    assert "Ġth" in named["a"]
    assert len(named["a"]) == 3
    assert named["letters"] == ["x", "y", "z"]
    assert {"Ġde", "Ġd"} & set(named["spaced"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"a": ["hath"]}, r"classes.a\[0\]: 'hath' is no entry of the student — did you mean `th`\?"),
        ({"a": [5, 300]}, r"classes.a\[1\]: 300 is no entry"),
        ({"a": [" th"], "b": " t.*"}, r"classes.b: ' th' is in the class `a` too"),
        ({"a": "[0-9]{9}"}, r"classes.a: no text of an entry matches `\[0-9\]\{9\}`"),
    ],
)
def test_what_is_no_class_of_the_student_is_refused_by_its_key(language, classes, message):
    with pytest.raises(RecipeError, match=message):
        members(language({"classes": classes}))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"a": []}, "classes.a: must not be empty"),
        ({"other": ["de"]}, "`other` is the name of all entries of no class"),
        ({"a": "[de"}, "is no regular expression"),
        ({"a": ["de"], "b": ["en", "de"]}, r"classes.b\[1\]: 'de' is in the class `a` too"),
        ({"a": ["dee"]}, r"'dee' is no entry of the student — did you mean `de`\?"),
        ({"a": [True]}, r"classes.a\[0\]: must be"),
    ],
)
def test_validate_says_what_is_wrong_with_classes_of_labels(classification, classes, message):
    with pytest.raises(RecipeError, match=message):
        check(classification({"classes": classes}))


def test_validate_sees_a_token_in_two_classes_without_a_tokenizer(language):
    with pytest.raises(RecipeError, match=r"classes.b\[0\]: ' the' is in the class `a` too"):
        check(language({"classes": {"a": [" the"], "b": [" the"]}}))
