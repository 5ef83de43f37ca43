"""What an operator asks to be called with: this tells what kind it is, and which options nobody has given."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from inspect import Parameter
from typing import Any, Literal

import torch

OperatorKind = Literal["weights", "pool", "softening", "recursion", "sequence"]

_INPUTS = {"weights": 1, "sequence": 1, "pool": 2, "softening": 1, "recursion": 2}
"""Arguments by place that the audit gives; a softening gets its temperature by name."""
_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_LONGEST = 80


def signature_of(operator: Callable[..., Any]) -> inspect.Signature:
    """Return what an operator takes; of a module what its ``forward`` takes, since a module itself takes anything.

    Raises:
        TypeError: It cannot be known.
        ValueError: Likewise, of some callables written in C.
    """
    if isinstance(operator, functools.partial) and isinstance(operator.func, torch.nn.Module):
        return inspect.signature(functools.partial(operator.func.forward, *operator.args, **operator.keywords))
    return inspect.signature(operator.forward if isinstance(operator, torch.nn.Module) else operator)


def kind_of(operator: Callable[..., Any]) -> OperatorKind:
    """Tell an operator's kind by what it requires: evidence; log-probabilities and weights; a temperature.

    What has a default does not count, and whoever requires ``evidence`` first is a weight rule. A recursion's step
    looks like a pool and has to be named.

    Raises:
        ValueError: It could be anything.
    """
    try:
        parameters = list(signature_of(operator).parameters.values())
    except (TypeError, ValueError) as error:
        raise ValueError(f"operator={called(operator)} does not tell its arguments; give kind=") from error
    placed, named = _required(parameters)
    if placed and _is_evidence(placed[0]):
        return "weights"
    if "temperature" in [p.name for p in (*placed, *named)]:
        return "softening"
    if len(placed) in (1, 2):
        return "weights" if len(placed) == 1 else "pool"
    if not placed and any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):
        raise ValueError(f"operator={called(operator)} takes *args, which could be anything; give kind=")
    raise ValueError(f"operator={called(operator)} requires {len(placed)} arguments; give kind=")


def missing_options(operator: Callable[..., Any], kind: str) -> list[str]:
    """Return the names of what an operator requires beyond what the audit of its kind gives."""
    try:
        placed, named = _required(list(signature_of(operator).parameters.values()))
    except (TypeError, ValueError):  # then calling it will tell
        return []
    beyond = [p.name for p in (*placed[_INPUTS[kind] :], *named)]
    return [name for name in beyond if kind != "softening" or name != "temperature"]


def inputs_of(operator: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that the audit gives, which are no options; the first one where it is open."""
    try:
        placed, named = _required(list(signature_of(operator).parameters.values()))
    except (TypeError, ValueError):
        return ()
    try:
        kind = kind_of(operator)
    except ValueError:
        kind = "weights"
    given = [p.name for p in placed[: _INPUTS[kind]]]
    heat = [p.name for p in (*placed, *named) if kind == "softening" and p.name == "temperature"]
    return tuple(dict.fromkeys([*given, *heat]))


def called(operator: Any) -> str:
    """Return what to call an operator or a value in a message: short, and without an address in memory."""
    if not callable(operator) or isinstance(operator, type) or is_dataclass(operator):
        shown = repr(operator)
        if " at 0x" not in shown and len(shown) <= _LONGEST:
            return shown
    inner = operator.func if isinstance(operator, functools.partial) else operator
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)


def _required(parameters: list[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    """Return what has to be given: by place, and by name only."""
    needed = [p for p in parameters if p.default is Parameter.empty and p.kind not in _VARIADIC]
    return [p for p in needed if p.kind in _BY_PLACE], [p for p in needed if p.kind not in _BY_PLACE]


def _is_evidence(parameter: Parameter) -> bool:
    written = parameter.annotation
    return parameter.name == "evidence" or getattr(written, "__name__", written) == "Evidence"
