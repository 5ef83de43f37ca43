"""Softenings with one fault: ``[*batch V]`` log-probabilities and a temperature become log-probabilities."""

from collections.abc import Callable, Sequence

import torch
from audit.specimens import Mutant

Softening = Callable[..., torch.Tensor]

RANKING, CONTINUITY, ENTROPY = "softening.ranking", "softening.continuity", "softening.entropy"
IDENTITY, BOUNDARY = "softening.identity", "softening.boundary"


def power(log_p: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Sound: ``p^(1/T)`` divided by its sum; zeros stay zero."""
    powers = (log_p / temperature).masked_fill(log_p <= -745, -torch.inf)
    return torch.log_softmax(powers, dim=-1).clamp_min(-1e4)


def swapped(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Above a temperature of 3 the first two entries change places."""
    q = power(log_p, temperature)
    return torch.cat([q[..., 1:2], q[..., :1], q[..., 2:]], dim=-1) if temperature > 3 else q


def bent_over(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Probabilities above a half fold back, gradually as T leaves 1."""
    p = log_p.exp()
    folded = torch.where(p > 0.5, (p - 3 * (1 - 1 / max(temperature, 1.0)) * (p - 0.5)).clamp_min(0.02), p)
    return power((folded / folded.sum(dim=-1, keepdim=True)).clamp_min(1e-300).log(), temperature)


def over_entries_of_others(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Adds a slope over the entries, by place, which grows with T."""
    slope = torch.linspace(0, 1, log_p.shape[-1], dtype=log_p.dtype)
    return power(log_p + (1 - 1 / temperature) * slope.where(log_p > -745, torch.zeros_like(slope)), temperature)


def other_family(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """A power up to T = 2, a mixture with uniform from there on."""
    if temperature < 2:
        return power(log_p, temperature)
    return (log_p.exp() / temperature + (1 - 1 / temperature) / log_p.shape[-1]).log()


def thin_jump(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    return power(log_p, temperature * 1.05 if 1.5 < temperature < 1.52 else temperature)


def cut_off(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """What is below a hundredth is taken for 0, unless T = 1."""
    return power(log_p if temperature == 1 else torch.where(log_p < -4.6, -1e4, log_p), temperature)


def top_two(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Only the two largest are softened; which those are jumps at ties."""
    least = log_p.topk(min(2, log_p.shape[-1]), dim=-1).values[..., -1:]
    tempered = torch.where(log_p >= least, log_p / temperature, log_p).masked_fill(log_p <= -745, -torch.inf)
    return torch.log_softmax(tempered, dim=-1).clamp_min(-1e4)


def entropy_dip(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """The temperature that is used falls a little between 2 and 3."""
    dip = 0.6 * max(0.0, 0.5 - abs(temperature - 2.5)) * 4
    return power(log_p, temperature - dip)


def inverted(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """``p^T`` for ``p^(1/T)``."""
    return power(log_p, 1 / temperature)


def not_the_identity(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    return power(log_p, temperature + 0.01)


def smoothed(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """A thousandth of uniform is mixed in, at T = 1, too."""
    return (0.999 * power(log_p, temperature).exp() + 0.001 / log_p.shape[-1]).log()


def capped(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    return power(log_p, min(temperature, 5.0))


def to_the_first(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """A mixture with the first entry where uniform is right."""
    first = torch.zeros_like(log_p)
    first[..., 0] = 1
    return (log_p.exp() / temperature + (1 - 1 / temperature) * first).clamp_min(1e-300).log()


def not_divided(log_p: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Divided by the sum of the probabilities that came in, which is 1."""
    return log_p / temperature


SKEWED = (0.7, 0.25, 0.05)


def of(soften: Softening, p: Sequence[float], temperature: float) -> torch.Tensor:
    log_p = torch.tensor([list(p)], dtype=torch.float64).log().clamp_min(-1e4)
    return soften(log_p, temperature=temperature)[0].exp()


def turns(first: int, second: int, p: Sequence[float], temperature: float) -> Callable[[Softening], float]:
    """How far the less probable entry is above the more probable one."""
    return lambda soften: float(of(soften, p, temperature)[second] - of(soften, p, temperature)[first])


def jumps_in_temperature(temperature: float) -> Callable[[Softening], float]:
    return lambda soften: (
        float((of(soften, SKEWED, temperature - 1e-9) - of(soften, SKEWED, temperature + 1e-9)).abs().max()) - 1e-6
    )


def jumps_in_p(
    before: Sequence[float], after: Sequence[float], temperature: float = 2.0
) -> Callable[[Softening], float]:
    return lambda soften: float((of(soften, before, temperature) - of(soften, after, temperature)).abs().max()) - 1e-5


def loses_entropy(low: float, high: float) -> Callable[[Softening], float]:
    return lambda soften: float(
        torch.special.entr(of(soften, SKEWED, low)).sum() - torch.special.entr(of(soften, SKEWED, high)).sum()
    )


def changes(soften: Softening) -> float:
    return float((of(soften, SKEWED, 1.0) - torch.tensor(SKEWED, dtype=torch.float64)).abs().max())


def limit_off(soften: Softening) -> float:
    return float((of(soften, SKEWED, 1e7) - 1 / 3).abs().max()) - 1e-3


def mutant(name: str, soften: Softening, breaks: tuple[str, ...], shows: Callable[[Softening], float]) -> Mutant:
    return Mutant(f"softening: {name}", lambda: soften, breaks, shows, kind="softening")


SOFTENING = [
    mutant("two entries change places", swapped, (RANKING, CONTINUITY, BOUNDARY), turns(0, 1, SKEWED, 4.0)),
    mutant("large probabilities fold back", bent_over, (RANKING, ENTROPY), turns(0, 1, (0.7, 0.3), 20.0)),
    mutant("a slope over the entries", over_entries_of_others, (RANKING, ENTROPY), turns(0, 1, (0.501, 0.499), 2.0)),
    mutant("another family from 2 on", other_family, (CONTINUITY, ENTROPY), jumps_in_temperature(2.0)),
    mutant("a jump between 1.5 and 1.52", thin_jump, (CONTINUITY, ENTROPY), jumps_in_temperature(1.5)),
    mutant(
        "a hundredth taken for 0",
        cut_off,
        (CONTINUITY, ENTROPY, BOUNDARY),
        jumps_in_p((0.7, 0.29 + 1e-4, 0.01 - 1e-4), (0.7, 0.29 - 1e-4, 0.01 + 1e-4)),
    ),
    mutant(
        "only the two largest are softened",
        top_two,
        (CONTINUITY, RANKING, ENTROPY, BOUNDARY),
        jumps_in_p((0.5, 0.25 + 1e-9, 0.25 - 1e-9), (0.5, 0.25 - 1e-9, 0.25 + 1e-9)),
    ),
    mutant("entropy dips between 2 and 3", entropy_dip, (ENTROPY,), loses_entropy(2.0, 2.5)),
    mutant("power turned round", inverted, (ENTROPY, BOUNDARY), loses_entropy(1.0, 2.0)),
    mutant("T = 1 softens a little", not_the_identity, (IDENTITY,), changes),
    mutant("a thousandth of uniform always", smoothed, (IDENTITY, CONTINUITY), changes),
    mutant("temperature stops at 5", capped, (BOUNDARY,), limit_off),
    mutant("limit is the first entry", to_the_first, (BOUNDARY, RANKING, ENTROPY), limit_off),
]
