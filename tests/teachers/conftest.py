"""Real but tiny models on disk: a Llama and a Bert with random weights, and byte-level tokenizers trained here."""

from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mashbill.teachers import Inputs, Vocabulary

N_TOKENS = 500
TEXTS = tuple(text.strip()[:120] for text in sorted(topics.values())[:7])


def train_tokenizer(text: str, n_tokens: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; another text gives other tokens under the same ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def tiny_llama(n_rows: int, seed: int = 0) -> LlamaForCausalLM:
    """Build a causal language model of two layers with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=n_rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def save(folder: Path, model, tokenizer) -> Path:
    """Write a model folder as users have them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Tiny:
    """A causal language model on disk and in memory."""

    path: Path
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(topics["if"] + topics["class"] + topics["operator-summary"], N_TOKENS)


@pytest.fixture(scope="session")
def llama(tokenizer, tmp_path_factory) -> Tiny:
    model = tiny_llama(N_TOKENS)
    path = save(tmp_path_factory.mktemp("llama"), model, tokenizer)
    return Tiny(path, model, tokenizer, Vocabulary.from_tokenizer(tokenizer))


@pytest.fixture(scope="session")
def bert(tokenizer, tmp_path_factory) -> Tiny:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=N_TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        id2label={0: "news", 1: "sport", 2: "LABEL_2", 3: "other"},
        label2id={"news": 0, "sport": 1, "LABEL_2": 2, "other": 3},
    )
    model = BertForSequenceClassification(config).eval()
    path = save(tmp_path_factory.mktemp("bert"), model, tokenizer)
    return Tiny(path, model, tokenizer, Vocabulary.from_tokenizer(tokenizer))


def _causal_inputs(tokenizer: PreTrainedTokenizerFast, texts=TEXTS, *, max_length: int = 24, width: int = 0) -> Inputs:
    """Encode texts of different lengths; labels are the next token, the last position of a row has none."""
    ids = [tokenizer(text)["input_ids"][: max_length - 3 * row] for row, text in enumerate(texts)]
    n_positions = max(width, *(len(one) for one in ids))
    input_ids = torch.zeros(len(ids), n_positions, dtype=torch.long)
    labels = torch.full_like(input_ids, -100)
    for row, one in enumerate(ids):
        input_ids[row, : len(one)] = torch.tensor(one)
        labels[row, : len(one) - 1] = torch.tensor(one[1:])
    row_ids = tuple(f"row-{row}" for row in range(len(ids)))
    return Inputs(row_ids, tuple(texts), input_ids, labels, labels != -100)


def _text_inputs(texts, labels=None) -> Inputs:
    """Wrap texts for teachers that read text; no labels unless given."""
    targets = torch.tensor([[-100]] * len(texts) if labels is None else [[label] for label in labels])
    row_ids = tuple(f"row-{row}" for row in range(len(texts)))
    return Inputs(row_ids, tuple(texts), None, targets, torch.ones(len(texts), 1, dtype=torch.bool))


@pytest.fixture(scope="session")
def causal_inputs():
    return _causal_inputs


@pytest.fixture(scope="session")
def text_inputs():
    return _text_inputs


@pytest.fixture(scope="session")
def build():
    """Give tests the makers of models and tokenizers that are not the shared ones."""
    return Makers


class Makers:
    llama = staticmethod(tiny_llama)
    tokenizer = staticmethod(train_tokenizer)
    save = staticmethod(save)
