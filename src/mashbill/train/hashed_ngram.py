"""A small, fast text classifier: hashed character n-grams, one embedding bag, one hidden layer.

``logits = W2 gelu(W1 mean_i E[h_i] + b1) + b2`` with ``h_i`` the hashes of all character n-grams of the text. It has no
tokenizer, reads any script, and its whole state is one safetensors file and two JSON files.

The hash is part of the model: changing it breaks every saved student. Not covered: order of n-grams, and anything that
needs to understand a sentence.
"""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import mashbill
from mashbill.shapes import Float, Int, Tensor
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train.data import Row
from mashbill.train.labels import label_ids, write_labels
from mashbill.train.protocol import Batch, EncodedRow

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # from the finaliser of splitmix64


def normalise(text: str) -> str:
    """Compose (NFC), lower the case, make every run of white space one space, and put one at both ends.

    The spaces mark the borders of words, so that ``" de"`` and ``"de"`` are different n-grams.
    """
    return f" {' '.join(unicodedata.normalize('NFC', text).lower().split())} "


def hash_ngrams(texts: Sequence[str], *, lowest: int, highest: int, buckets: int) -> list[np.ndarray]:
    """Bucket of every character n-gram of each text, by length and then by place.

    An n-gram of code points ``c`` has ``h = ((c_1 M + c_2) M + ...) M + c_n`` modulo ``2^64``, scrambled once with its
    length, then taken modulo ``buckets``. All texts are hashed in one pass.

    Args:
        texts: Already normalised.
        lowest: Shortest n-gram.
        highest: Longest n-gram.
        buckets: Number of hash values.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    ends = np.repeat(np.cumsum(lengths), lengths)
    row = np.repeat(np.arange(len(texts)), lengths)
    place = np.arange(len(codes))
    hashes, rows = [], []
    rolling = np.zeros(len(codes), dtype=np.uint64)
    for n in range(1, highest + 1):
        shifted = np.zeros_like(codes)
        shifted[: max(0, len(codes) - n + 1)] = codes[n - 1 :]
        rolling = rolling * _MULTIPLIER + shifted
        if n >= lowest:
            inside = place + n <= ends
            hashes.append(_scramble(rolling[inside], n) % np.uint64(buckets))
            rows.append(row[inside])
    return _split_by_row(np.concatenate(hashes), np.concatenate(rows), len(texts))


def _scramble(values: np.ndarray, n: int) -> np.ndarray:
    mixed = (values + np.uint64(n * int(_MULTIPLIER) % 2**64)) * _MIX  # in Python: a scalar overflow would warn
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MULTIPLIER
    return mixed ^ (mixed >> np.uint64(32))


def _split_by_row(values: np.ndarray, rows: np.ndarray, n_rows: int) -> list[np.ndarray]:
    order = np.argsort(rows, kind="stable")
    borders = np.cumsum(np.bincount(rows, minlength=n_rows))[:-1]
    return np.split(values[order].astype(np.int64), borders)


class NgramClassifier(nn.Module):
    """The network alone, from bags of hashed n-grams to scores of labels."""

    def __init__(self, n_labels: int, *, buckets: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(buckets, dim, mode="mean")
        # Small, because the mean of many n-grams is what the next layer sees and common ones must not drown rare ones.
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.head = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, n_labels))
        self.dropout = dropout

    def forward(self, ids: Int[Tensor, " N"], offsets: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Score the labels of bags that lie one after another in ``ids`` and start at ``offsets``."""
        if self.training and self.dropout:
            # Leaving n-grams out makes the network read the rest of the text too, and costs less than one more layer.
            kept = torch.rand(ids.shape, device=ids.device) >= self.dropout
            kept[offsets] = True  # a bag is never empty
            offsets = (kept.cumsum(0) - kept.long())[offsets]
            ids = ids[kept]
        return self.head(self.embedding(ids, offsets))


class HashedNgram:
    """The classifier as a student.

    Args:
        labels: Names of the output entries.
        buckets: Hash values, each with an embedding.
        dim: Size of an embedding.
        hidden: Size of the hidden layer.
        ngrams: Shortest and longest n-gram, in code points.
        dropout: Share of a text's n-grams left out, anew at each training step.

    Raises:
        ValueError: A size is not positive, or ``ngrams`` is not ``1 <= lowest <= highest <= 8``.
    """

    kind: Literal["causal_lm", "classifier"] = "classifier"

    def __init__(
        self,
        labels: Sequence[str],
        *,
        buckets: int = 32768,
        dim: int = 64,
        hidden: int = 128,
        ngrams: Sequence[int] = (1, 4),
        dropout: float = 0.0,
    ) -> None:
        if len(ngrams) != 2 or not 1 <= ngrams[0] <= ngrams[1] <= 8:
            raise ValueError(f"ngrams={list(ngrams)} must be [lowest, highest] with 1 <= lowest <= highest <= 8")
        for name, size in {"buckets": buckets, "dim": dim, "hidden": hidden}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        self.options = {"buckets": buckets, "dim": dim, "hidden": hidden, "ngrams": list(ngrams), "dropout": dropout}
        self.labels = tuple(labels)
        self.vocabulary = Vocabulary.from_labels(self.labels)
        self.buckets, self.ngrams = buckets, (ngrams[0], ngrams[1])
        self.module: nn.Module = NgramClassifier(
            len(self.labels), buckets=buckets, dim=dim, hidden=hidden, dropout=dropout
        )

    @property
    def n_entries(self) -> int:
        """``V``, the number of labels."""
        return len(self.labels)

    def encode(self, rows: Sequence[Row], *, max_length: int) -> list[EncodedRow]:
        """Hash the n-grams of the first ``max_length`` characters of each row's text."""
        texts = [normalise((row.text or "")[:max_length]) for row in rows]
        bags = hash_ngrams(texts, lowest=self.ngrams[0], highest=self.ngrams[1], buckets=self.buckets)
        labels = label_ids(rows, self.labels)
        return [
            EncodedRow(row, torch.from_numpy(bag), label)
            for row, bag, label in zip(rows, bags, labels.unsqueeze(1), strict=True)
        ]

    def logits(self, batch: Batch) -> Float[Tensor, "B T V"]:
        """Score the labels of each row; ``T = 1``."""
        lengths = batch.attention_mask.sum(dim=1)
        scores = self.module(batch.input_ids[batch.attention_mask], lengths.cumsum(0) - lengths)
        return scores.unsqueeze(1)

    def save(self, directory: Path) -> None:
        """Write ``model.safetensors``, ``config.json`` and ``labels.json``."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.module.state_dict().items()}
        save_file(tensors, str(directory / "model.safetensors"))
        config = {
            "mashbill": mashbill.__version__,
            "kind": self.kind,
            "architecture": "hashed_ngram",
            "options": self.options,
        }
        (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        write_labels(directory, self.labels)
