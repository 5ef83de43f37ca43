"""Small real things to train on: two callable teachers, a tiny tokenizer, tiny language models, recipes in a folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mashbill import plugins
from mashbill.train.loading import Loaded, load_recipe

LABELS = ["de", "en", "fr"]
WORDS = {
    "de": ["der", "die", "das", "und", "ist", "nicht", "ein", "eine", "mit", "auf", "für", "von", "dem", "den", "haus"],
    "en": ["the", "a", "and", "is", "not", "one", "with", "on", "for", "of", "house", "tree", "water", "this", "that"],
    "fr": ["le", "la", "les", "et", "est", "pas", "un", "une", "avec", "sur", "pour", "de", "maison", "arbre", "eau"],
}


class WordTeacher:
    """Counts known words; ``knows`` limits it to some languages, ``spoil`` makes it give NaN on one text."""

    labels = (*LABELS, "xx")

    def __init__(self, knows: Sequence[str] = LABELS, sharpness: float = 1.0) -> None:
        self.knows, self.sharpness = tuple(knows), sharpness

    def predict(self, texts: Sequence[str]) -> list[Mapping[str, float]]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> dict[str, float]:
        counts = [
            1 + self.sharpness * sum(word in WORDS[label] for word in text.split()) * (label in self.knows)
            for label in LABELS
        ]
        weights = [*(float(count) ** 2 for count in counts), 0.2]
        return {label: weight / sum(weights) for label, weight in zip(self.labels, weights, strict=True)}


@pytest.fixture(autouse=True)
def _word_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins._given, "teachers", {"words": WordTeacher})


def write_rows(path: Path, n: int, *, seed: int) -> None:
    """Write labelled texts of random words, two tasks and two contexts."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    with path.open("w", encoding="utf-8") as file:
        for number in range(n):
            label = LABELS[draw(3)]
            words = [WORDS[label][draw(15)] for _ in range(3 + draw(6))]
            row = {"id": f"r{number}", "text": " ".join(words), "label": label}
            row |= {"domain": ["ui", "prose"][draw(2)], "length": ["short", "long"][len(words) > 5]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with dotted keys replaced."""
    result = json.loads(json.dumps(values))
    for key, value in changes.items():
        here = result
        *parents, last = key.split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    return result


CLASSIFICATION = {
    "version": 1,
    "student": {
        "kind": "classifier",
        "architecture": "hashed_ngram",
        "labels": LABELS,
        "options": {"buckets": 512, "dim": 8, "hidden": 16, "ngrams": [1, 3], "dropout": 0.1},
    },
    "teachers": [
        {"id": "german", "plugin": "words", "options": {"knows": ["de", "en"]}},
        {"id": "french", "plugin": "words", "options": {"knows": ["fr"], "sharpness": 3.0}},
    ],
    "data": {
        "format": "classification",
        "train": "train.jsonl",
        "eval": {"held_out": "eval.jsonl"},
        "task_column": "domain",
        "context_columns": ["length"],
    },
    "weighting": {"token": {"rule": "entropy_softmax", "beta": 2.0}, "bounds": [0.05, 0.95]},
    "train": {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.02,
        "logging_steps": 3,
        "eval_steps": 4,
        "save_steps": 5,
    },
    "output": "run",
}


@pytest.fixture
def classification(tmp_path: Path) -> Callable[..., Loaded]:
    """Return a maker of classification recipes: ``classification({"train.seed": 3}, n=60)``."""

    def make(changes: Mapping[str, Any] | None = None, *, n: int = 60) -> Loaded:
        if not (tmp_path / "train.jsonl").exists():
            write_rows(tmp_path / "train.jsonl", n, seed=0)
            write_rows(tmp_path / "eval.jsonl", 24, seed=1)
            write_rows(tmp_path / "scorecard.jsonl", 60, seed=2)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(merged(CLASSIFICATION, changes or {})), encoding="utf-8")
        return load_recipe(path)

    return make


TEXTS = [" ".join(WORDS[label][start:] + WORDS[label][:start]) for label in LABELS for start in range(15)]


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-pair ``tokenizer`` and two random Llamas that share it, ``a`` and ``b``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language-models")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    fast.save_pretrained(folder / "tokenizer")
    for number, name in enumerate("ab"):
        torch.manual_seed(number)
        config = LlamaConfig(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    return folder


@pytest.fixture
def language(tmp_path: Path, language_models: Path) -> Callable[..., Loaded]:
    """Return a maker of language-model recipes."""
    values = {
        "version": 1,
        "student": {
            "kind": "causal_lm",
            "tokenizer": str(language_models / "tokenizer"),
            "config": {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 64,
            },
        },
        "teachers": [
            {"id": "a", "model": str(language_models / "a"), "top_k": 8},
            {"id": "b", "model": str(language_models / "b"), "top_k": 8},
        ],
        "data": {"format": "text", "train": "train.jsonl", "eval": {"held_out": "eval.jsonl"}, "max_length": 16},
        "weighting": {"token": {"rule": "entropy_softmax"}},
        "train": {"max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 2, "save_steps": 3},
        "output": "run",
    }

    def make(changes: Mapping[str, Any] | None = None) -> Loaded:
        for name, texts in {"train": TEXTS[:12], "eval": TEXTS[12:16]}.items():
            rows = [json.dumps({"id": f"{name}{n}", "text": text}) for n, text in enumerate(texts)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(merged(values, changes or {})), encoding="utf-8")
        return load_recipe(path)

    return make
