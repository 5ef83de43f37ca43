import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from mashbill.errors import MashbillError
from mashbill.train import hashed_ngram, standalone
from mashbill.train.corpus import build_corpus
from mashbill.train.data import Row
from mashbill.train.export import export
from mashbill.train.students import load_student

TEXTS = ["das haus", "le matin  est\tbon", "ÉCOLE", "e\u0301cole", "", "a", "日本語 😀", "x" * 2000]

BLOCKED = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mashbill", "transformers", "jaxtyping"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from student import load
model = load(".")
texts = json.load(sys.stdin)
print(json.dumps([model.predict(texts), model.logits(texts).numpy().tobytes().hex()]))
"""


@pytest.fixture(scope="module")
def exported(classifier_run, tmp_path_factory):
    to = tmp_path_factory.mktemp("out") / "language-id"
    files = export(classifier_run.directory, to)
    assert files == sorted(path for path in to.rglob("*") if path.is_file())
    return to


def front_matter(folder) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_without_this_package_the_outputs_are_the_same_bits(exported, classifier_run):
    found = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        input=json.dumps(TEXTS),
        cwd=exported,
        capture_output=True,
        text=True,
        check=True,
    )
    predictions, bits = json.loads(found.stdout)
    student = load_student(classifier_run.directory / "student")
    student.module.eval()
    max_length = classifier_run.loaded.recipe.data.max_length
    corpus = build_corpus(student, [Row(str(n), text=text) for n, text in enumerate(TEXTS)], max_length=max_length)
    with torch.no_grad():
        logits = student.logits(corpus.batch(torch.arange(len(TEXTS))))[:, 0]
    assert bits == logits.numpy().tobytes().hex()
    own = torch.softmax(logits, dim=-1)
    for row, prediction in zip(own.tolist(), predictions, strict=True):
        assert prediction == dict(zip(("de", "en", "fr"), row, strict=True))
        assert list(prediction.values()) == sorted(row, reverse=True)


def test_hashing_is_copied_faithfully():
    generator = np.random.default_rng(0)
    points = [0x61, 0xE9, 0x301, 0x20, 0x4E2D, 0x1F600, 0x130]
    texts = ["".join(chr(points[i]) for i in generator.integers(0, 7, size=n)) for n in (0, 1, 2, 3, 40, 200)]
    ours = [hashed_ngram.normalise(text) for text in texts]
    assert ours == [standalone.normalise(text) for text in texts]
    for one, other in zip(
        hashed_ngram.hash_ngrams(ours, lowest=1, highest=5, buckets=977),
        standalone.hash_ngrams(ours, lowest=1, highest=5, buckets=977),
        strict=True,
    ):
        assert (one == other).all()


def test_the_card_says_who_taught_and_what_was_measured(exported, classifier_run):
    front = front_matter(exported)
    assert front["tags"] == ["distillation", "mashbill"]
    assert front["pipeline_tag"] == "text-classification"
    (found,) = front["model-index"][0]["results"]
    assert found["dataset"]["name"] == "held_out"
    accuracy = next(e for e in classifier_run.result["entries"] if e["who"] == "student")["accuracy"]["value"]
    assert found["metrics"][0]["value"] == pytest.approx(accuracy, abs=1e-6)
    text = (exported / "README.md").read_text(encoding="utf-8")
    assert "| germanic | plugin |" in text
    assert "pooled target" in text
    assert str(classifier_run.directory.parent) not in text


def test_lineage_and_labels_come_along(exported, classifier_run):
    for name in ("teacher_manifest.json", "recipe.yaml", "result.json"):
        assert (exported / name).read_bytes() == (classifier_run.directory / name).read_bytes()
    assert json.loads((exported / "labels.json").read_text())["labels"] == ["de", "en", "fr"]


def test_nothing_is_overwritten_and_nothing_is_left_behind(exported, classifier_run, tmp_path, monkeypatch):
    with pytest.raises(MashbillError, match="exists"):
        export(classifier_run.directory, exported)
    monkeypatch.setattr("mashbill.train.export.model_card", lambda *_a, **_k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(classifier_run.directory, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_student_is_refused(tmp_path):
    with pytest.raises(MashbillError, match="there is no run"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MashbillError, match="no student yet"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_a_language_model_loads_with_transformers_alone(causal_run, tokenizer, tmp_path):
    export(causal_run.directory, tmp_path / "lm")
    code = """
import sys
sys.modules["mashbill"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
print(float(model(**tokenizer("if x:", return_tensors="pt")).logits.double().sum()))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "lm", capture_output=True, text=True, check=True
    )
    student = load_student(causal_run.directory / "student")
    ids = tokenizer("if x:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = student.module(input_ids=ids).logits
    assert float(found.stdout) == float(logits.double().sum())
    front = front_matter(tmp_path / "lm")
    assert (front["library_name"], front["base_model"]) == ("transformers", "student")
    assert front["base_model_relation"] == "finetune"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_an_adapter_is_merged_or_written_alone(causal, tmp_path):
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from mashbill.train.run import distill

    changes = {"student.peft": {"r": 2, "alpha": 4}, "output": str(tmp_path / "run"), "train.learning_rate": 0.05}
    distill(causal.with_changes(changes, source="--set"))
    export(tmp_path / "run", tmp_path / "merged")
    export(tmp_path / "run", tmp_path / "alone", merge=False)
    student = load_student(tmp_path / "run" / "student")
    student.module.eval()
    ids = torch.tensor([[5, 60, 61, 7]])
    with torch.no_grad():
        adapted = student.module(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(causal.resolve("student"))(input_ids=ids).logits
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(base, adapted, atol=1e-3)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert (tmp_path / "alone" / "adapter_model.safetensors").is_file()
    assert front_matter(tmp_path / "alone")["library_name"] == "peft"
