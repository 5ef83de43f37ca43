"""A few rows shown position by position: who counted how much, who said what, and where they disagreed.

Rows are chosen to be looked at, not to be counted: those with most disagreement come first, spread over tasks, contexts
and the student being right or wrong. They are no sample; the numbers are in ``result.json``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mashbill.train.answers import Answers, Panel, prediction
from mashbill.train.corpus import Corpus
from mashbill.train.judging import Judged
from mashbill.train.protocol import Student

WINDOW = 64
"""Most positions shown of one sequence."""
UNNAMED = "(none that it names)"
"""Shown as a teacher's answer where entries that it did not list are more probable than those it did."""


def collect(
    panels: Mapping[str, Panel],
    judged: Mapping[str, Judged],
    teachers: Sequence[str],
    *,
    n_classifier: int,
    n_sequences: int,
) -> list[dict[str, Any]]:
    """Return the content of ``examples.json``: at most so many rows over all sets, shared evenly between them."""
    found = []
    for name, panel in panels.items():
        limit = n_classifier if panel.student.kind == "classifier" else n_sequences
        corpus, each = panel.corpus, judged[name]
        rows = choose(
            corpus.task.numpy(),
            corpus.context.numpy(),
            each.success,
            each.disagreement,
            limit=max(1, limit // len(panels)),
        )
        found += [{"set": name, **describe(panel, row, teachers)} for row in rows]
    return found


def choose(
    task: NDArray[np.int64],
    context: NDArray[np.int64],
    success: NDArray[np.float64],
    disagreement: NDArray[np.float64],
    *,
    limit: int,
) -> list[int]:
    """Pick rows one by one: from the task, context and outcome shown least so far, the one with most disagreement.

    Args:
        task: Task of each row.
        context: Context of each row.
        success: The student's share of right answers in each row; NaN where unknown.
        disagreement: Of the teachers, in nats.
        limit: Most rows.
    """
    usual = np.nanmean(success) if np.isfinite(success).any() else 0.0
    # A sequence is never all right: better or worse than the set's average takes the place of right and wrong.
    outcome = np.where(np.isnan(success), -1, (success > 0) & (success >= usual)).astype(int)
    kinds = np.stack([task, context, outcome], axis=1)
    left = _most_contested(kinds, disagreement, limit)
    shown: tuple[Counter[int], ...] = (Counter(), Counter(), Counter())
    chosen: list[int] = []
    while left and len(chosen) < limit:
        best = min(
            left, key=lambda row: (*(shown[axis][int(kinds[row, axis])] for axis in range(3)), -disagreement[row], row)
        )
        left.remove(best)
        chosen.append(best)
        for axis in range(3):
            shown[axis][int(kinds[best, axis])] += 1
    return chosen


def _most_contested(kinds: NDArray[np.int64], disagreement: NDArray[np.float64], limit: int) -> list[int]:
    """Keep ``limit`` rows of each kind: no more than those can ever be chosen."""
    order = np.argsort(-disagreement, kind="stable")
    kept: Counter[tuple[int, ...]] = Counter()
    rows = []
    for row in order.tolist():
        kind = tuple(kinds[row].tolist())
        if kept[kind] < limit:
            kept[kind] += 1
            rows.append(row)
    return rows


def describe(panel: Panel, row: int, teachers: Sequence[str]) -> dict[str, Any]:
    """Return one row of the corpus as ``examples.json`` shows it; long sequences show their most contested stretch."""
    answers = list(panel.answers(torch.tensor([row]), batch_size=1))
    start, stop = _window(torch.cat([each.disagreement for each in answers]), WINDOW)
    source = panel.corpus.rows[row]
    names = Names(panel.student)
    positions = [place for each in answers for place in _positions(each, teachers, names)][start:stop]
    at = torch.cat([each.position for each in answers])[start:stop]
    shown = {key: [place[key] for place in positions] for key in positions[0]}
    return {
        "row_id": source.id,
        "task": source.task,
        "context": source.context,
        "tokens": _tokens(panel.corpus, row, at, names),
        **shown,
    }


class Names:
    """How to write entries of the student's vocabulary: labels, or decoded tokens."""

    def __init__(self, student: Student) -> None:
        self.tokens = student.vocabulary.tokens
        self.tokenizer = getattr(student, "tokenizer", None) if student.kind == "causal_lm" else None

    def one(self, index: int) -> str:
        """Write one entry; see :func:`piece`."""
        if index < 0:
            return UNNAMED
        return self.tokens.get(index, f"<{index}>") if self.tokenizer is None else piece(self.tokenizer, index)


def piece(tokenizer: Any, index: int) -> str:
    """Decode one token alone; a fragment of a character comes out as escaped bytes instead of a replacement mark."""
    text = tokenizer.decode([index], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\ufffd" not in text:
        return text
    token = tokenizer.convert_ids_to_tokens(index)
    codes = [_BYTES.get(character) for character in token]
    return token if None in codes else "".join(_escaped(code) for code in codes if code is not None)


def pieces(tokenizer: Any, indices: Sequence[int]) -> list[str]:
    """Decode a sequence token by token; joined, the pieces are the text of the whole.

    A character that is spread over several tokens appears with the token that completes it; the ones before are empty.
    """
    found, written = [], ""
    for stop in range(1, len(indices) + 1):
        text = tokenizer.decode(indices[:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        is_whole = not text.endswith("\ufffd") or stop == len(indices)
        if is_whole and text.startswith(written):
            found.append(text[len(written) :])
            written = text
        else:
            # A character is still incomplete, or the decoder rewrote earlier text: then the token is shown by itself.
            found.append("" if not is_whole else piece(tokenizer, indices[stop - 1]))
            written = written if not is_whole else text
    return found


def _positions(answers: Answers, teachers: Sequence[str], names: Names) -> list[dict[str, Any]]:
    top, log_top = prediction(answers.student)
    others = [prediction(each) for each in answers.teachers]
    weights = answers.log_weights.exp()
    return [
        {
            "labels": None if answers.labels[p] < 0 else names.one(int(answers.labels[p])),
            "weights": {teacher: _rounded(weights[k, p]) for k, teacher in enumerate(teachers)},
            "dominant": teachers[int(weights[:, p].argmax())],
            "disagreement": _rounded(answers.disagreement[p]),
            "student": names.one(int(top[p])),
            "student_probability": _rounded(log_top[p].exp()),
            "teachers": {
                teacher: {"top": names.one(int(best[p])), "probability": _rounded(log_best[p].exp())}
                for teacher, (best, log_best) in zip(teachers, others, strict=True)
            },
        }
        for p in range(len(answers.row))
    ]


def _tokens(corpus: Corpus, row: int, positions: torch.Tensor, names: Names) -> list[str]:
    if names.tokenizer is None:
        return [corpus.rows[row].text or ""]
    inputs = corpus.batch(torch.tensor([row])).input_ids[0]
    return pieces(names.tokenizer, inputs[positions].tolist())


def _window(disagreement: torch.Tensor, size: int) -> tuple[int, int]:
    n = len(disagreement)
    if n <= size:
        return 0, n
    total = torch.cat([torch.zeros(1, dtype=torch.float64), disagreement.double().cumsum(0)])
    start = int((total[size:] - total[:-size]).argmax())
    return start, start + size


def _rounded(value: torch.Tensor) -> float:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else 0.0


def _escaped(code: int) -> str:
    return chr(code) if 32 <= code < 127 else f"\\x{code:02x}"


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level tokenizer's alphabet stands for."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [code for code in range(256) if code not in printable]
    return {chr(code): code for code in printable} | {chr(256 + place): code for place, code in enumerate(others)}


_BYTES = _byte_alphabet()
