"""What a run writes down as it goes: one JSON object a line in ``records.jsonl``."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mashbill.losses.diagnostics import diagnose
from mashbill.shapes import Float, Tensor
from mashbill.train.step import Lesson, Outcome


class RecordFile:
    """An append-only file that a resume cuts back to where its checkpoint was.

    Args:
        path: The file; made if it is not there.
        n_bytes: Keep this many bytes of what is there.
    """

    def __init__(self, path: Path, *, n_bytes: int) -> None:
        path.touch()
        os.truncate(path, min(n_bytes, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; NaN and infinity raise ``ValueError``."""
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> int:
        """Put everything on the disk and return how many bytes there are."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class Window:
    """Sums since the last record. Sums, not means: they add up over micro-batches, and survive a resume exactly.

    Attributes:
        sums: ``[4]``: loss, divergence and cross-entropy in nats, and positions that count.
        by_task: Weight of each teacher summed over positions, ``[K M]``; the last row counts the positions.
        by_context: Likewise by context, ``[K D]``.
    """

    sums: Float[Tensor, "4"]
    by_task: Float[Tensor, "K1 M"]
    by_context: Float[Tensor, "K1 D"]

    @classmethod
    def empty(cls, lesson: Lesson) -> "Window":
        """Start with nothing."""
        corpus, exact = lesson.corpus, {"dtype": torch.float64, "device": lesson.device}
        n_rows = len(corpus.teachers) + 1
        return cls(
            torch.zeros(4, **exact),
            torch.zeros(n_rows, len(corpus.tasks), **exact),
            torch.zeros(n_rows, len(corpus.contexts), **exact),
        )

    def add(self, lesson: Lesson, outcome: Outcome, *, n_counted: int) -> None:
        """Add one micro-batch."""
        mask = outcome.batch.mask
        counts = mask.sum(dim=1).double()
        parts = (outcome.total.detach().double() * n_counted, outcome.divergence.sum(), outcome.cross_entropy.sum())
        self.sums += torch.stack([*(part.double() for part in parts), counts.sum()])
        weights = (outcome.log_weights.double().exp() * mask).sum(dim=-1)
        rows = torch.cat([weights, counts.unsqueeze(0)])
        place = outcome.batch.index.cpu()
        self.by_task.index_add_(1, lesson.corpus.task[place].to(rows.device), rows)
        self.by_context.index_add_(1, lesson.corpus.context[place].to(rows.device), rows)

    def clear(self) -> None:
        """Start again."""
        for tensor in (self.sums, self.by_task, self.by_context):
            tensor.zero_()

    def dump(self) -> dict[str, Any]:
        """Return the sums as JSON; every float64 survives that exactly."""
        return {name: getattr(self, name).tolist() for name in ("sums", "by_task", "by_context")}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take up the sums that :meth:`dump` gave."""
        for name, values in saved.items():
            own: Tensor = getattr(self, name)
            own.copy_(torch.tensor(values, dtype=own.dtype))

    def weights(self, lesson: Lesson) -> dict[str, Any]:
        """Return mean weights over positions: of all, by task and by context."""
        corpus = lesson.corpus
        return {
            "all": _named(corpus.teachers, self.by_task.sum(dim=1, keepdim=True), [""])[""],
            "task": _named(corpus.teachers, self.by_task, corpus.tasks),
            "context": _named(corpus.teachers, self.by_context, corpus.contexts),
        }

    def means(self, *, has_labels: bool) -> dict[str, float | None]:
        """Return loss, divergence and cross-entropy in nats a position."""
        loss, divergence, cross_entropy = (self.sums[:3] / self.sums[3]).tolist()
        return {"loss": loss, "divergence": divergence, "cross_entropy": cross_entropy if has_labels else None}


def diagnostics(lesson: Lesson, outcome: Outcome) -> dict[str, Any]:
    """Return how far student and teachers are apart over one micro-batch, in nats."""
    mask = outcome.batch.mask
    found = diagnose(
        outcome.logits,
        [each.distribution for each in outcome.scored],
        outcome.log_weights,
        mask=mask,
        tail=lesson.distill.tail,
    )
    distances = found.kl_to_teacher[:, mask].double().mean(dim=-1).tolist()
    return {
        "kl_to_teacher": dict(zip(lesson.corpus.teachers, distances, strict=True)),
        "disagreement": float(found.disagreement[mask].double().mean()),
    }


def _named(teachers: Sequence[str], sums: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    means = (sums[:-1] / sums[-1]).T.tolist()
    seen = (sums[-1] > 0).tolist()
    return {
        name: dict(zip(teachers, row, strict=True))
        for name, row, is_seen in zip(names, means, seen, strict=True)
        if is_seen
    }
