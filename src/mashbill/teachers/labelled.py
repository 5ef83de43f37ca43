"""Plug-in teachers: anything that gives probabilities over labels of its own.

Not covered: text generators; a plug-in names labels, never tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from mashbill import plugins
from mashbill.distributions.statistics import measure
from mashbill.errors import MashbillError, TeacherError
from mashbill.shapes import Bool, Float, Tensor
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.labels import LabelMap, Outside
from mashbill.teachers.protocol import CallableTeacher, Inputs, Scored

TOLERANCE = 1e-3
"""How far above 1 the sum of a reply may be; a library that works in float32 rounds."""


@dataclass(frozen=True)
class LabelledTeacher:
    """A classifier from a plug-in, heard in the student's labels.

    Attributes:
        id: Name in the recipe.
        predictor: The plug-in.
        student_labels: The student's labels, in the order of axis ``V``.
        mapping: ``{label of the teacher: label of the student}``; other labels map to the same text.
        outside: ``condition`` sets labels that the student lacks aside and scales the rest; ``tail`` keeps their mass
            as mass on no label in particular.
        source: Name of the plug-in, for lineage.
        options: What the plug-in was made with, for lineage.
        classes: Of the student's labels, whose mass is measured.

    Raises:
        VocabularyError: No label is common, or ``mapping`` names a label that does not exist.
    """

    id: str
    predictor: CallableTeacher
    student_labels: tuple[str, ...]
    mapping: Mapping[str, str] = field(default_factory=dict)
    outside: Outside = "condition"
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: EntryClasses = NO_CLASSES

    def __post_init__(self) -> None:
        _ = self.labels  # labels that do not fit are refused here, not at the first row

    @cached_property
    def labels(self) -> LabelMap:
        """How the teacher's labels map to the student's."""
        return LabelMap.build(tuple(self.predictor.labels), self.student_labels, self.mapping, teacher_id=self.id)

    @property
    def covered(self) -> tuple[str, ...]:
        """The student's labels that this teacher can name."""
        return self.labels.covered

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The student's labels that this teacher cannot name."""
        return self.labels.uncovered

    def score(self, inputs: Inputs) -> Scored:
        """Return a distribution over the student's labels for each row, ``[B 1 S]``.

        Raises:
            TeacherError: The plug-in failed, or gave values that are no distribution; names the row.
        """
        probabilities, listed = self._ask(inputs)
        distribution = self.labels.translate(probabilities, listed, outside=self.outside)
        return self.classes.measured(Scored(distribution, measure(distribution, labels=inputs.labels)))

    def identity(self) -> Mapping[str, str]:
        """Return plug-in, package and version, labels and options; a plug-in may add a ``version`` of its own."""
        return {
            "kind": "plugin",
            "source": self.source,
            "package": plugins.provider("teachers", self.source),
            "version": str(getattr(self.predictor, "version", "")),
            "labels": self.labels.digest,
            "outside": self.outside,
            "options": json.dumps(dict(self.options), sort_keys=True, default=str),
            **self.classes.pins,
        }

    def _ask(self, inputs: Inputs) -> tuple[Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """Return the mass on each native label, and which labels each reply lists."""
        try:
            replies = list(self.predictor.predict(list(inputs.texts)))
        except MashbillError:
            raise
        except Exception as error:
            raise TeacherError(
                f"teacher `{self.id}` failed: {type(error).__name__}: {error}",
                where=f"rows `{inputs.row_ids[0]}` to `{inputs.row_ids[-1]}`",
                help=f"this comes from the plug-in `{self.source}`",
            ) from error
        if len(replies) != len(inputs.texts):
            raise TeacherError(f"teacher `{self.id}` gave {len(replies)} replies to {len(inputs.texts)} texts")
        for row, reply in zip(inputs.row_ids, replies, strict=True):
            if not (isinstance(reply, Mapping) and all(hasattr(value, "__float__") for value in reply.values())):
                raise TeacherError(
                    f"teacher `{self.id}` gave a reply that is no mapping from labels to numbers: {repr(reply)[:80]}",
                    where=f"row `{row}`",
                    help=f"`predict` of the plug-in `{self.source}` returns one {{label: probability}} for each text",
                )
        rows, columns, values = self._flat(replies, inputs.row_ids)
        shape = (len(replies), len(self.labels.native))
        probabilities = torch.zeros(shape, dtype=torch.float64)
        listed = torch.zeros(shape, dtype=torch.bool)
        probabilities[rows, columns] = values
        listed[rows, columns] = True
        return self._checked(probabilities, inputs.row_ids), listed

    def _flat(self, replies: Sequence[Mapping[str, float]], row_ids: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, column and value of every listed probability."""
        column = {label: at for at, label in enumerate(self.labels.native)}
        try:
            columns = [column[label] for reply in replies for label in reply]
        except KeyError:
            row, label = next(
                (r, x) for r, reply in zip(row_ids, replies, strict=True) for x in reply if x not in column
            )
            raise TeacherError(
                f"teacher `{self.id}` gave a label that it did not declare: `{label}`",
                where=f"row `{row}`",
                help=f"add it to `labels` of the plug-in `{self.source}`",
            ) from None
        rows = torch.arange(len(replies)).repeat_interleave(torch.tensor([len(reply) for reply in replies]))
        values = torch.tensor([value for reply in replies for value in reply.values()], dtype=torch.float64)
        return rows, torch.tensor(columns, dtype=torch.long), values

    def _checked(self, probabilities: Tensor, row_ids: Sequence[str]) -> Tensor:
        """Refuse what is no distribution; a sum within the tolerance above 1 is scaled to 1."""
        total = probabilities.sum(dim=1)
        good = (probabilities >= 0).all(dim=1) & (total <= 1 + TOLERANCE)  # NaN is not >= 0
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise TeacherError(
                f"teacher `{self.id}` gave no distribution: its least value is {float(probabilities[row].min()):.6g} "
                f"and its sum {float(total[row]):.6g}",
                where=f"row `{row_ids[row]}`",
                why="probabilities must be at least 0 and sum to at most 1",
            )
        return probabilities / total.clamp_min(1).unsqueeze(1)
