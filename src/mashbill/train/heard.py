"""How much of each teacher a run hears: where it is silent, what it cannot say, and what softening leaves open.

Everything is counted from the answers that are kept, so it is the same for a teacher that is asked and for a store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mashbill import numerics
from mashbill.distributions.completions import empirical_error
from mashbill.distributions.interval import softened_tail_interval
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.errors import MashbillError, VocabularyError
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.aligned import UNSHARED, mapped_mass
from mashbill.teachers.endpoint.rounding import BFLOAT16, FLOAT32
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.samples import CERTAINTY, SampledTeacher
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.train import recipe
from mashbill.train.check_teaching import WAYS_OUT, not_identifiable
from mashbill.train.corpus import Corpus
from mashbill.train.targets import STATISTICS, Targets
from mashbill.weights.evidence import WeightOperator, needs_of

_AT_ONCE = 2**20
# Stored entries that are looked at together.
_ROUNDED = ("endpoint", "vllm")
# Kinds of teachers whose tail is what the numbers of a list lack of 1.


@dataclass(frozen=True)
class Heard:
    """What is heard of a teacher over a set of rows; None where it does not apply.

    Attributes:
        n_positions: Positions that count.
        answered: Share of them where the teacher says anything.
        kept: Mean mass of the entries that are kept, where it does.
        mapped: Mean mass on tokens that the student shares, there; for a teacher with another tokenizer.
        samples: Mean number of samples, there; for a teacher that is known by text alone.
        single: Share of those positions that have one sample, where its answer takes all mass.
        error: Mean of the bounds on the expected l1 distance between samples and teacher, there; at most 2.
        tail: Ends of the mean mass that the tail can have at the divergence's temperature, if that is not 1.
    """

    n_positions: int
    answered: float
    kept: float
    mapped: float | None = None
    samples: float | None = None
    single: float | None = None
    error: float | None = None
    tail: tuple[float, float] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def hear(spec: recipe.Teacher, teacher: Teacher, targets: Targets, corpus: Corpus, *, temperature: float) -> Heard:
    """Look at all answers of a teacher to a set of rows.

    Raises:
        MashbillError: The lists have a tail, the temperature is not 1, and the recipe does not say to bound it.
        VocabularyError: A teacher with another tokenizer says too little in the student's.
    """
    identity = teacher.identity()
    found = _listed(targets, identity, temperature=temperature, error=_error(teacher))
    if isinstance(teacher, SampledTeacher):
        found = Heard(**{**asdict(found), **_sampled(teacher, corpus), "tail": None})
    elif found.tail is not None and spec.at_temperature == "refuse":
        raise MashbillError(
            not_identifiable(teacher.id, temperature),
            where=f"teachers.{teacher.id}.at_temperature",
            why=f"it may be anything from {found.tail[0]:.3f} to {found.tail[1]:.3f} on average",
            help=WAYS_OUT,
        )
    if found.mapped is not None:
        _require_enough(spec, found, teacher.id)
    return found


def require_known_certainty(operator: WeightOperator, teachers: Sequence[recipe.Teacher]) -> None:
    """Refuse rules that weigh teachers by how sure they are, if somebody's certainty is not known.

    Raises:
        MashbillError: Names the rule's evidence and the teacher.
    """
    read = sorted(needs_of(operator) & CERTAINTY)
    silent = [teacher.id for teacher in teachers if teacher.samples is not None]
    if read and silent:
        raise MashbillError(
            f"the weights read how sure teachers are ({', '.join(read)}), and teacher `{silent[0]}` is text alone",
            where="weighting",
            why="a few samples look surer than whoever gave them; a single one looks certain",
            help="weigh by measured skill (`performance`) or by fixed weights (`static`), or measure variances and "
            "give them to `inverse_variance` with `source: supplied`",
        )


def _listed(targets: Targets, identity: Mapping[str, str], *, temperature: float, error: float) -> Heard:
    """Sum over the kept answers; the first is the one of nobody."""
    tensors = targets.tensors
    n = len(tensors["logprobs"]) - 1
    if "ids" not in tensors or n == 0:
        return Heard(n, 1.0, 1.0)
    unshared = int(identity[UNSHARED]) if UNSHARED in identity else None
    # Only of a whole distribution that was cut is it known that nothing outside is larger than what was kept.
    is_top = identity.get("kind") == "causal_lm" and unshared is None
    sums = torch.zeros(6, dtype=torch.float64)
    for chunk in torch.arange(1, n + 1).split(max(1, _AT_ONCE // max(1, tensors["ids"].shape[1]))):
        taken = {name: tensor[chunk[0] : chunk[-1] + 1] for name, tensor in tensors.items()}
        topk = TopK(taken["ids"].long(), taken["logprobs"], taken["log_tail"], targets.n_entries)
        told = (topk.ids >= 0).any(dim=-1)
        part = [told.sum(), _kept(topk)[told].sum()]
        mapped = torch.zeros(())
        if unshared is not None:
            statistics = Statistics(**{name: taken[name] for name in STATISTICS})
            mapped = mapped_mass(statistics, unshared=unshared)[told].sum()
        is_rounded = identity.get("kind") in _ROUNDED
        low, high = tail_ends(topk, temperature, is_top=is_top, is_rounded=is_rounded, error=error)
        has_tail = told & (topk.log_tail > numerics.LOG_ZERO) & (topk.n_used < topk.n_entries)
        part += [mapped, low[told].sum(), high[told].sum(), has_tail.sum()]
        sums += torch.stack([one.double() for one in part])
    n_told = int(sums[0])
    mean = [value / max(1, n_told) for value in sums.tolist()]
    is_open = temperature != 1 and sums[5] > 0
    return Heard(
        n,
        answered=n_told / n,
        kept=mean[1],
        mapped=None if unshared is None else mean[2],
        tail=(mean[3], mean[4]) if is_open else None,
    )


def _kept(topk: TopK) -> Float[Tensor, " A"]:
    return topk.logprobs.double().masked_fill(topk.ids < 0, -torch.inf).exp().sum(dim=-1)


def _error(teacher: Teacher) -> float:
    """Return how far the numbers of a list may be off, in nats."""
    plans = teacher.plans.values() if isinstance(teacher, StoredTeacher) else ()
    return max((plan.layout.error_bound for plan in plans), default=0.0)


def tail_ends(
    topk: TopK, temperature: float, *, is_top: bool, is_rounded: bool, error: float = 0.0
) -> tuple[Float[Tensor, " *A"], Float[Tensor, " *A"]]:
    """Return the least and the largest mass of tails at a temperature.

    Args:
        topk: The lists.
        temperature: Of the divergence.
        is_top: Nothing outside is larger than what was kept.
        is_rounded: Tails are what numbers lack of 1 that an engine has rounded, to 16 bits at worst.
        error: Nats by which the numbers of a list may be off, for it was stored in few bits.
    """
    if not is_rounded or temperature == 1:
        return _tails(topk, temperature, is_top=is_top, error=error)
    logprobs = topk.logprobs.double()
    off = (logprobs.exp() * (FLOAT32 - BFLOAT16 * logprobs)).masked_fill(topk.ids < 0, 0).sum(dim=-1)
    tail = topk.log_tail.double().exp()
    ends = [numerics.log_of(one).to(topk.log_tail.dtype) for one in ((tail - off).clamp_min(0), tail + off)]
    least, most = (TopK(topk.ids, topk.logprobs, one, topk.n_entries) for one in ends)
    low, _ = _tails(least, temperature, is_top=is_top, error=error)
    _, high = _tails(most, temperature, is_top=is_top, error=error)
    return low, high


def _tails(
    topk: TopK, temperature: float, *, is_top: bool, error: float
) -> tuple[Float[Tensor, " *A"], Float[Tensor, " *A"]]:
    if temperature == 1:
        return topk.log_tail.exp(), topk.log_tail.exp()
    low, high = softened_tail_interval(topk, temperature=temperature, is_top=False, error=error)
    if is_top:
        # Elsewhere entries were kept beside the largest, and nothing bounds the others.
        fits = _has_room(topk)
        top = TopK(topk.ids[fits], topk.logprobs[fits], topk.log_tail[fits], topk.n_entries)
        low[fits], high[fits] = softened_tail_interval(top, temperature=temperature, is_top=True, error=error)
    return low, high


def _has_room(topk: TopK) -> Bool[Tensor, " A"]:
    """Say where the tail fits into entries no larger than the least that is kept, up to rounding."""
    least = topk.logprobs.masked_fill(topk.ids < 0, 0).amin(dim=-1)
    n_unstored = (topk.n_entries - topk.n_used).clamp_min(1).to(least.dtype)
    return topk.log_tail <= least + n_unstored.log() + 5e-4


def _sampled(teacher: SampledTeacher, corpus: Corpus) -> dict[str, float]:
    counts: list[Int[Tensor, " P"]] = []
    for index in torch.arange(len(corpus)).split(256):
        inputs = corpus.inputs(index)
        counts.append(teacher.n_samples(inputs)[inputs.mask])
    n = torch.cat(counts)
    told = n[n > 0]
    if not len(told):
        return {"answered": 0.0, "samples": 0.0, "single": 0.0, "error": 2.0}
    smoothing = teacher.smoothing
    errors = {k: empirical_error(teacher.n_entries, n_samples=k, smoothing=smoothing) for k in set(told.tolist())}
    return {
        "answered": len(told) / len(n),
        "samples": float(told.double().mean()),
        "single": float((told == 1).double().mean()),
        "error": sum(errors[k] for k in told.tolist()) / len(told),
    }


def _require_enough(spec: recipe.Teacher, found: Heard, teacher_id: str) -> None:
    least, mapped = spec.align or recipe.Align(), found.mapped or 0.0
    if found.answered >= least.min_positions and mapped >= least.min_mapped:
        return
    raise VocabularyError(
        f"teacher `{teacher_id}` says too little in the student's tokens: it answers at {found.answered:.1%} of "
        f"{found.n_positions:,} positions, and there {mapped:.1%} of its mass is on tokens that both have",
        where=f"teachers.{teacher_id}.align",
        why=f"the recipe asks for {least.min_positions:.0%} of positions (`min_positions`) and {least.min_mapped:.0%} "
        "of the mass (`min_mapped`)",
        help="use a teacher whose tokens are more like the student's, or ask for less where a part is worth having",
    )
