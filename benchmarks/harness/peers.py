"""Competitors, by the entry points that their own trainers call; each is imported when it is asked for.

None of them knows several teachers, so each is called once a teacher, with the weight as a factor. Where a competitor
offers a choice, the faster one is taken: a mean over positions instead of values a position, one log-softmax of the
student for all teachers (beside the call as its trainer makes it), and no cross-entropy on labels.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from harness.forms import Inputs
from harness.variants import AbsentError, Variant

BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "js": 0.5}
PACKAGES = {"trl": "trl", "liger_kernel": "liger-kernel", "modelopt": "nvidia-modelopt"}


def _module(name: str) -> Any:
    """Import a competitor's module, or say that it is absent."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    package = name.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or package).partition(".")[0]
        why = "is not installed" if missing == package else f"cannot be imported: {error}"
        raise AbsentError(f"{PACKAGES[package]} {why}") from error


def _each(inputs: Inputs, of_teacher: Callable[[int], torch.Tensor]) -> torch.Tensor:
    total = torch.zeros((), device=inputs.mask.device)
    for k, weight in enumerate(inputs.weights):
        total = total + weight * of_teacher(k)
    return total


# TRL


def _gkd() -> Callable[[Inputs], torch.Tensor]:
    """``GKDTrainer.generalized_jsd_loss``, once a teacher."""
    loss = _module("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss

    def each(inputs: Inputs) -> torch.Tensor:
        assert inputs.logits is not None
        student, beta = inputs.logits[0], BETAS[inputs.divergence]
        return _each(inputs, lambda k: loss(student, inputs.teacher_logits[k][0], beta=beta))

    return each


def _gkd_once() -> Callable[[Inputs], torch.Tensor]:
    """The same, called once with the log of the mixture as the teacher: what a user who needs the mixture would do."""
    loss = _module("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss

    def once(inputs: Inputs) -> torch.Tensor:
        assert inputs.logits is not None
        log_q = None
        for logits, log_weight in zip(inputs.teacher_logits, inputs.log_weights, strict=True):
            term = F.log_softmax(logits, dim=-1) + log_weight.to(logits.dtype)
            log_q = term if log_q is None else torch.logaddexp(log_q, term)
        assert log_q is not None
        return loss(inputs.logits[0], log_q[0], beta=BETAS[inputs.divergence])

    return once


def _trl_chunked() -> Callable[[Inputs], torch.Tensor]:
    """``_chunked_divergence_loss`` of ``DistillationTrainer``, once a teacher."""
    loss = _module("trl.trainer.distillation_trainer")._chunked_divergence_loss

    def each(inputs: Inputs) -> torch.Tensor:
        def of(k: int) -> torch.Tensor:
            teacher, head = inputs.teacher_hidden[k], inputs.teacher_heads[k]
            beta = BETAS[inputs.divergence]
            return loss(inputs.hidden, teacher, inputs.head, head, inputs.mask, beta, num_items_in_batch=inputs.rows)[0]

        return _each(inputs, of)

    return each


def _trl_server(*, shared: bool) -> Callable[[Inputs], torch.Tensor]:
    """The forward KL with a tail bucket of ``ServerDistillationTrainer``; only the forward one is not of one entry."""
    trainer = _module("trl.experimental.server_distillation.server_distillation_trainer").ServerDistillationTrainer
    # The method reads two attributes of the trainer; a trainer itself would want a model and data.
    options = SimpleNamespace(loss_add_tail=True, _reduce_divergence_loss=trainer._reduce_divergence_loss)

    def each(inputs: Inputs) -> torch.Tensor:
        assert inputs.logits is not None
        if inputs.divergence != "forward_kl":
            raise AbsentError("TRL's loss with a tail bucket over several entries has the forward KL alone")
        logits, labels = inputs.logits, inputs.mask.long()
        once = F.log_softmax(logits, dim=-1) if shared else None

        def of(k: int) -> torch.Tensor:
            log_p = F.log_softmax(logits, dim=-1) if once is None else once
            stored = inputs.stored[k]
            answer = {"topk_logprobs": stored.logprobs.to(log_p.dtype), "topk_token_ids": stored.ids}
            return trainer._compute_server_forward_kl_loss(options, answer, log_p, labels)

        return _each(inputs, of)

    return each


def _trl_async() -> Callable[[Inputs], torch.Tensor]:
    """``_chunked_jsd_loss`` of ``AsyncDistillationTrainer`` with the tail bucket, in chunks of 256 positions."""
    name = "trl.experimental.async_distillation.async_distillation_trainer"
    loss = _module(name)._chunked_jsd_loss

    def each(inputs: Inputs) -> torch.Tensor:
        assert inputs.hidden is not None
        hidden, head, beta = inputs.hidden[0], inputs.head, BETAS[inputs.divergence]

        def of(k: int) -> torch.Tensor:
            ids, kept = inputs.stored[k].ids[0], inputs.stored[k].logprobs[0]
            valid = torch.ones_like(ids, dtype=torch.bool)
            summed = loss(hidden, head, None, 1.0, None, ids, kept, valid, beta, 1.0, True, None, 1, 256)[0]
            return summed / inputs.rows

        return _each(inputs, of)

    return each


# Liger and ModelOpt


def _liger(*, compiled: bool) -> Callable[[Inputs], torch.Tensor]:
    """``LigerFusedLinearJSDLoss`` without its hard loss, once a teacher; the weight is its own argument."""
    make = _module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss

    def each(inputs: Inputs) -> torch.Tensor:
        assert inputs.hidden is not None
        hidden = inputs.hidden[0]
        labels = torch.zeros(inputs.rows, dtype=torch.long, device=hidden.device)
        total = torch.zeros((), device=hidden.device)
        for k, weight in enumerate(inputs.weights):
            loss = make(weight_hard_loss=0.0, weight_soft_loss=weight, beta=BETAS[inputs.divergence], compiled=compiled)
            total = total + loss(hidden, inputs.head, inputs.teacher_hidden[k][0], inputs.teacher_heads[k], labels)
        return total

    return each


def _modelopt() -> Callable[[Inputs], torch.Tensor]:
    """``LogitsDistillationLoss``, once a teacher; its default reduction would divide by ``V`` too."""
    loss = _module("modelopt.torch.distill.losses").LogitsDistillationLoss(temperature=1.0, reduction="batchmean")

    def each(inputs: Inputs) -> torch.Tensor:
        assert inputs.logits is not None
        student = inputs.logits[0]
        return _each(inputs, lambda k: loss(student, inputs.teacher_logits[k][0]))

    return each


PEERS = (
    Variant("TRL GKD, each teacher", "peer", ("logits",), _gkd, sums_teachers=True),
    Variant("TRL GKD, on the log-mixture", "peer", ("logits",), _gkd_once),
    Variant("ModelOpt, each teacher", "peer", ("logits",), _modelopt, sums_teachers=True),
    Variant("TRL chunked, each teacher", "peer", ("hidden",), _trl_chunked, sums_teachers=True),
    Variant(
        "Liger chunked, each teacher",
        "peer",
        ("hidden",),
        partial(_liger, compiled=False),
        sums_teachers=True,
        most=2**28,  # slower than itself compiled, below, which is there at every size
    ),
    Variant(
        "Liger chunked, compiled, each teacher",
        "peer",
        ("hidden",),
        partial(_liger, compiled=True),
        sums_teachers=True,
        compiled=True,
    ),
    Variant("TRL tail bucket, each teacher", "peer", ("topk",), partial(_trl_server, shared=False), sums_teachers=True),
    Variant(
        "TRL tail bucket, one log-softmax", "peer", ("topk",), partial(_trl_server, shared=True), sums_teachers=True
    ),
    Variant("TRL async tail bucket, each teacher", "peer", ("stored",), _trl_async, sums_teachers=True),
)
