"""Examples: rows of a classifier, or token strips of a language model, in the colours of who taught them.

The tint is the disagreement of the teachers. It is full from the ninetieth percentile of the shown positions on: a
logarithmic pool can disagree by hundreds of nats at a single one, and all others would look alike.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mashbill.report import palette, text
from mashbill.report.records import RunFiles
from mashbill.report.schema import Example

MAX_EXAMPLES = 24
MAX_TOKENS = 1500
MAX_BYTES = 300_000
"""Room for all examples in the page, by a rough count of what their markup takes."""
MAX_CHARACTERS = 600
N_CONTESTED = 6
WEAKEST_TINT = 6


class Share(NamedTuple):
    """One teacher at one position: index, name, weight, and what it said."""

    teacher: int
    name: str
    weight: str
    percent: float
    said: str
    probability: str


class Position(NamedTuple):
    """One token (or one row) as shown."""

    token: str
    label: str | None
    teacher: int
    tint: int
    disagreement: str
    student: str | None
    probability: str
    is_right: bool | None
    shares: tuple[Share, ...]

    @property
    def title(self) -> str:
        """What pointing at the token tells."""
        weights = ", ".join(f"{share.name} {share.weight}" for share in self.shares)
        said = f"; student: {self.student} {self.probability}" if self.student is not None else ""
        return f"{weights}; disagreement {self.disagreement} nats{said}"


class Strip(NamedTuple):
    """One example: where it comes from, its positions, and those on which the teachers disagree most.

    A language model's strip starts with a token that nobody predicted here: it is shown without a colour.
    """

    place: str
    row_id: str
    start: str
    positions: tuple[Position, ...]
    contested: tuple[Position, ...]
    n_cut: int


def section(files: RunFiles) -> dict[str, object]:
    """Return the chosen examples; at most a fixed number, taken in turn from each set in the order of the file."""
    if not files.examples:
        return {"missing": "There is no examples.json, or it is empty: no rows were kept to show."}
    kind = files.result.kind if files.result else files.run.student.kind
    is_row = kind != "causal_lm" and all(len(example.tokens) == 1 for example in files.examples)
    kept = _choose(files.examples)
    full = _full_tint([d for example in kept for d in example.disagreement if math.isfinite(d)])
    return {
        "is_row": is_row,
        "strips": [_strip(files, example, full, is_row=is_row) for example in kept],
        "n_shown": len(kept),
        "n_all": len(files.examples),
        "full": text.number(full, 2),
    }


def _choose(examples: Sequence[Example]) -> list[Example]:
    queues = [[e for e in examples if e.set == name] for name in dict.fromkeys(example.set for example in examples)]
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    kept: list[Example] = []
    n_tokens = n_bytes = 0
    for example in turns[:MAX_EXAMPLES]:
        n_tokens += len(example.tokens)
        n_bytes += _size(example)
        if kept and (n_tokens > MAX_TOKENS or n_bytes > MAX_BYTES):
            break
        kept.append(example)
    return kept


def _full_tint(disagreements: Sequence[float]) -> float:
    return sorted(disagreements)[int(0.9 * (len(disagreements) - 1))] if disagreements else 0.0


def _size(example: Example) -> int:
    written = sum(min(len(token.encode()), 4 * MAX_CHARACTERS) for token in example.tokens[:MAX_TOKENS])
    teachers = len(example.weights[0]) * min(len(example.tokens), MAX_TOKENS)
    return written + 130 * min(len(example.tokens), MAX_TOKENS) + 25 * teachers


def _strip(files: RunFiles, example: Example, full: float, *, is_row: bool) -> Strip:
    positions = tuple(
        _position(files, example, t, full, is_row=is_row) for t in range(min(len(example.tokens), MAX_TOKENS))
    )
    contested = sorted(range(len(positions)), key=lambda t: -example.disagreement[t])[:N_CONTESTED]
    place = " · ".join(part for part in (example.set, example.task, example.context) if part and part != "all")
    return Strip(
        place=place,
        row_id=str(example.row_id),
        start="" if is_row else example.tokens[0],
        positions=positions,
        contested=() if is_row else tuple(positions[t] for t in sorted(contested)),
        n_cut=len(example.tokens) - len(positions),
    )


def _position(files: RunFiles, example: Example, t: int, full: float, *, is_row: bool) -> Position:
    disagreement, label, student = example.disagreement[t], example.labels[t], example.student[t]
    share = min(1.0, disagreement / full) if full > 0 and math.isfinite(disagreement) else 0.0
    token = example.tokens[t] if is_row else _target(example, t)
    return Position(
        token=token if len(token) <= MAX_CHARACTERS else token[:MAX_CHARACTERS] + "…",
        label=label,
        teacher=files.teachers.index(example.dominant[t]),
        tint=round(WEAKEST_TINT + (palette.TINT_LIMIT - WEAKEST_TINT) * share),
        disagreement=text.number(disagreement, 2),
        student=student,
        probability=text.percent(example.student_probability[t], 0),
        is_right=None if label is None or student is None else label == student,
        shares=tuple(_share(files, example, t, index) for index in range(len(files.teachers))),
    )


def _target(example: Example, t: int) -> str:
    """Return the token that was to be predicted at ``t``: the label, in the spelling of the running text if known."""
    label = example.labels[t]
    following = example.tokens[t + 1] if t + 1 < len(example.tokens) else None
    if label is None:
        return following or text.NOTHING
    # A label decoded alone loses its leading space, or shows a piece of a character as bytes.
    is_same = following is not None and (following.strip() == label.strip() or "\\x" in label)
    return following if following is not None and is_same else label


def _share(files: RunFiles, example: Example, t: int, index: int) -> Share:
    name = files.teachers[index]
    weight, answer = example.weights[t].get(name, 0.0), example.teachers[t].get(name)
    return Share(
        teacher=index,
        name=name,
        weight=text.percent(weight, 0),
        percent=round(100 * weight, 2),
        said=answer.top if answer else text.NOTHING,
        probability=text.percent(answer.probability, 0) if answer else "",
    )
