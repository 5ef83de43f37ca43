"""AMTML-KD: each teacher has a latent factor, and its product with the row's features is the teacher's score."""

from typing import ClassVar, Literal

import torch
from torch import nn

from mashbill import numerics
from mashbill.shapes import Bool, Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence, Observation
from mashbill.weights.published.descent import Momentum, require_sizes, require_teachers
from mashbill.weights.published.rows import mean_of_entries
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise


def released_weights(
    theta: Float[Tensor, "K F"], beta: Float[Tensor, "B F"], direction: Float[Tensor, " F"]
) -> Float[Tensor, "K B"]:
    """``softmax_k(W'(theta_k * beta))``; sums to 1, and is the released coefficient as it is.

    Args:
        theta: The teachers' latent factors.
        beta: The rows' features.
        direction: ``W``.
    """
    return _scores(theta, beta, direction).softmax(dim=0)


class AMTMLKD(nn.Module):
    """``w_k = softmax_k(W'(theta_k * beta(x)))`` with learned latent factors ``theta_k`` and direction ``W``.

    ``beta(x)`` is the row's feature vector (``reads="features"``), or the student's probabilities averaged over the
    row's counted positions (``reads="student"``): released, it is the student's max-pooled last feature map.

    ``observe`` takes one step on ``mean KL(sum_k w_k p_k || p_S) + decay (|theta|^2 + |W|^2)`` over counted positions.
    That is the part of the released objective on which the factors depend: labels enter it only through the student,
    so weights go to the teachers with whom the student already agrees.

    Range ``(0, 1)``; Lipschitz constant ``1/2 max_k |theta_k * W|_1`` in ``beta`` (sup norm), which training changes.
    With ``decay`` the even mix ``theta = W = 0`` is a stationary point, and an attracting one as soon as ``decay``
    exceeds the gradient: the score is bilinear, so its gradient by each factor vanishes with the other.

    Breaks *bounded*: factors +-10 and ``W beta = 10`` give (1, 1e-87). Breaks *ordered*. Keeps normalised, positive
    (up to rounding) and continuous.

    Attributes:
        theta: ``[K F]``.
        direction: ``W``, ``[F]``.
        optimiser: Gradient descent with momentum; its velocity is saved with the rule.

    Raises:
        ValueError: A size is below 1 or an option out of range; in a call, there are other teachers or features.

    Source:
        Liu, Zhang & Wang, *Adaptive Multi-Teacher Multi-level Knowledge Distillation*, Neurocomputing 415, 2020 (arXiv
        2103.04062); repository FLHonker/AMTML-KD-code, ``LR_adaptive_learning.ipynb``, class ``Adapter`` and
        ``train_adapter``. The release also has relational losses between the rows' pooled answers, divides its
        divergence by ``V`` and multiplies it by ``1.4 T^2``, softens at ``T = 5``, decays by 0.1, and after 80 epochs
        freezes the factors; here a caller freezes them by no longer calling ``observe``. Not covered: hints.
    """

    scale: ClassVar[Literal["task"]] = "task"

    def __init__(
        self,
        n_teachers: int,
        n_features: int,
        *,
        reads: str = "features",
        learning_rate: Number = 0.1,
        momentum: Number = 0.9,
        decay: Number = 1e-3,
        seed: int = 1,
    ) -> None:
        super().__init__()
        require_sizes(n_teachers=n_teachers, n_features=n_features)
        if reads not in ("features", "student"):
            raise ValueError(f"reads={reads!r} must be 'features' or 'student'")
        if not 0 <= decay < float("inf"):
            raise ValueError(f"decay={decay!r} must be finite and not negative")
        self.reads, self.decay = reads, float(decay)
        generator = torch.Generator().manual_seed(seed)
        self.theta = nn.Parameter(torch.randn(n_teachers, n_features, generator=generator))
        self.direction = nn.Parameter(torch.randn(n_features, generator=generator))
        self.optimiser = Momentum((self.theta, self.direction), learning_rate=learning_rate, momentum=momentum)

    @property
    def needs(self) -> frozenset[str]:
        """The rows' features if it reads them, and both sides' answers to learn from."""
        return frozenset({"logprobs", "student_logprobs"} | ({"features"} if self.reads == "features" else set()))

    def forward(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        return self._log_weights(evidence).unsqueeze(-1)

    def observe(self, observation: Observation, /) -> None:
        """Take one step of gradient descent on :meth:`objective`."""
        learned = [self.theta, self.direction]
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.objective(observation.evidence), learned)
        self.optimiser.step(learned, gradients)

    def objective(self, evidence: Evidence) -> Float[Tensor, ""]:
        """Return ``mean KL(pool || student) + decay (|theta|^2 + |W|^2)`` in nats, differentiable in the factors."""
        logprobs, student = numerics.widen(evidence.given("logprobs")), evidence.given("student_logprobs")
        counted = evidence.mask & logprobs.isfinite().all(dim=-1).all(dim=0) & student.isfinite().all(dim=-1)
        # Left out before the logarithm is taken: a NaN that is masked afterwards is still one in the gradient.
        logprobs = torch.where(counted.unsqueeze(-1), logprobs, 0)
        student = torch.where(counted.unsqueeze(-1), student.to(logprobs), 0)
        pooled = (logprobs + self._log_weights(evidence)[..., None, None]).logsumexp(dim=0)
        divergence = (pooled.exp() * (pooled - student)).sum(dim=-1)
        mean = torch.where(counted, divergence, 0).sum() / counted.sum().clamp_min(1)
        return mean + self.decay * (self.theta.square().sum() + self.direction.square().sum()).to(mean)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every state that training may reach."""
        low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        source = "a softmax without bound on its scores; its constant is that of the factors, which training changes"
        reads_student = self.reads == "student"
        metric = "student's probabilities, sup" if reads_student else "row features, sup"
        return Declared(low, high, None, metric, source, reads_student=reads_student)

    def _log_weights(self, evidence: Evidence) -> Float[Tensor, "K B"]:
        require_teachers(len(self.theta), evidence.n_teachers)
        beta = self._beta(evidence, evidence.mask)
        if beta.shape[-1] != self.theta.shape[-1]:
            raise ValueError(
                f"n_features={self.theta.shape[-1]} is what the rule was made for, but the rows have {beta.shape[-1]}; "
                f"set n_features={beta.shape[-1]} (reads={self.reads!r})"
            )
        return log_normalise(_scores(self.theta.to(beta), beta, self.direction.to(beta)), dim=0)

    def _beta(self, evidence: Evidence, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B F"]:
        if self.reads == "student":
            return mean_of_entries(evidence.given("student_logprobs").exp(), mask)
        like = evidence.statistics.entropy
        return evidence.features.to(like.device, numerics.reduction_dtype(like.dtype))


def _scores(
    theta: Float[Tensor, "K F"], beta: Float[Tensor, "B F"], direction: Float[Tensor, " F"]
) -> Float[Tensor, "K B"]:
    return (theta * direction) @ beta.T
