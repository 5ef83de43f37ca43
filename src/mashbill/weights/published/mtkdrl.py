"""MTKD-RL: an agent weighs the teachers by what they say, how well they say it, and how far the student is."""

from typing import ClassVar, Literal

import torch
from torch import nn

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence, Observation
from mashbill.weights.published.camkd import log_complement_softmax
from mashbill.weights.published.descent import Momentum, linear, require_sizes, require_teachers
from mashbill.weights.published.rows import mean_of_entries, mean_over_positions
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise

LOWEST_LOGPROB = -30.0
"""A log-probability enters the agent's state no lower than this, a loss or divergence no higher than its opposite."""


def released_weights(
    head: Float[Tensor, "K *batch"],
    cross_entropy: Float[Tensor, "K *batch"],
    divergence: Float[Tensor, "K *batch"],
    *,
    factors: Float[Tensor, " 3"] | None = None,
) -> Float[Tensor, "K *batch"]:
    """``(softmax(head) + (1 - softmax(CE))/(K-1) + softmax(divergence)) / 3``; sums to 1, the released coefficient.

    Args:
        head: The agent's scores.
        cross_entropy: Each teacher's loss on the label, in nats.
        divergence: ``T^2 KL(p_k^(1/T) || p_S^(1/T))`` in nats; the *further* teacher gets more.
        factors: With the release's ``--dynamic``, scores whose softmax replaces the thirds.

    >>> zeros = torch.zeros(3, dtype=torch.float64)
    >>> released_weights(zeros, zeros, torch.tensor([1e3, 0.0, 0.0]).double()).round(decimals=4).tolist()
    [0.5556, 0.2222, 0.2222]
    """
    head, cross_entropy, divergence = (numerics.widen(x) for x in (head, cross_entropy, divergence))
    return _log_mix(head, cross_entropy, divergence, factors).exp()


def released_reward(
    cross_entropy: Float[Tensor, " B"], weights: Float[Tensor, "K B"], divergence: Float[Tensor, "K B"]
) -> Float[Tensor, " B"]:
    """``clip((r - mean r) / std r, 0, 1)`` over the rows, ``r = -(CE_S + sum_k w_k divergence_k)``; no feature term.

    Args:
        cross_entropy: The student's loss on the label, in nats.
        weights: The weights that were used.
        divergence: As for the weights.

    Returns:
        0 throughout, instead of the release's NaN, for fewer than two rows or rows that all do alike.
    """
    return _standardised(-(numerics.widen(cross_entropy) + (weights * divergence).sum(dim=0)))


