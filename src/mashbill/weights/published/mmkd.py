"""MMKD: a small network weighs the teachers, and learns from what its weights do to the student."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.func import functional_call

from mashbill import numerics
from mashbill.shapes import Bool, Float, Int, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.published.descent import Adam, linear, require_sizes, require_teachers
from mashbill.weights.published.rows import mean_of_entries
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise

LOWEST_LOGPROB = -30.0
"""A log-probability enters the network no lower than this, in nats; ``LOG_ZERO`` would drown all other inputs."""


def released_weights(
    logits: Float[Tensor, "K B V"],
    student_logits: Float[Tensor, "B V"],
    *,
    first: tuple[Float[Tensor, "H J"], Float[Tensor, " H"]],
    second: tuple[Float[Tensor, "K H"], Float[Tensor, " K"]],
) -> Float[Tensor, "K B"]:
    """``softmax_k(W2 relu(W1 [z_1; ...; z_K; z_S] + b1) + b2)``; sums to 1, and is the released coefficient as it is.

    Args:
        logits: The teachers', raw.
        student_logits: The student's, raw.
        first: ``W1`` and ``b1``, with ``J = (K + 1) V``.
        second: ``W2`` and ``b2``.
    """
    state = torch.cat([logits.movedim(0, 1).flatten(1), student_logits], dim=-1)
    hidden = nn.functional.linear(state, *first).relu()
    return nn.functional.linear(hidden, *second).softmax(dim=-1).T


@dataclass(frozen=True)
class MetaBatch:
    """Rows on which the network learns.

    Attributes:
        inputs: What the student is called with, ``student(*inputs) -> [B T V]`` logits.
        labels: ``-100`` where there is none; at least one position that counts has one.
        mask: Positions that count.
        logprobs: The teachers' log-probabilities, nats; may be left out of held-out rows.
    """

    inputs: tuple[Any, ...]
    labels: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    logprobs: Float[Tensor, "K B T V"] | None = None


class MMKD(nn.Module):
    """``w = softmax_k(W2 relu(W1 [teachers; student] + b1) + b2)``, a row's answers in, a row's weights out.

    Logits are known up to a constant only, so log-probabilities stand for them, at least :data:`LOWEST_LOGPROB`,
    averaged over the row's counted positions. ``W1`` has ``((K+1)V)^2 / factor`` entries: for classifiers, not for
    vocabularies, unless ``factor`` is large.

    The state changes in :meth:`hypergradient_step` alone, which the training loop calls every few steps (released:
    5) with the student; there is no ``observe``, for the weights' merit shows only in what the student becomes.

    Range ``(0, 1)``, no Lipschitz constant that training would not change. The weights follow the student's answer.

    Breaks *bounded*: scores (100, 0) give weights (1, 4e-44), and to no more than rounding *positive*. Breaks
    *ordered*. Keeps normalised and continuous.

    Attributes:
        first: ``W1``, ``b1``.
        second: ``W2``, ``b2``.
        optimiser: Adam; its moments are saved with the rule.

    Raises:
        ValueError: A size is below 1, or the hidden layer empty; in a call, there are other teachers or entries.

    Source:
        Zhang, Chen & Wang, *Adaptive Multi-Teacher Knowledge Distillation with Meta-Learning*, ICME 2023 (arXiv
        2306.06634); repository Rorozhl/MMKD, ``models/meta_util.py``, ``LogitsWeight``, and ``train_meta.py``.
        Not covered: ``FeatureWeight``, which weighs intermediate features by the batch's Gram matrices and so depends
        on the other rows; the buffer of hard rows, which is for the caller to keep and to pass.
    """

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "student_logprobs"})

    def __init__(
        self,
        n_teachers: int,
        n_entries: int,
        *,
        factor: int = 2,
        learning_rate: Number = 1e-3,
        weight_decay: Number = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_sizes(n_teachers=n_teachers, n_entries=n_entries, factor=factor)
        n_inputs = (n_teachers + 1) * n_entries
        if n_inputs < factor:
            raise ValueError(f"factor={factor!r} leaves no hidden unit of {n_inputs} inputs; lower it to {n_inputs}")
        generator = torch.Generator().manual_seed(seed)
        self.n_teachers, self.n_entries = n_teachers, n_entries
        self.first = linear(n_inputs, n_inputs // factor, generator=generator)
        self.second = linear(n_inputs // factor, n_teachers, generator=generator)
        self.optimiser = Adam(self._learned(), learning_rate=learning_rate, weight_decay=weight_decay)

    def forward(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        log_weights = self.log_weights(
            evidence.given("logprobs"), evidence.given("student_logprobs"), mask=evidence.mask
        )
        return log_weights.unsqueeze(-1)

    def log_weights(
        self,
        logprobs: Float[Tensor, "K B T V"],
        student_logprobs: Float[Tensor, "B T V"],
        *,
        mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "K B"]:
        """Return each row's log-weights, differentiable in the network."""
        n_teachers, *_, n_entries = logprobs.shape
        require_teachers(self.n_teachers, n_teachers)
        if n_entries != self.n_entries:
            raise ValueError(
                f"n_entries={self.n_entries} is what the rule was made for, but the teachers speak of {n_entries}; "
                f"set n_entries={n_entries} and train it anew"
            )
        each = mean_of_entries(logprobs.clamp_min(LOWEST_LOGPROB), mask)
        student = mean_of_entries(student_logprobs.clamp_min(LOWEST_LOGPROB), mask).to(each)
        state = torch.cat([each.movedim(0, 1).flatten(1), student], dim=-1)
        hidden = _apply(self.first, state).relu()
        return log_normalise(_apply(self.second, hidden).T, dim=0)

    def hypergradient_step(
        self,
        student: nn.Module,
        batch: MetaBatch,
        *,
        inner_learning_rate: Number,
        held_out: MetaBatch | None = None,
        n_inner: int = 2,
        temperature: Number = 4.0,
        weight_decay: Number = 0.0,
    ) -> Float[Tensor, ""]:
        """Take one step of the network down the gradient of the loss that the student *would* have.

        From the student's parameters ``theta``, on a copy: ``n_inner`` steps of gradient descent on the weighted
        distillation loss ``mean sum_k w_k T^2 KL(p_k^(T) || p_S^(T))``, one on the labels' cross-entropy, both on
        ``batch``; then the cross-entropy on ``held_out``. Its gradient by the network runs through all those steps.
        The student's answer *inside* the network is a constant, as released. The student itself is not touched.

        Args:
            student: Any module; its buffers (running means) are copied too.
            batch: Rows with the teachers' answers.
            inner_learning_rate: Of the unrolled steps: the student's own.
            held_out: Rows that the network answers for; None takes ``batch`` itself, as released.
            n_inner: Unrolled distillation steps.
            temperature: Of the distillation loss.
            weight_decay: Of the unrolled steps. Their momentum (released 0.9) is left out.

        Returns:
            The cross-entropy on the held-out rows, in nats, before the network moved.

        Raises:
            ValueError: ``batch`` has no ``logprobs``.
        """
        loss = self.outer_loss(
            student,
            batch,
            inner_learning_rate=inner_learning_rate,
            held_out=held_out,
            n_inner=n_inner,
            temperature=temperature,
            weight_decay=weight_decay,
        )
        learned = self._learned()
        self.optimiser.step(learned, torch.autograd.grad(loss, learned))
        return loss.detach()

    @torch.enable_grad()
    def outer_loss(
        self,
        student: nn.Module,
        batch: MetaBatch,
        *,
        inner_learning_rate: Number,
        held_out: MetaBatch | None = None,
        n_inner: int = 2,
        temperature: Number = 4.0,
        weight_decay: Number = 0.0,
    ) -> Float[Tensor, ""]:
        """Return the held-out loss after the unrolled steps, differentiable in the network; see above."""
        if batch.logprobs is None:
            raise ValueError("batch=MetaBatch(logprobs=None) has no teachers' answers; give their log-probabilities")
        answer, theta = _functional(student)
        # A NaN that is masked only afterwards would still be one in the gradient.
        logprobs = torch.where(batch.mask.unsqueeze(-1), batch.logprobs, 0)

        def descend(theta: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
            gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            return {
                name: value - inner_learning_rate * (gradient + weight_decay * value)
                for (name, value), gradient in zip(theta.items(), gradients, strict=True)
            }

        for _ in range(n_inner):
            logits = torch.where(batch.mask.unsqueeze(-1), answer(theta, batch.inputs), 0)
            weights = self.log_weights(logprobs, logits.detach().log_softmax(dim=-1), mask=batch.mask).exp()
            divergence = _softened_kl(logprobs, logits, temperature)
            theta = descend(theta, _mean((weights.unsqueeze(-1) * divergence).sum(dim=0), batch.mask))
        theta = descend(theta, _cross_entropy(answer(theta, batch.inputs), batch))
        target = batch if held_out is None else held_out
        return _cross_entropy(answer(theta, target.inputs), target)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every state that training may reach."""
        low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        source = "a softmax without bound on its scores; the network's constant changes as it learns"
        return Declared(low, high, None, "teachers' and student's log-probabilities, sup", source, reads_student=True)

    def _learned(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.second.parameters()]


def _functional(student: nn.Module) -> tuple[Callable[[Mapping[str, Tensor], tuple], Tensor], dict[str, Tensor]]:
    """Return the student as a function of its trainable parameters, and a copy of these."""
    theta, fixed = {}, {name: buffer.clone() for name, buffer in student.named_buffers()}
    for name, parameter in student.named_parameters():
        copy = parameter.detach().clone()
        if parameter.requires_grad:
            theta[name] = copy.requires_grad_()
        else:
            fixed[name] = copy

    def answer(theta: Mapping[str, Tensor], inputs: tuple) -> Tensor:
        return functional_call(student, {**fixed, **theta}, inputs)

    return answer, theta


def _apply(layer: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, layer.weight.to(x), layer.bias.to(x))


def _softened_kl(logprobs: Tensor, student_logits: Tensor, temperature: Number) -> Float[Tensor, "K B T"]:
    """``T^2 KL(p^(1/T) || p_S^(1/T))`` in nats."""
    teacher = (numerics.widen(logprobs) / temperature).log_softmax(dim=-1)
    student = (numerics.widen(student_logits) / temperature).log_softmax(dim=-1).to(teacher)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)


def _cross_entropy(logits: Float[Tensor, "B T V"], batch: MetaBatch) -> Float[Tensor, ""]:
    known = batch.mask & (batch.labels >= 0)
    logprobs = numerics.widen(torch.where(known.unsqueeze(-1), logits, 0)).log_softmax(dim=-1)
    return _mean(-logprobs.gather(-1, batch.labels.clamp_min(0).unsqueeze(-1)).squeeze(-1), known)


def _mean(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)
