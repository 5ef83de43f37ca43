"""Students from folders, configurations and architectures."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mashbill.errors import MashbillError
from mashbill.train import recipe
from mashbill.train.corpus import build_corpus
from mashbill.train.data import Row
from mashbill.train.loading import Loaded
from mashbill.train.students import Student, build_student, load_student

LABELS = ["de", "en", "fr"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, language_models: Path) -> Path:
    """A folder with a tiny random BERT that classifies into two labels, and a tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(language_models / "tokenizer")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def classifier(folder: Path, **options) -> recipe.Student:
    return recipe.Student.model_validate({"kind": "classifier", "model": str(folder), **options})


def scores(student: Student, *, together: bool = True) -> torch.Tensor:
    rows = [Row("a", text="der die das"), Row("b", text="the"), Row("c", text="le la les et pas une")]
    corpus = build_corpus(student, rows, max_length=8)
    student.module.eval()
    parts = torch.arange(3).split(3 if together else 1)
    with torch.no_grad():
        return torch.cat([student.logits(corpus.batch(part)) for part in parts])


def test_a_saved_classifier_keeps_its_head_and_its_labels(encoder: Path, tmp_path: Path) -> None:
    student = build_student(classifier(encoder), Path(), 0)
    assert list(student.vocabulary.tokens.values()) == ["no", "yes"]
    assert torch.allclose(scores(student), scores(student, together=False), atol=1e-6)
    student.save(tmp_path)
    assert torch.equal(scores(load_student(tmp_path)), scores(student))


def test_other_labels_give_a_new_head_on_the_same_body(encoder: Path, tmp_path: Path) -> None:
    old = build_student(classifier(encoder), Path(), 0)
    # As many labels as before, but others: the old head must not be taken for theirs.
    new, again, other = (build_student(classifier(encoder, labels=["x", "y"]), Path(), seed) for seed in (1, 1, 2))
    bodies = [student.module.get_submodule("bert").state_dict() for student in (old, new)]
    assert all(torch.equal(bodies[0][name], bodies[1][name]) for name in bodies[0])
    heads = [student.module.get_parameter("classifier.weight") for student in (old, new, again, other)]
    assert not torch.equal(heads[0], heads[1])
    assert torch.equal(heads[1], heads[2])
    assert not torch.equal(heads[1], heads[3])
    new.save(tmp_path)
    assert list(load_student(tmp_path).vocabulary.tokens.values()) == ["x", "y"]


def test_an_adapter_on_a_classifier_comes_back(encoder: Path, tmp_path: Path) -> None:
    spec = classifier(encoder, labels=LABELS, peft={"r": 2, "target_modules": ["query", "value"]})
    student = build_student(spec, Path(), 0)
    with torch.no_grad():
        for parameter in student.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    student.save(tmp_path)
    assert torch.allclose(scores(load_student(tmp_path)), scores(student), atol=1e-6)


def test_a_language_model_from_a_configuration_takes_the_tokenizers_size(language: Callable[..., Loaded]) -> None:
    loaded = language()
    one, two, other = (build_student(loaded.recipe.student, loaded.path.parent, seed) for seed in (0, 0, 1))
    assert one.n_entries == len(one.vocabulary) == 300
    weights = [next(student.module.parameters()) for student in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "lama", "no model type `lama`"),
        ("hidden_sizes", 8, "did you mean `hidden_size`"),
        ("vocab_size", 10, "vocab_size=10 is smaller than the tokenizer's 300 ids"),
    ],
)
def test_a_wrong_configuration_is_refused(
    language: Callable[..., Loaded], key: str, value: object, message: str
) -> None:
    loaded = language({f"student.config.{key}": value})
    with pytest.raises(MashbillError, match=message):
        build_student(loaded.recipe.student, loaded.path.parent, 0)


def test_rows_of_padding_in_the_output_are_cut_off(language: Callable[..., Loaded]) -> None:
    loaded = language({"student.config.vocab_size": 320})
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    batch = build_corpus(student, [Row("a", text="der die")], max_length=5).batch(torch.tensor([0]))
    assert student.logits(batch).shape[-1] == student.n_entries == 300


def test_options_that_an_architecture_does_not_take_are_refused() -> None:
    spec = recipe.Student(kind="classifier", architecture="hashed_ngram", labels=LABELS, options={"dimm": 3})
    with pytest.raises(MashbillError, match="dimm"):
        build_student(spec, Path(), 0)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MashbillError, match="no weights in"):
        build_student(classifier(tmp_path), Path(), 0)
