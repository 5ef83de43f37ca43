"""A situation, or two, as JSON and back: what a witness of a weight rule is made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from mashbill.audit.worlds import World
from mashbill.shapes import Tensor


@dataclass(frozen=True)
class Case:
    """What a violation is computed from.

    Attributes:
        world: The situation.
        other: A second one, where two are compared.
        choice: Rows of a batch, or places of a permutation, where the axiom chooses some.
    """

    world: World
    other: World | None = None
    choice: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinities become text."""
        return {
            "kind": "weights",
            "world": _dump(self.world),
            "other": None if self.other is None else _dump(self.other),
            "choice": list(self.choice),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Case":
        """Read what :meth:`to_json` gave."""
        other = values["other"]
        return cls(_load(values["world"]), None if other is None else _load(other), tuple(values["choice"]))


_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.int64, torch.bool)
}


def _dump(world: World) -> dict[str, Any]:
    return {f.name: _plain(getattr(world, f.name)) for f in fields(world)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        wide = value.double() if value.dtype in (torch.float16, torch.bfloat16) else value
        dtype = str(wide.dtype).removeprefix("torch.")
        return {"shape": list(wide.shape), "dtype": dtype, "values": [_number(x) for x in wide.flatten().tolist()]}
    if isinstance(value, Mapping):
        return {name: [list(pair) for pair in pairs] for name, pairs in value.items()}
    return list(value)


def _number(x: float | int | bool) -> Any:
    return x if not isinstance(x, float) or math.isfinite(x) else str(x)


def _load(values: Mapping[str, Any]) -> World:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name == "orders":
            found[name] = {context: tuple((int(a), int(b)) for a, b in pairs) for context, pairs in value.items()}
        elif isinstance(value, Mapping):
            flat = [float(x) if isinstance(x, str) else x for x in value["values"]]
            found[name] = torch.tensor(flat, dtype=_DTYPES[value["dtype"]]).reshape(value["shape"])
        else:
            found[name] = tuple(value)
    return World(**found)
