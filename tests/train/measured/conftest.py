"""Small real runs, made once, that several test files look at."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mashbill import plugins
from mashbill.train.compare import compare
from mashbill.train.loading import Loaded, load_recipe
from mashbill.train.run import distill

LABELS = ("de", "en", "fr")
TEXTS = {
    "de": "der die das und nicht ist ein haus wasser schule straße morgen gut schön",
    "en": "the and not is a house water school street morning good nice there with",
    "fr": "le la les et pas est une maison eau école rue matin bon joli avec",
}
WORDS = {label: text.split() for label, text in TEXTS.items()}

PLUGIN = '''
"""Two teachers: one knows words of German and English, the other of French and English."""
import json
from pathlib import Path

WORDS = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))


class Knows:
    def __init__(self, *, languages):
        self.labels = list(languages)

    def predict(self, texts):
        return [self.one(text) for text in texts]

    def one(self, text):
        counts = {label: 0.2 + sum(word in WORDS[label] for word in text.split()) for label in self.labels}
        total = sum(counts.values()) * 1.1
        return {label: count / total for label, count in counts.items()}


MASHBILL_PLUGINS = {"teachers": {"knows": Knows}}
'''


def write_rows(path: Path, *, n: int, start: int = 0) -> None:
    """Write rows of three languages, short and long, made of a few words each."""
    lines = []
    for place in range(start, start + n):
        label = LABELS[place % 3]
        n_words = 2 if place % 2 else 5
        words = [WORDS[label][(place * 7 + k * (place % 5 + 1)) % len(WORDS[label])] for k in range(n_words)]
        row = {"id": f"r{place}", "text": " ".join(words), "label": label, "critical": label == "fr" and place % 4 == 0}
        row |= {"task": "ui" if place % 4 < 2 else "docs", "length": "short" if n_words == 2 else "long"}
        lines.append(json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


RECIPE = """
version: 1
student:
  kind: classifier
  architecture: hashed_ngram
  labels: [de, en, fr]
  options: {buckets: 256, dim: 8, hidden: 8}
teachers:
  - {id: germanic, plugin: knows, options: {languages: [de, en]}}
  - {id: romance, plugin: knows, options: {languages: [fr, en]}}
data:
  train: train.jsonl
  eval: {held_out: eval.jsonl}
  scorecard: labelled.jsonl
  format: classification
  task_column: task
  context_columns: [length]
  critical_column: critical
weighting:
  task: {rule: performance}
train: {max_steps: 30, per_device_train_batch_size: 16, learning_rate: 0.05, logging_steps: 2}
compare:
  seeds: [0, 1]
  arms: {uniform: {weighting: {}}, lazy: {train.learning_rate: 1.0e-5}}
output: run
"""


@dataclass(frozen=True)
class Done:
    """A recipe that was run, and what came out."""

    loaded: Loaded
    directory: Path
    result: dict
    comparison: dict

    def read(self, name: str):
        return json.loads((self.directory / name).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _two_teachers(_word_teacher, classifier) -> None:
    """Add the plug-in again: every test starts with the plug-ins of the folder above alone."""
    plugins.add_module("two_teachers")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Loaded:
    """Write plug-in, rows and recipe of a tiny language identifier."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "words.json").write_text(json.dumps(WORDS), encoding="utf-8")
    (folder / "two_teachers.py").write_text(PLUGIN, encoding="utf-8")
    write_rows(folder / "train.jsonl", n=96)
    write_rows(folder / "eval.jsonl", n=60, start=1000)
    write_rows(folder / "labelled.jsonl", n=48, start=2000)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    plugins.add_module("two_teachers")
    return load_recipe(folder / "recipe.yaml")


@pytest.fixture(scope="session")
def classifier_run(classifier) -> Done:
    """Run it, with its arm and both seeds."""
    result = distill(classifier).result
    assert result is not None
    return Done(classifier, classifier.resolve("run"), dict(result), compare(classifier))


CAUSAL = """
version: 1
student: {kind: causal_lm, model: student}
teachers:
  - {id: first, model: first, top_k: 8}
  - {id: second, model: second, top_k: null}
data:
  train: train.jsonl
  eval: {held_out: eval.jsonl}
  scorecard: eval.jsonl
  format: text
  task_column: task
  max_length: 100
train: {max_steps: 3, per_device_train_batch_size: 4, logging_steps: 1}
output: run
"""


def tiny_llama(n_entries: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=n_entries,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            initializer_range=0.4,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which no character beyond ASCII is a token of its own."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    own.train_from_iterator([topics["if"] + topics["class"]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="session")
def causal(tmp_path_factory, tokenizer) -> Loaded:
    """Write two teachers, a student and texts, one of them longer than a block."""
    folder = tmp_path_factory.mktemp("causal")
    for seed, name in enumerate(("student", "first", "second")):
        tiny_llama(len(tokenizer), seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    texts = [
        "A class is a tree. Größe 日本",
        "if x: pass",
        topics["if"][:500],
        "naïve façade",
        "else: break",
        "def f(): ...",
    ]
    rows = [{"id": f"t{n}", "text": text, "task": "code" if ":" in text else "prose"} for n, text in enumerate(texts)]
    for name in ("train", "eval"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(CAUSAL, encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


@pytest.fixture(scope="session")
def causal_run(causal) -> Done:
    """Run it."""
    result = distill(causal).result
    assert result is not None
    return Done(causal, causal.resolve("run"), dict(result), {})
