"""Teachers at a few positions, read once: their statistics, and their probabilities for the mixture, in place.

What a rule wants to know and what the mixture adds up come from the same exponentials. Kept in a buffer a teacher, they
are there when the weights are known; the statistics cost a few passes without exponentials.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.distributions.statistics import Statistics, mass_by_class
from mashbill.distributions.topk import TopK
from mashbill.losses import mixture, native_rows
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Float, Int, Tensor

_BLOCK = 256
# Entries of which the largest is looked for first: the two largest of all are then among few.


@dataclass(frozen=True)
class Reader:
    """What reads distributions at ``R`` positions.

    Attributes:
        weighing: What is measured.
        labels: ``-100`` means none.
        temperature: ``T`` of the probabilities to keep; statistics are at 1.
        work: Two buffers, overwritten.
    """

    weighing: Weighing
    labels: Int[Tensor, " R"] | None
    temperature: float
    work: Float[Tensor, "two R V"]

    def teachers(
        self, each: Iterable[Dense | Logits | TopK], *, kept: Float[Tensor, "D R V"]
    ) -> tuple[Statistics, dict[int, mixture.Softened]]:
        """Return the statistics of all teachers, ``[K R]``, and, by number, what was kept of dense ones.

        ``kept`` has a buffer for each of those, or none: then nothing is kept.
        """
        lists, places, numbers, parts, softened = {}, [], [], [], {}
        is_shared = len(kept) > 0 and self.temperature == 1  # What is measured is what is kept.
        for k, one in enumerate(each):
            if isinstance(one, TopK):
                lists[k] = one
                continue
            p = kept[len(places)] if is_shared else self.work[1]
            numbers.append(self._read(one, out=p))
            if not is_shared:
                parts.append(self._statistics(p.unsqueeze(0), numbers[-1:])[0])
                if len(kept) > 0:
                    softened[k] = mixture.soften(one, temperature=self.temperature, work=kept[len(places)])
            places.append(k)
        if is_shared and places:
            # Of all teachers at once: small operations cost by the call.
            found, total = self._statistics(kept, numbers)
            parts.append(found)
            softened = {k: mixture.Softened(*one) for k, *one in zip(places, kept, total.unsqueeze(-1), strict=True)}
        if lists:
            parts.append(self.weighing.measure_all(list(lists.values()), self.labels).to(self.work.dtype))
        return _in_order(parts, [*places, *lists]), softened

    def student(self, logits: Float[Tensor, "R V"]) -> Statistics:
        """Return the statistics of the student, ``[R]``."""
        p = self.work[1]
        return self._statistics(p.unsqueeze(0), [self._read(Logits(logits), out=p)])[0].rows(torch.tensor(0))

    def _read(self, teacher: Dense | Logits, *, out: Float[Tensor, "R V"]) -> tuple[Tensor, Tensor | None]:
        """Fill ``out`` with probabilities up to a factor a row.

        Returns:
            The sum of each times its score less the largest, and the label's score less the largest.
        """
        values, shifted = native_rows.values_of(teacher), self.work[0]
        peak = values.amax(dim=-1, keepdim=True).to(shifted.dtype)
        # Shifted before anything is rounded: the log-sum-exp of large logits would swallow the digits that matter.
        if values.dtype == shifted.dtype:
            torch.sub(values, peak, out=shifted)
        else:
            shifted.copy_(values).sub_(peak)
        label = None
        if self.labels is not None:
            label = shifted.gather(-1, self.labels.clamp_min(0).long().unsqueeze(-1)).squeeze(-1)
        torch.softmax(shifted, dim=-1, out=out)
        terms = shifted.mul_(out)
        mean = terms.sum(dim=-1)
        if bool(mean.isnan().any()):  # Entries without mass: 0 times -inf is to be 0.
            mean = terms.nan_to_num_(nan=0.0).sum(dim=-1)
        return mean, label

    def _statistics(
        self, p: Float[Tensor, "D R V"], numbers: Sequence[tuple[Tensor, Tensor | None]]
    ) -> tuple[Statistics, Float[Tensor, "D R"]]:
        """Return statistics from what was read, and the sums of the probabilities."""
        total = p.sum(dim=-1)
        first, second = _two_largest(p) if self.weighing.reads("margin") else (p.amax(dim=-1), None)
        # The largest entry's probability is 1 over the normaliser; the fast exponential errs alike in all of them.
        top = first / total
        max_logprob = top.log()
        entropy = (-max_logprob - torch.stack([mean for mean, _ in numbers]) / total).clamp_min(0)
        unread = torch.full_like(top, torch.nan)
        gini = unread
        if self.weighing.reads("gini"):
            gini = (1 - (torch.linalg.vector_norm(p, dim=-1) / total).square()).clamp(0, 1)
        label_logprob = unread
        if self.labels is not None:
            label = torch.stack([label for _, label in numbers if label is not None]) + max_logprob
            label_logprob = torch.where(self.labels >= 0, label.clamp_min(numerics.LOG_ZERO), torch.nan)
        class_mass = top.new_zeros(*top.shape, self.weighing.n_classes)
        if self.weighing.classes is not None and self.weighing.n_classes > 0:
            class_mass = mass_by_class(p, self.weighing.classes, self.weighing.n_classes) / total.unsqueeze(-1)
        margin = unread if second is None else top - second / total
        return Statistics(entropy, entropy, gini, margin, max_logprob, label_logprob, class_mass), total


def _two_largest(p: Float[Tensor, "D R V"]) -> tuple[Float[Tensor, "D R"], Float[Tensor, "D R"]]:
    """Return the two largest entries of each row; beside only one, 0."""
    n_entries = p.shape[-1]
    n_blocks, few = n_entries // _BLOCK, p
    if n_blocks > 2:
        blocks = p[..., : n_blocks * _BLOCK].unflatten(-1, (n_blocks, _BLOCK))
        peaks = blocks.amax(dim=-1)
        best = peaks.argmax(dim=-1, keepdim=True)
        inside = blocks.gather(-2, best.unsqueeze(-1).expand(*best.shape, _BLOCK)).squeeze(-2)
        few = torch.cat([inside, peaks.scatter(-1, best, 0), p[..., n_blocks * _BLOCK :]], dim=-1)
    top = few.topk(min(2, n_entries), dim=-1).values
    return top[..., 0], top[..., 1] if n_entries > 1 else torch.zeros_like(top[..., 0])


def _in_order(parts: Sequence[Statistics], places: Sequence[int]) -> Statistics:
    """Put statistics together along the first axis, each teacher in its place."""
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor(places).argsort()
    whole = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Statistics)}
    return Statistics(**whole).rows(order.to(whole["entropy"].device))
