"""One teacher's answers to every row of a corpus, asked for once and kept in a file.

Asking again at every step would cost more than the student's own training, so answers are collected before it, cached
under a digest of everything that they depend on, and read back with their sha256 checked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.durable import sha256_of, write_json, written_aside
from mashbill.errors import CorruptionError, MashbillError, NumericError, TeacherError
from mashbill.progress import Progress, Silent
from mashbill.shapes import Bool, Int, Tensor
from mashbill.teachers.protocol import Scored, Teacher
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.train.corpus import Corpus, Ragged
from mashbill.train.spool import Spool

FORMAT = "2"
"""Changes when files written before can no longer be read as they were meant."""

STATISTICS = tuple(field.name for field in fields(Statistics))


@dataclass(frozen=True)
class Targets:
    """A teacher's distributions and statistics for a corpus.

    Attributes:
        teacher: Its id.
        digest: Name of the file; depends on the teacher's identity and on the corpus.
        slots: For each position of each row, the place of its answer in the tensors below; 0 stands for *none asked*,
            an even distribution.
        n_entries: ``V``.
        tensors: ``logprobs`` ``[A S]`` (``[A V]`` if dense), ``ids`` and ``log_tail`` of a top-k, and the statistics;
            pages of a file, which the system reads when they are wanted and takes back when memory is short.
    """

    teacher: str
    digest: str
    slots: Ragged
    n_entries: int
    tensors: Mapping[str, Tensor]

    def batch(self, index: Int[Tensor, " B"], n_positions: int) -> Scored:
        """Return the answers for some rows, ``[B T ...]`` with ``T = n_positions``."""
        place, real = self.slots.places(index, width=n_positions)
        slot = torch.where(real, self.slots.values[place], 0)
        taken = {name: tensor[slot] for name, tensor in self.tensors.items()}
        statistics = Statistics(**{name: taken[name] for name in STATISTICS})
        if "ids" not in taken:
            return Scored(Dense(taken["logprobs"]), statistics)
        return Scored(TopK(taken["ids"].long(), taken["logprobs"], taken["log_tail"], self.n_entries), statistics)


def collect(
    teacher: Teacher, corpus: Corpus, directory: Path, progress: Progress | None = None, *, batch_size: int = 64
) -> Targets:
    """Return a teacher's answers: from the cache in ``directory`` if they are there, else by asking for each row once.

    Raises:
        CorruptionError: A cached file's bytes have changed.
        NumericError: The teacher gave a value that is not finite; names teacher, row and position.
        TeacherError: The teacher refuses rows.
    """
    identity = dict(teacher.identity())
    digest = _digest(teacher.id, identity, corpus)
    path = directory / f"{digest}.safetensors"
    if not path.with_suffix(".json").is_file() or not path.is_file():
        with written_aside(path) as aside:
            n_entries = _ask(teacher, corpus, progress or Silent(), batch_size, aside)
        record = {"sha256": sha256_of(path), "teacher": teacher.id, "identity": identity, "corpus": corpus.digest}
        write_json(path.with_suffix(".json"), {**record, "n_entries": n_entries, "format": FORMAT})
    return _read(path, teacher.id, digest, corpus)


def require_answers(teachers: Sequence[Teacher], corpus: Corpus, *, others: Sequence[Corpus] = ()) -> list[Scored]:
    """Ask every teacher about the first row, before anything is written, and return the answers.

    A teacher that fails here has never worked with this recipe: that is bad input, whatever it would be later. So is
    one that cannot read the longest row, there or in ``others``. Models stay open: the same teachers are asked next.

    Raises:
        MashbillError: A teacher cannot be opened, fails, gives no distribution, or cannot read every row.
    """
    inputs = corpus.inputs(torch.zeros(1, dtype=torch.long))
    answers = []
    for teacher in teachers:
        try:
            for one in (corpus, *(other for other in others if other is not corpus)):
                _require_fit(teacher, one)
            answers.append(teacher.score(inputs))
            _require_answered(teacher.id, answers[-1], inputs.row_ids)
            _require_finite(teacher.id, answers[-1], inputs.mask, inputs.row_ids)
        except (TeacherError, NumericError) as error:
            raise MashbillError(error.what, where=error.where, why=error.why, help=error.help) from error
    return answers


def _require_fit(teacher: Teacher, corpus: Corpus) -> None:
    """Refuse a corpus whose longest row a teacher cannot read, or of which a store lacks rows."""
    longest = corpus.inputs(corpus.lengths.argmax().unsqueeze(0))
    require_fit = getattr(teacher, "require_fit", None)
    if require_fit is not None:
        require_fit(longest)
    if isinstance(teacher, StoredTeacher):
        for index in torch.arange(len(corpus)).split(256):
            teacher.require_rows(corpus.inputs(index))


def _digest(teacher_id: str, identity: Mapping[str, str], corpus: Corpus) -> str:
    parts = json.dumps([FORMAT, teacher_id, sorted(identity.items()), corpus.digest])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _read(path: Path, teacher_id: str, digest: str, corpus: Corpus) -> Targets:
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if sha256_of(path) != record["sha256"]:
        raise CorruptionError(
            f"the kept answers of teacher `{teacher_id}` are not those that were written",
            where=str(path),
            why="the file's sha256 differs from the one recorded beside it",
            help="delete the file, and the teacher is asked again",
        )
    tensors = load_file(path)
    return Targets(teacher_id, digest, _slots(corpus), record["n_entries"], tensors)


def _slots(corpus: Corpus) -> Ragged:
    counts = corpus.counts.long()
    return Ragged(torch.where(corpus.counts, counts.cumsum(0), 0), corpus.labels.starts)


def _ask(teacher: Teacher, corpus: Corpus, progress: Progress, batch_size: int, path: Path) -> int:
    """Ask about every row, write the answers to a file, and return how many entries a distribution has."""
    # Rows of like length together: padding is work that teaches nothing. Every answer has its slot, whatever the order.
    # A store has its rows in the corpus's order, and reads them in any other again and again.
    order = torch.arange(len(corpus)) if isinstance(teacher, StoredTeacher) else corpus.lengths.argsort(stable=True)
    progress.start(len(corpus), f"asking {teacher.id}")
    slots, n_entries = _slots(corpus).values, 0
    spool = Spool(path, int(corpus.counts.sum()) + 1, _none_asked)
    for index in order.split(batch_size):
        inputs = corpus.inputs(index)
        scored = teacher.score(inputs)
        _require_answered(teacher.id, scored, inputs.row_ids)
        _require_finite(teacher.id, scored, inputs.mask, inputs.row_ids)
        n_entries = scored.distribution.n_entries
        place, _ = corpus.labels.places(index)
        spool.write(slots[place[inputs.mask]], _flat(scored, inputs.mask), n_entries=n_entries)
        progress.advance(len(index))
    spool.finish()
    progress.done()
    return n_entries


def _flat(scored: Scored, mask: Tensor) -> dict[str, Tensor]:
    given = {name: getattr(scored.statistics, name) for name in STATISTICS}
    given["logprobs"] = scored.distribution.logprobs
    if isinstance(scored.distribution, TopK):
        given |= {"ids": scored.distribution.ids, "log_tail": scored.distribution.log_tail}
    return {name: tensor[mask] for name, tensor in given.items()}


def _none_asked(n_entries: int, *, dense: bool) -> dict[str, float]:
    """Values at a position that does not count: those of an even distribution, so that rules and losses stay finite."""
    ceiling = numerics.entropy_ceiling(n_entries)
    listed = {} if dense else {"ids": -1, "log_tail": 0.0}
    return {
        **listed,
        "logprobs": -ceiling if dense else numerics.LOG_ZERO,
        "entropy": ceiling,
        "entropy_low": ceiling,
        "gini": 1 - 1 / n_entries,
        "margin": 0.0,
        "max_logprob": -ceiling,
        "label_logprob": torch.nan,
        "class_mass": 0.0,
    }


def _require_answered(teacher_id: str, scored: Scored, row_ids: Sequence[str]) -> None:
    if scored.refused:
        first = min(scored.refused)
        more = f", and {len(scored.refused) - 1} more of {len(row_ids)}" if len(scored.refused) > 1 else ""
        raise TeacherError(
            f"teacher `{teacher_id}` refuses row `{row_ids[first]}`{more}",
            why=scored.refused[first],
            help="take the rows out; or give the teacher a `store`, capture, and set `refused: drop`",
        )


def _require_finite(teacher_id: str, scored: Scored, mask: Tensor, row_ids: Sequence[str]) -> None:
    bad = ~is_finite(scored) & mask
    if bool(bad.any()):
        row, position = (int(n) for n in bad.nonzero()[0])
        raise non_finite_teacher(teacher_id, row_ids[row], position)


def is_finite(scored: Scored) -> Bool[Tensor, "B T"]:
    """Return where a teacher's answer is finite; the log-probability of an unknown label may be NaN."""
    # All of it is at most some 1e4 in size, so a sum is finite exactly if every term is.
    statistics = scored.statistics
    total = scored.distribution.logprobs.sum(dim=-1) + statistics.entropy + statistics.gini
    total = total + statistics.entropy_low + statistics.margin + statistics.max_logprob
    if isinstance(scored.distribution, TopK):
        total = total + scored.distribution.log_tail
    return total.isfinite()


def non_finite_teacher(teacher_id: str, row_id: str, position: int) -> NumericError:
    """Return the error that names who sent a value that is not finite."""
    return NumericError(
        f"teacher `{teacher_id}` gave a value that is not finite",
        where=f"row `{row_id}`, position {position}",
        why="a target that is no distribution would spoil every weight of the student",
        help="look at the teacher's output for that row; remove the row or the teacher",
    )