def released_agent_loss(weights: Float[Tensor, "K B"], reward: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """``mean_{k,b} -r_b log w_kb``: binary cross-entropy of every weight with the label 1, weighted by the reward.

    The action taken does not occur in it. Over the simplex a row with ``r > 0`` has its minimum at ``w = 1/K``; over
    what the agent can reach, where it spreads its third so that the whole is as even as can be (water filling).
    """
    # The floor is where the release has it; below the least normal number the slope would be infinite.
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log().clamp_min(-100)
    return -(reward * logs).sum() / max(logs.numel(), 1)


class MTKDRL(nn.Module):
    """``w = (softmax(agent(state)) + (1 - softmax(CE))/(K-1) + softmax(D)) / 3`` for each row.

    ``state`` holds, teacher by teacher, ``D_k = T^2 KL(p_k^(1/T) || p_S^(1/T))``, the teacher's loss on the label, and
    its log-probabilities; means over the row's counted positions. ``agent`` is one hidden layer. ``dynamic`` learns the
    three shares as well.

    ``observe`` trains the agent, by ``learns``:

    * ``"released"``: :func:`released_agent_loss`. It pulls all weights towards ``1/K``, harder in rows that do well.
    * ``"agreement"``: up the gradient of ``sum_k w_k R_k`` with ``R_k = -D_k``, what the released reward says of a
      teacher by itself. Drawing one teacher from ``w``, this is REINFORCE with its expectation taken exactly: every
      teacher's reward is known, so nothing need be drawn.
    * ``"gain"``: the same with ``R_k = <p_S - p_k, p_S - onehot(y)>``, by how much a unit step towards the teacher
      lowers the student's own loss on the label, to first order. Rows without label teach nothing.

    Range ``[0, (2 + 1/(K-1))/3]``, with ``dynamic`` ``[0, 1]``: no lower bound. The weights follow the student.

    Breaks *bounded*: scores (0, 99, 99), losses (99, 0, 0) and divergences (0, 99, 99) give the first teacher 7e-44.
    Breaks *ordered*. A larger distance from the student raises a weight. Keeps normalised, positive and continuous.

    Attributes:
        stem: ``[128, K (V + 2)]``, no bias.
        head: To one score a teacher.
        factors: Scores of the three shares, if ``dynamic``.
        optimiser: Plain gradient descent.

    Raises:
        ValueError: A size is below 1 or an option out of range; in a call, there are other teachers or entries.

    Source:
        Yang et al., *Multi-Teacher Knowledge Distillation with Reinforcement Learning for Visual Recognition*, AAAI
        2025 (arXiv 2502.18510); repository winycg/MTKD-RL, read in the copy kaiYinTAMU/MTKD-RL,
        ``models/policy.py``, ``PolicyTrans``, and ``train_loops.py``, ``get_agent_state`` and ``train_agent``. The
        paper speaks of a policy gradient; the released loss has none. Ours knows logits up to a constant only
        and has no student loss on the label at hand in ``observe``: its released reward is the divergence part. Not
        covered: embeddings and feature weights; a first epoch in which all released coefficients are 1, not 1/K; the
        agent learns at each step, not from stored batches.

    >>> round(MTKDRL(3, 10).declared(3).highest, 4)
    0.8333
    """

    scale: ClassVar[Literal["task"]] = "task"

    def __init__(
        self,
        n_teachers: int,
        n_entries: int,
        *,
        dynamic: bool = False,
        learns: str = "released",
        temperature: Number = 4.0,
        learning_rate: Number = 0.1,
        n_hidden: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_sizes(n_teachers=n_teachers, n_entries=n_entries, n_hidden=n_hidden)
        if learns not in ("released", "agreement", "gain"):
            raise ValueError(f"learns={learns!r} must be 'released', 'agreement' or 'gain'")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r} must be finite and positive")
        generator = torch.Generator().manual_seed(seed)
        self.n_teachers, self.n_entries = n_teachers, n_entries
        self.learns, self.temperature = learns, float(temperature)
        self.stem = linear(n_teachers * (n_entries + 2), n_hidden, generator=generator, bias=False)
        self.head = linear(n_hidden, n_teachers, generator=generator)
        self.factors = nn.Parameter(torch.ones(3)) if dynamic else None
        self.optimiser = Momentum(self.parameters(), learning_rate=learning_rate)

    @property
    def needs(self) -> frozenset[str]:
        """Both sides' answers, the labels, and for ``"gain"`` the gradients' inner products."""
        needs = {"logprobs", "student_logprobs", "label_logprob"}
        return frozenset(needs | ({"gram"} if self.learns == "gain" else set()))

    def forward(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        return self._log_weights(evidence, self._divergence(evidence)).unsqueeze(-1)

    def observe(self, observation: Observation, /) -> None:
        """Take one step of gradient descent on :meth:`objective`."""
        learned = list(self.parameters())
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.objective(observation.evidence), learned)
        self.optimiser.step(learned, gradients)

    def objective(self, evidence: Evidence) -> Float[Tensor, ""]:
        """Return what ``observe`` lowers: the released loss, or minus the rows' mean expected reward."""
        divergence = self._divergence(evidence)
        weights = self._log_weights(evidence, divergence).exp()
        counts = evidence.mask.any(dim=-1)
        if self.learns == "released":
            used = weights.detach()[:, counts]
            reward = _standardised(-(used * divergence[:, counts]).sum(dim=0))
            return released_agent_loss(weights[:, counts], reward)
        rewards = -divergence if self.learns == "agreement" else _gain(evidence).to(weights)
        return -((weights * rewards).sum(dim=0) * counts).sum() / counts.sum().clamp_min(1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every state that training may reach."""
        source = "a convex mix of softmax, complement of softmax over K - 1, and softmax"
        high = 1.0 if self.factors is not None or n_teachers <= 2 else (2 + 1 / (n_teachers - 1)) / 3
        low = 0.0 if n_teachers > 1 else 1.0
        return Declared(low, high, None, "teachers' and student's log-probabilities, sup", source, reads_student=True)

    def _log_weights(self, evidence: Evidence, divergence: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        logprobs = numerics.widen(evidence.given("logprobs"))
        require_teachers(self.n_teachers, evidence.n_teachers)
        if logprobs.shape[-1] != self.n_entries:
            raise ValueError(
                f"n_entries={self.n_entries} is what the rule was made for, but the teachers speak of "
                f"{logprobs.shape[-1]}; set n_entries={logprobs.shape[-1]} and train it anew"
            )
        losses = mean_over_positions(-evidence.statistics.label_logprob, evidence.mask).to(logprobs)
        said = mean_of_entries(logprobs.clamp_min(LOWEST_LOGPROB), evidence.mask)
        numbers = torch.stack([divergence, losses], dim=-1).clamp_max(-LOWEST_LOGPROB)
        state = torch.cat([numbers, said], dim=-1).movedim(0, 1).flatten(1)
        hidden = nn.functional.linear(state, self.stem.weight.to(state)).relu()
        scores = nn.functional.linear(hidden, self.head.weight.to(state), self.head.bias.to(state)).T
        return _log_mix(scores, losses, divergence, self.factors)

    def _divergence(self, evidence: Evidence) -> Float[Tensor, "K B"]:
        teacher = (numerics.widen(evidence.given("logprobs")) / self.temperature).log_softmax(dim=-1)
        student = (numerics.widen(evidence.given("student_logprobs")) / self.temperature).log_softmax(dim=-1)
        each = (teacher.exp() * (teacher - student.to(teacher))).sum(dim=-1).clamp_min(0)
        return self.temperature**2 * mean_over_positions(each, evidence.mask)


def _log_mix(
    head: Float[Tensor, "K *batch"],
    cross_entropy: Float[Tensor, "K *batch"],
    divergence: Float[Tensor, "K *batch"],
    factors: Float[Tensor, " 3"] | None,
) -> Float[Tensor, "K *batch"]:
    parts = [head.log_softmax(dim=0), log_complement_softmax(cross_entropy), divergence.log_softmax(dim=0)]
    shares = head.new_zeros(3) if factors is None else factors.to(head)
    return log_normalise(
        torch.stack([part + share for part, share in zip(parts, shares.log_softmax(dim=0), strict=True)]).logsumexp(0),
        dim=0,
    )


def _standardised(reward: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    spread = reward.std() if len(reward) > 1 else reward.new_zeros(())
    return torch.where(spread > 0, (reward - reward.mean()) / spread.clamp_min(1e-30), 0).clamp(0, 1)


def _gain(evidence: Evidence) -> Float[Tensor, "K B"]:
    """``<p_S - p_k, p_S - onehot(y)>``, mean over the row's counted positions."""
    towards = evidence.given("gram")[:, :-1, -1].T
    return towards / evidence.mask.sum(dim=-1).clamp_min(1).to(towards)
