"""Small causal language models, random, and a training step of one student under several teachers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from harness.forms import Inputs, naive
from harness.peers import PEERS
from harness.variants import OWN, ours
from mashbill.distributions.dense import Dense
from mashbill.distributions.topk import TopK


@dataclass(frozen=True)
class Sizes:
    """``rows`` texts of ``positions`` tokens; GPT-2 models of ``layers`` layers over ``entries`` entries."""

    teachers: int = 4
    entries: int = 32_000
    rows: int = 4
    positions: int = 128
    layers: int = 4
    width: int = 512
    teacher_width: int = 1024
    k: int = 64


@dataclass(frozen=True)
class World:
    """Student, teachers, a batch, and what was captured of the teachers on it."""

    student: Any
    teachers: tuple[Any, ...]
    ids: torch.Tensor
    stored: tuple[TopK, ...]
    log_weights: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        return torch.ones(1, self.ids.numel(), dtype=torch.bool, device=self.ids.device)

    def inputs(self, **given: Any) -> Inputs:
        """Return the inputs of a loss; what is not given is absent."""
        empty: dict[str, Any] = dict.fromkeys(("logits", "hidden", "head", "pristine"))
        empty |= dict.fromkeys(("teacher_logits", "teacher_hidden", "teacher_heads", "stored"), ())
        return Inputs(**{**empty, **given}, log_weights=self.log_weights, mask=self.mask, divergence="forward_kl")


def build(sizes: Sizes, *, device: str = "cpu", seed: int = 0) -> World:
    """Build random models from configurations; nothing is downloaded."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)

    def model(width: int) -> Any:
        config = GPT2Config(
            vocab_size=sizes.entries,
            n_positions=sizes.positions,
            n_embd=width,
            n_layer=sizes.layers,
            n_head=max(1, width // 64),
            initializer_range=0.1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,  # nobody generates: it would make the parts, and so the loss's share, look better
            bos_token_id=0,
            eos_token_id=0,
        )
        built: Any = GPT2LMHeadModel(config)
        return built.to(device)

    student = model(sizes.width).train()
    teachers = tuple(model(sizes.teacher_width).eval().requires_grad_(False) for _ in range(sizes.teachers))
    ids = torch.randint(sizes.entries, (sizes.rows, sizes.positions), device=device)
    with torch.no_grad():
        stored = tuple(
            TopK.from_logprobs(Dense.from_logits(_flat(one(ids).logits)).logprobs, k=sizes.k) for one in teachers
        )
    log_weights = torch.log_softmax(torch.randn(sizes.teachers, 1, 1), dim=0).to(device)
    return World(student, teachers, ids, stored, log_weights)


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(0, 1).unsqueeze(0)


# Parts alone


def student_alone(world: World) -> Callable[[], None]:
    """Return forward and backward of the student under a gradient by its logits that is given."""
    with torch.no_grad():
        gradient = torch.full_like(world.student(world.ids).logits, 1e-6)

    def work() -> None:
        world.student(world.ids).logits.backward(gradient)

    return work


def teachers_alone(world: World) -> Callable[[], None]:
    """Return the forwards of all teachers, their logits included."""

    def work() -> None:
        with torch.no_grad():
            for teacher in world.teachers:
                teacher(world.ids)

    return work


def loss_alone(world: World, loss: Callable[[Inputs], torch.Tensor]) -> Callable[[], None]:
    """Return the loss and its gradient on logits that are there."""
    with torch.no_grad():
        student = _flat(world.student(world.ids).logits).requires_grad_()
        teachers = tuple(_flat(teacher(world.ids).logits) for teacher in world.teachers)
    inputs = world.inputs(logits=student, teacher_logits=teachers)

    def work() -> None:
        torch.autograd.grad(loss(inputs), student)

    return work


def optimiser_alone(world: World) -> Callable[[], object]:
    """Return a step of AdamW over as many numbers as the student has, and none of its own."""
    copies = [torch.zeros_like(one).requires_grad_() for one in world.student.parameters()]
    for one in copies:
        one.grad = torch.zeros_like(one)
    return torch.optim.AdamW(copies).step


# Whole steps, from tokens to the student's gradients


def on_logits(world: World, loss: Callable[[Inputs], torch.Tensor]) -> None:
    """Run a step in which student and teachers hand over logits."""
    with torch.no_grad():
        teachers = tuple(_flat(teacher(world.ids).logits) for teacher in world.teachers)
    loss(world.inputs(logits=_flat(world.student(world.ids).logits), teacher_logits=teachers)).backward()


def on_hidden(world: World, loss: Callable[[Inputs], torch.Tensor]) -> None:
    """Run a step in which the heads belong to the loss."""
    with torch.no_grad():
        hidden = tuple(_flat(teacher.transformer(world.ids).last_hidden_state) for teacher in world.teachers)
    heads = tuple(teacher.lm_head.weight for teacher in world.teachers)
    student = _flat(world.student.transformer(world.ids).last_hidden_state)
    given = {"hidden": student, "head": world.student.lm_head.weight}
    loss(world.inputs(**given, teacher_hidden=hidden, teacher_heads=heads)).backward()


def on_stored(world: World, loss: Callable[[Inputs], torch.Tensor], *, has_head: bool = False) -> None:
    """Run a step in which the teachers' top entries were captured before."""
    if has_head:
        hidden = _flat(world.student.transformer(world.ids).last_hidden_state)
        student = {"hidden": hidden, "head": world.student.lm_head.weight}
    else:
        student = {"logits": _flat(world.student(world.ids).logits)}
    loss(world.inputs(**student, stored=world.stored)).backward()


@dataclass(frozen=True)
class Step:
    """A kind of step: how it runs, and the loss to load."""

    run: Callable[[World, Callable[[Inputs], torch.Tensor]], None]
    load: Callable[[], Callable[[Inputs], torch.Tensor]]
    online: bool = True


def _named(name: str) -> Callable[[], Callable[[Inputs], torch.Tensor]]:
    return next(one.load for one in (*OWN, *PEERS) if one.name == name)


STEPS: Mapping[str, Step] = {
    "mashbill, hidden states": Step(on_hidden, lambda: ours),
    "mashbill, logits": Step(on_logits, lambda: ours),
    "mashbill, logits in place": Step(on_logits, _named("mashbill, in place")),
    "naive PyTorch": Step(on_logits, lambda: naive),
    "TRL GKD, each teacher": Step(on_logits, _named("TRL GKD, each teacher")),
    "TRL chunked, each teacher": Step(on_hidden, _named("TRL chunked, each teacher")),
    "mashbill, stored top-k, hidden states": Step(partial(on_stored, has_head=True), lambda: ours, online=False),
    "mashbill, stored top-k": Step(on_stored, lambda: ours, online=False),
    "naive PyTorch, stored top-k": Step(on_stored, lambda: naive, online=False),
}
