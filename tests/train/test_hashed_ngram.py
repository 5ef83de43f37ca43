"""The hashed n-gram classifier: its features, its hash, its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mashbill.errors import CorruptionError, DataError, MashbillError
from mashbill.train.corpus import build_corpus
from mashbill.train.data import Row
from mashbill.train.hashed_ngram import HashedNgram, hash_ngrams, normalise
from mashbill.train.students import load_student

MASK = 2**64 - 1
FIXED = [30412, 19969, 25491, 30412, 8026, 50832, 8322]


def plain_hash(ngram: str, buckets: int) -> int:
    """The documented hash, one n-gram at a time, in Python's own integers."""
    value = 0
    for letter in ngram:
        value = (value * 0x9E3779B97F4A7C15 + ord(letter)) & MASK
    value = ((value + len(ngram) * 0x9E3779B97F4A7C15) & MASK) * 0xBF58476D1CE4E5B9 & MASK
    value ^= value >> 29
    value = value * 0x9E3779B97F4A7C15 & MASK
    return (value ^ (value >> 32)) % buckets


@pytest.mark.parametrize("texts", [[" ab c ", "  ", " żółw 🐢 "], ["a"], ["ab", "a", "abcdef"]])
def test_hashes_are_those_of_the_plain_twin(texts: list[str]) -> None:
    found = hash_ngrams(texts, lowest=2, highest=4, buckets=1000)
    for text, bag in zip(texts, found, strict=True):
        expected = [plain_hash(text[at : at + n], 1000) for n in (2, 3, 4) for at in range(len(text) - n + 1)]
        assert bag.tolist() == expected


def test_the_hash_never_changes() -> None:
    # Saved students depend on these numbers.
    assert hash_ngrams([" de "], lowest=1, highest=2, buckets=2**16)[0].tolist() == FIXED


def test_buckets_are_filled_evenly() -> None:
    texts = ["".join(chr(97 + (n * 7 + at * at) % 26) for at in range(40)) for n in range(200)]
    grams = sorted({text[at : at + 4] for text in texts for at in range(37)})
    counts = np.bincount([plain_hash(gram, 64) for gram in grams], minlength=64)
    expected = len(grams) / 64
    # Chi-squared with 63 degrees of freedom; 118 is its upper 3e-5 quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 118


def test_normalising() -> None:
    assert normalise("  Caf\u0065\u0301 \n  CRÈME") == " café crème "


def rows() -> list[Row]:
    return [Row("a", text="das Haus", label="de"), Row("b", text="the house"), Row("c", text="", label="en")]


def test_a_saved_student_gives_the_same_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = HashedNgram(["de", "en"], buckets=100, dim=4, hidden=3, ngrams=(1, 2), dropout=0.5)
    student.module.eval()
    student.save(tmp_path)
    loaded = load_student(tmp_path)
    loaded.module.eval()
    batch = build_corpus(student, rows(), max_length=20).batch(torch.arange(3))
    assert batch.labels.tolist() == [[0], [-100], [1]]
    assert bool(batch.mask.all()), "a row without a label still has teachers"
    assert torch.equal(student.logits(batch), loaded.logits(batch))
    assert json.loads((tmp_path / "labels.json").read_text(encoding="utf-8")) == {"labels": ["de", "en"]}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "options": {**config["options"], "dim": 5}}), encoding="utf-8"
    )
    with pytest.raises(CorruptionError, match="do not fit"):
        load_student(tmp_path)


def test_padding_does_not_change_a_score() -> None:
    student = HashedNgram(["de", "en"], buckets=100, dim=4, hidden=3)
    corpus = build_corpus(student, rows(), max_length=20)
    alone = torch.cat([student.logits(corpus.batch(torch.tensor([n]))) for n in range(3)])
    assert torch.allclose(student.logits(corpus.batch(torch.arange(3))), alone, atol=1e-7)


def test_text_beyond_max_length_is_not_read() -> None:
    student = HashedNgram(["de", "en"])
    long, short = (student.encode([Row("a", text=text)], max_length=4)[0] for text in ("abcdefgh", "abcd"))
    assert torch.equal(long.input_ids, short.input_ids)


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(DataError, match="row `x` has label `nl`"):
        HashedNgram(["de", "en"]).encode([Row("x", text="huis", label="nl")], max_length=9)


@pytest.mark.parametrize("options", [{"ngrams": [3, 2]}, {"ngrams": [1]}, {"dim": 0}, {"dropout": 1.0}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        HashedNgram(["de", "en"], **options)


def test_no_student_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(MashbillError, match="there is no student here"):
        load_student(tmp_path)
