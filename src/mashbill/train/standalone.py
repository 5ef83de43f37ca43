"""A text classifier that needs torch, numpy and safetensors, and nothing else.

    model = load("path/to/this/folder")
    model.predict(["Bonjour tout le monde"])      # [{"fr": 0.98, "en": 0.01, ...}]

or ``python student.py "Bonjour tout le monde"``. The folder holds ``model.safetensors``, ``config.json`` and
``labels.json``. Characters beyond ``max_length`` of the configuration are not read, as in training.
"""

import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

# This file is copied as it is beside an exported student, so it imports nothing of the package it comes from.
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER = np.uint64(_GOLDEN)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class Classifier:
    """A loaded student.

    Args:
        module: The network.
        labels: Names of its outputs.
        ngrams: Shortest and longest character n-gram.
        buckets: Hash values.
        max_length: Characters read of each text; None for all.
    """

    def __init__(
        self, module: nn.Module, labels: Sequence[str], *, ngrams: Sequence[int], buckets: int, max_length: int | None
    ) -> None:
        self.module, self.labels = module.eval(), tuple(labels)
        self.ngrams, self.buckets, self.max_length = (ngrams[0], ngrams[1]), buckets, max_length

    def predict(self, texts: Sequence[str], *, batch_size: int = 256) -> list[dict[str, float]]:
        """Return ``{label: probability}`` for each text, the most probable label first."""
        found = []
        for start in range(0, len(texts), batch_size):
            for row in torch.softmax(self.logits(texts[start : start + batch_size]), dim=-1).tolist():
                ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
                found.append(dict(ranked))
        return found

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Return scores of the labels, texts by labels."""
        normalised = [normalise(text[: self.max_length]) for text in texts]
        bags = hash_ngrams(normalised, lowest=self.ngrams[0], highest=self.ngrams[1], buckets=self.buckets)
        lengths = torch.tensor([len(bag) for bag in bags], dtype=torch.long)
        ids = torch.from_numpy(np.concatenate(bags)) if bags else torch.zeros(0, dtype=torch.long)
        return self.module(ids, lengths.cumsum(0) - lengths)


class Network(nn.Module):
    """An embedding bag and one hidden layer."""

    def __init__(self, n_labels: int, *, buckets: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(buckets, dim, mode="mean")
        self.head = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, n_labels))

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Score bags that lie one after another in ``ids`` and start at ``offsets``."""
        return self.head(self.embedding(ids, offsets))


def load(directory: str | Path) -> Classifier:
    """Load the student of a folder."""
    folder = Path(directory)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["labels"]
    options = config["options"]
    module = Network(len(labels), buckets=options["buckets"], dim=options["dim"], hidden=options["hidden"])
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return Classifier(
        module,
        labels,
        ngrams=options["ngrams"],
        buckets=options["buckets"],
        max_length=config.get("max_length"),
    )


def normalise(text: str) -> str:
    """Compose (NFC), lower the case, make every run of white space one space, and put one at both ends."""
    return f" {' '.join(unicodedata.normalize('NFC', text).lower().split())} "


def hash_ngrams(texts: Sequence[str], *, lowest: int, highest: int, buckets: int) -> list[np.ndarray]:
    """Bucket of every character n-gram of each text: ``h = ((c_1 M + c_2) M + ...) M + c_n`` modulo 2^64, scrambled."""
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
            mixed = (rolling[inside] + np.uint64(n * _GOLDEN % 2**64)) * _MIX
            mixed ^= mixed >> np.uint64(29)
            mixed *= _MULTIPLIER
            hashes.append((mixed ^ (mixed >> np.uint64(32))) % np.uint64(buckets))
            rows.append(row[inside])
    values, of = np.concatenate(hashes), np.concatenate(rows)
    order = np.argsort(of, kind="stable")
    return np.split(values[order].astype(np.int64), np.cumsum(np.bincount(of, minlength=len(texts)))[:-1])


if __name__ == "__main__":
    print(json.dumps(load(Path(__file__).parent).predict(sys.argv[1:]), ensure_ascii=False))
