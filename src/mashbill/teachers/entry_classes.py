"""Classes of the student's entries, and the mass that a distribution has on each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import listed_class_mass, mass_by_class
from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Int, Tensor
from mashbill.teachers.protocol import Scored


@dataclass(frozen=True)
class EntryClasses:
    """Named classes that share no entry; the axis ``C`` of class masses is in the order of the names here.

    Attributes:
        members: Entries of each class.
        n_entries: ``V``.

    >>> classes = EntryClasses({"digits": (3, 4)}, n_entries=6)
    >>> classes.mass(Dense.from_probs(torch.tensor([0.1, 0.1, 0.1, 0.3, 0.2, 0.2]))).round(decimals=3).tolist()
    [0.5]
    """

    members: Mapping[str, tuple[int, ...]]
    n_entries: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in the order of the axis."""
        return tuple(self.members)

    @property
    def pins(self) -> Mapping[str, str]:
        """What a teacher's identity says of them; nothing if there are none."""
        each = (f"{name} {hashlib.sha256(repr(ids).encode()).hexdigest()[:16]}" for name, ids in self.members.items())
        return {"classes": ", ".join(each)} if self.members else {}

    def mass(self, distribution: Dense | TopK) -> Float[Tensor, "*batch C"]:
        """Return the probability of each class: exact of a whole distribution, of a list that of its entries alone.

        What a list leaves to its tail may lie in any class, so its figures are the least that they can be.
        """
        if not self.members:
            return distribution.logprobs.new_zeros(*distribution.logprobs.shape[:-1], 0)
        ids = self._ids.to(distribution.logprobs.device)
        if isinstance(distribution, Dense):
            return mass_by_class(numerics.widen(distribution.logprobs).exp(), ids, len(self.members))
        return listed_class_mass(distribution, ids, len(self.members))

    def measured(self, scored: Scored) -> Scored:
        """Return an answer that nothing was cut from, with the mass of each class in its statistics."""
        return replace(scored, statistics=replace(scored.statistics, class_mass=self.mass(scored.distribution)))

    @cached_property
    def _ids(self) -> Int[Tensor, " V"]:
        found = torch.full((self.n_entries,), -1, dtype=torch.long)
        for number, ids in enumerate(self.members.values()):
            found[list(ids)] = number
        return found


NO_CLASSES = EntryClasses({}, 0)
"""What teachers measure unless they are told."""
