"""A local classifier against a direct call of the same model."""

import json
import shutil

import pytest
import torch

from mashbill.errors import MashbillError, TeacherError, VocabularyError
from mashbill.teachers import LocalClassifier

TEXTS = ("one", "a rather longer text about nothing", "", "two words", "x" * 300)
LABELS = ("sport", "news", "weather")


def oracle(bert, text: str) -> torch.Tensor:
    encoded = bert.tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
    if encoded["input_ids"].shape[1] == 0:
        return torch.full((4,), torch.nan)
    with torch.no_grad():
        return bert.model(input_ids=encoded["input_ids"].long()).logits[0].softmax(-1)


def dense(scored) -> torch.Tensor:
    return scored.distribution.densify().exp()[:, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_labels_are_mapped_and_foreign_ones_set_aside(bert, text_inputs, batch_size):
    texts = [text for text in TEXTS if text]
    teacher = LocalClassifier("t", bert.path, LABELS, mapping={"LABEL_2": "weather"}, batch_size=batch_size)
    assert (teacher.covered, teacher.uncovered) == (LABELS, ())
    got = dense(teacher.score(text_inputs(texts)))
    for row, text in enumerate(texts):
        news, sport, weather, _ = oracle(bert, text)
        expected = torch.stack([sport, news, weather]) / (news + sport + weather)
        assert torch.allclose(got[row], expected, atol=1e-5)


def test_an_uncovered_label_shares_the_tail(bert, text_inputs):
    teacher = LocalClassifier("t", bert.path, LABELS, outside="tail")
    assert teacher.uncovered == ("weather",)
    news, sport, *rest = oracle(bert, "two words")
    got = dense(teacher.score(text_inputs(["two words"])))
    assert torch.allclose(got[0], torch.stack([sport, news, rest[0] + rest[1]]), atol=1e-5)


def test_no_common_label_is_refused(bert):
    with pytest.raises(VocabularyError, match=r'the teacher says "news", "sport", "LABEL_2", "other"'):
        LocalClassifier("t", bert.path, ("a", "b"))


def changed(bert, tmp_path, **config):
    folder = shutil.copytree(bert.path, tmp_path / "changed")
    content = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("config", [{"problem_type": "multi_label_classification"}, {"id2label": {"0": "score"}}])
def test_a_model_that_gives_no_distribution_is_refused(bert, tmp_path, config):
    with pytest.raises(MashbillError, match="is no single-label classifier"):
        LocalClassifier("t", changed(bert, tmp_path, **config), LABELS)


def test_logits_that_are_not_numbers_are_refused_by_row(bert, text_inputs):
    teacher = LocalClassifier("t", bert.path, LABELS)
    poison = bert.tokenizer("words")["input_ids"][-1]
    with torch.no_grad():
        teacher.model.bert.embeddings.word_embeddings.weight[poison] = torch.nan
    with pytest.raises(TeacherError, match=r"not numbers(.|\n)*row `row-1`"):
        teacher.score(text_inputs(["one", "two words"]))


def test_a_missing_padding_token_is_explained(bert, build, tmp_path):
    tokenizer = build.tokenizer("one two three", 300)
    tokenizer.pad_token = None
    folder = build.save(tmp_path / "nopad", bert.model, tokenizer)
    with pytest.raises(MashbillError, match=r"no padding token(.|\n)*batch_size: 1"):
        LocalClassifier("t", folder, LABELS)
    LocalClassifier("t", folder, LABELS, batch_size=1)


def test_identity_changes_with_the_mapping(bert):
    base = LocalClassifier("t", bert.path, LABELS).identity()
    assert LocalClassifier("t", bert.path, LABELS, mapping={"LABEL_2": "weather"}).identity() != base
    assert LocalClassifier("t", bert.path, LABELS, batch_size=2).identity() == base
