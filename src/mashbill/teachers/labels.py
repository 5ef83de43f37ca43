"""Saying a teacher's label distribution in the student's labels."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.errors import VocabularyError, did_you_mean
from mashbill.shapes import Bool, Float, Int, Tensor

Outside = Literal["condition", "tail"]
"""What becomes of the mass on labels that the student does not have."""

UNINFORMED = 1e-6
"""Less known mass than this, a probability, says nothing about the student's labels."""

N_SHOWN = 8


@dataclass(frozen=True)
class LabelMap:
    """Which of the student's labels each of a teacher's labels means.

    Attributes:
        native: The teacher's labels.
        student: The student's labels, in the order of axis ``V``.
        index: For each native label, the student label's place, ``-1`` if the student has none for it.
    """

    native: tuple[str, ...]
    student: tuple[str, ...]
    index: tuple[int, ...]

    @classmethod
    def build(
        cls, native: Sequence[str], student: Sequence[str], mapping: Mapping[str, str], *, teacher_id: str
    ) -> "LabelMap":
        """Map by ``mapping`` first, then by identical text; several native labels may mean one student label.

        Raises:
            VocabularyError: No label is common, or ``mapping`` names a label that does not exist.
        """
        _require_known(mapping, native, "label of the teacher", teacher_id)
        _require_known(mapping.values(), student, "label of the student", teacher_id)
        place = {label: at for at, label in enumerate(student)}
        index = tuple(place.get(mapping.get(label, label), -1) for label in native)
        if max(index, default=-1) < 0:
            raise VocabularyError(
                f"teacher `{teacher_id}` has no label in common with the student",
                where=f"teachers.{teacher_id}.labels",
                why=f"the teacher says {_first(native)}; the student says {_first(student)}",
                help="map the teacher's labels to the student's: `labels: {teacher label: student label}`",
            )
        return cls(tuple(native), tuple(student), index)

    @cached_property
    def covered(self) -> tuple[str, ...]:
        """The student's labels that the teacher can name."""
        return tuple(label for at, label in enumerate(self.student) if at in self.index)

    @cached_property
    def uncovered(self) -> tuple[str, ...]:
        """The student's labels that the teacher cannot name; they share the tail."""
        return tuple(label for at, label in enumerate(self.student) if at not in self.index)

    @cached_property
    def digest(self) -> str:
        """The sha256 of both label lists and the map between them, hexadecimal."""
        return hashlib.sha256(json.dumps([self.native, self.student, self.index]).encode()).hexdigest()

    def translate(self, probabilities: Float[Tensor, "B N"], listed: Bool[Tensor, "B N"], *, outside: Outside) -> TopK:
        """Return distributions over the student's labels, ``[B 1 S]``, largest first.

        With stored mass ``s_v`` on the student's labels, ``o`` on native labels outside them, and ``m = 1 - s - o``
        on nothing in particular: ``condition`` gives ``s_v / (1 - o)`` and the tail ``m / (1 - o)``; ``tail`` gives
        ``s_v`` and the tail ``m + o``. Where less than :data:`UNINFORMED` is left, everything is tail. Where every
        student label is stored there is no tail, and the stored mass is scaled to 1.

        Args:
            probabilities: Mass on each native label, 0 where not listed; at most 1 in sum.
            listed: Which native labels the teacher spoke about; a listed 0 is a claim, an unlisted label is not.
            outside: What becomes of the mass on labels that the student does not have.
        """
        wide = probabilities.double()
        member = self._membership()
        mass, stored = wide @ member, (listed.double() @ member) > 0
        lost = wide @ (1 - member.sum(dim=1))
        missing = (1 - mass.sum(dim=1) - lost).clamp_min(0)
        tail = missing if outside == "condition" else missing + lost
        total = mass.sum(dim=1) + torch.where(stored.all(dim=1), 0, tail)
        uninformed = total < UNINFORMED
        stored = stored & ~uninformed.unsqueeze(1)
        scale = torch.where(uninformed, 1, total)
        tail = torch.where(stored.all(dim=1), 0, torch.where(uninformed, 1, tail / scale))
        return self._stored_first(mass / scale.unsqueeze(1), stored, tail)

    def _membership(self) -> Float[Tensor, "N V"]:
        """One where a native label means a student label; a row of an outside label is zero."""
        member = torch.zeros(len(self.native), len(self.student) + 1, dtype=torch.float64)
        place: Int[Tensor, " N"] = torch.tensor(self.index)
        member[torch.arange(len(self.index)), place] = 1  # -1 is the spare column
        return member[:, :-1]

    def _stored_first(self, mass: Float[Tensor, "B V"], stored: Bool[Tensor, "B V"], tail: Float[Tensor, " B"]) -> TopK:
        n_slots = max(int(stored.sum(dim=1).max()) if stored.numel() else 0, 1)
        order = torch.where(stored, mass, -1.0).sort(dim=1, descending=True, stable=True).indices[:, :n_slots]
        used = stored.gather(1, order)
        logprobs = torch.where(used, numerics.log_of(mass.gather(1, order)), numerics.LOG_ZERO).float()
        return TopK(
            ids=torch.where(used, order, -1).unsqueeze(1),
            logprobs=logprobs.unsqueeze(1),
            log_tail=numerics.log_of(tail).float().unsqueeze(1),
            n_entries=len(self.student),
        )


def _require_known(names: Iterable[str], known: Sequence[str], what: str, teacher_id: str) -> None:
    for name in names:
        if name not in known:
            raise VocabularyError(
                f"`{name}` is no {what}{did_you_mean(name, known)}",
                where=f"teachers.{teacher_id}.labels",
                why=f"there are {_first(known)}",
                help="write `labels: {teacher label: student label}`",
            )


def _first(labels: Sequence[str]) -> str:
    shown = ", ".join(f'"{label}"' for label in labels[:N_SHOWN])
    return f"{shown} and {len(labels) - N_SHOWN} more" if len(labels) > N_SHOWN else shown
