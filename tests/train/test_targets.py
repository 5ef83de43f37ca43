"""Kept answers: the same as asked, asked once, checked when read."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mashbill.distributions import Dense, Statistics, TopK, measure
from mashbill.errors import CorruptionError, DataError, NumericError
from mashbill.numerics import log_softmax
from mashbill.shapes import Int, Tensor
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.train.corpus import Corpus, Ragged, build_corpus
from mashbill.train.data import Row
from mashbill.train.targets import collect

N_ENTRIES = 50
LENGTHS = [3, 1, 5, 2, 4]


class Echo:
    """A teacher whose distribution at a position depends on the input and label there; counts its calls."""

    def __init__(self, *, top_k: int | None = None, shift: float = 0.0, bad_row: str = "") -> None:
        self.id, self.top_k, self.shift, self.bad_row, self.n_asked = "echo", top_k, shift, bad_row, 0

    def identity(self) -> dict[str, str]:
        return {"kind": "echo", "top_k": str(self.top_k), "shift": str(self.shift)}

    def score(self, inputs: Inputs) -> Scored:
        self.n_asked += len(inputs.row_ids)
        logits = torch.sin(inputs.labels.unsqueeze(-1).double() * torch.arange(1, N_ENTRIES + 1) + self.shift)
        dense = Dense(log_softmax(logits))
        if self.bad_row in inputs.row_ids:
            dense.logprobs[inputs.row_ids.index(self.bad_row), 1, 2] = torch.nan
        kept = dense if self.top_k is None else TopK.from_logprobs(dense.logprobs, k=self.top_k)
        return Scored(kept, measure(dense, labels=inputs.labels))


def ragged_corpus(*, uncounted: Sequence[int] = ()) -> Corpus:
    """Five rows of a language model; labels in ``uncounted`` do not count."""
    rows = tuple(Row(f"r{n}", text="x") for n in range(5))
    tokens = [torch.arange(length) + 10 * n for n, length in enumerate(LENGTHS)]
    labels = [torch.where(torch.isin(t, torch.tensor(list(uncounted))), -100, t) for t in tokens]
    none = torch.zeros(5, dtype=torch.long)
    return Corpus(
        "causal_lm", rows, Ragged.of(tokens), Ragged.of(labels), ("echo",), ("all",), ("all",),
        none, none, none - 1, torch.zeros(5, 0), torch.zeros(5, 0), none.bool(),
    )  # fmt: skip


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("index", [[0, 1, 2, 3, 4], [4, 1], [1], [2, 2]])
def test_kept_answers_are_those_given(top_k: int | None, index: list[int], tmp_path: Path) -> None:
    corpus = ragged_corpus(uncounted=[20, 21, 31])
    targets = collect(Echo(top_k=top_k), corpus, tmp_path, batch_size=2)
    rows = torch.tensor(index)
    batch = corpus.batch(rows)
    kept = targets.batch(rows, batch.labels.shape[1])
    asked = Echo(top_k=top_k).score(corpus.inputs(rows))
    assert torch.equal(kept.distribution.logprobs[batch.mask], asked.distribution.logprobs[batch.mask])
    if isinstance(kept.distribution, TopK) and isinstance(asked.distribution, TopK):
        assert torch.equal(kept.distribution.ids[batch.mask], asked.distribution.ids[batch.mask])
        assert torch.equal(kept.distribution.log_tail[batch.mask], asked.distribution.log_tail[batch.mask])
    for name in ("entropy", "entropy_low", "gini", "margin", "label_logprob"):
        assert torch.equal(getattr(kept.statistics, name)[batch.mask], getattr(asked.statistics, name)[batch.mask])


def test_what_does_not_count_is_even_and_finite(tmp_path: Path) -> None:
    corpus = ragged_corpus(uncounted=[20])
    rows = torch.tensor([2, 1])
    for top_k in (None, 3):
        kept = collect(Echo(top_k=top_k), corpus, tmp_path).batch(rows, 5)
        outside = ~corpus.batch(rows).mask
        dense = kept.distribution if isinstance(kept.distribution, Dense) else Dense(kept.distribution.densify())
        assert torch.allclose(dense.logprobs[outside].exp(), torch.tensor(1 / N_ENTRIES, dtype=torch.float64))
        even: Statistics = measure(dense)
        assert torch.allclose(kept.statistics.entropy[outside], even.entropy[outside])
        assert torch.allclose(kept.statistics.gini[outside], even.gini[outside])


def test_each_row_is_asked_once(tmp_path: Path) -> None:
    teacher, corpus = Echo(), ragged_corpus()
    collect(teacher, corpus, tmp_path)
    collect(teacher, corpus, tmp_path)
    assert teacher.n_asked == 5


def test_another_teacher_or_corpus_is_another_file(tmp_path: Path) -> None:
    digests = {
        collect(Echo(), ragged_corpus(), tmp_path).digest,
        collect(Echo(shift=1.0), ragged_corpus(), tmp_path).digest,
        collect(Echo(), ragged_corpus(uncounted=[0]), tmp_path).digest,
    }
    assert len(digests) == 3


def test_every_flipped_byte_of_kept_answers_is_noticed(tmp_path: Path) -> None:
    corpus = ragged_corpus()
    path = tmp_path / f"{collect(Echo(), corpus, tmp_path).digest}.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match="teacher `echo`"):
            collect(Echo(), corpus, tmp_path)
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["teacher"] == "echo"


def test_an_interrupted_question_leaves_no_file(tmp_path: Path) -> None:
    class Failing(Echo):
        def score(self, inputs: Inputs) -> Scored:
            if self.n_asked >= 2:
                raise KeyboardInterrupt
            return super().score(inputs)

    with pytest.raises(KeyboardInterrupt):
        collect(Failing(), ragged_corpus(), tmp_path, batch_size=2)
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_none_names_teacher_row_and_position(tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="teacher `echo`") as caught:
        collect(Echo(bad_row="r3"), ragged_corpus(), tmp_path, batch_size=2)
    assert "row `r3`, position 1" in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_ragged_rows_come_back(tmp_path: Path) -> None:
    rows = [torch.tensor(values, dtype=torch.long) for values in ([5, 6], [], [7])]
    index: Int[Tensor, " B"] = torch.tensor([2, 0, 1])
    values, real = Ragged.of(rows).padded(index, fill=-1)
    assert values.tolist() == [[7, -1], [5, 6], [-1, -1]]
    assert real.tolist() == [[True, False], [True, True], [False, False]]


def test_rows_that_name_no_teacher_of_ours_are_refused() -> None:
    from mashbill.train.hashed_ngram import HashedNgram

    student = HashedNgram(["de", "en"])
    rows = [Row("a", text="x", teacher="p"), Row("b", text="y"), Row("c", text="z", teacher="q")]
    assert build_corpus(student, rows, max_length=9, teachers=("p", "q")).route.tolist() == [0, -1, 1]
    with pytest.raises(DataError, match="row `c` names teacher `q`"):
        build_corpus(student, rows, max_length=9, teachers=("p",))
    with pytest.raises(DataError, match="there are no rows"):
        build_corpus(student, [], max_length=9)
