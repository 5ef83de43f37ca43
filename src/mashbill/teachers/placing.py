"""Where a model runs, and how much room there is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from mashbill.errors import MashbillError

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"] | Mapping[str, str | int]
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Place:
    """Where a model's weights lie.

    Attributes:
        device: One device for all of them.
        device_map: Several, as ``accelerate`` spreads them: a strategy, or modules and devices in pairs. With it,
            ``device`` says nothing.
    """

    device: str = "cpu"
    device_map: str | tuple[tuple[str, str | int], ...] | None = None

    @classmethod
    def of(cls, device: str, device_map: DeviceMap | None, *, teacher_id: str) -> "Place":
        """Return the place that a recipe asks for.

        Raises:
            MashbillError: There is no such device here, or ``accelerate`` is missing.
        """
        where = f"teachers.{teacher_id}"
        if device_map is None:
            _require_device(device, where)
            return cls(device)
        if find_spec("accelerate") is None:
            raise MashbillError(
                "`device_map` needs the package `accelerate`", where=where, help="pip install accelerate"
            )
        if isinstance(device_map, str):
            return cls(device, device_map)
        for one in device_map.values():
            _require_device(f"cuda:{one}" if isinstance(one, int) else one, where)
        return cls(device, tuple(device_map.items()))

    @property
    def options(self) -> dict[str, object]:
        """What ``from_pretrained`` is told."""
        if self.device_map is None:
            return {}
        return {"device_map": self.device_map if isinstance(self.device_map, str) else dict(self.device_map)}

    @property
    def kind(self) -> str:
        """What the last bits of answers can depend on."""
        return torch.device(self.device).type if self.device_map is None else "several devices"

    @property
    def can_move(self) -> bool:
        """Whether the model can wait in the CPU's memory."""
        return self.device_map is None and self.kind != "cpu"

    def free_bytes(self) -> int | None:
        """Return how much room there is; None if nobody can tell."""
        if self.device_map is not None and torch.cuda.is_available():
            return sum(_free_on(torch.device("cuda", n)) or 0 for n in range(torch.cuda.device_count()))
        return _free_on(torch.device(self.device if self.device_map is None else "cpu"))


def _free_on(device: torch.device) -> int | None:
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return free_in_memory() if device.type == "cpu" else None


def free_in_memory() -> int | None:
    """Return the bytes of memory that programs here can still take, a container's limit kept; None if nobody says."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    of_machine = int(found[1]) * 1024 if found else None
    of_group = _free_in_group()
    return min((one for one in (of_machine, of_group) if one is not None), default=None)


def _free_in_group() -> int | None:
    """Return what the container's limit leaves; files that the system merely keeps in memory do not count."""
    try:
        most, used = ((_CGROUP / name).read_text(encoding="utf-8") for name in ("memory.max", "memory.current"))
        kept = re.search(r"^inactive_file (\d+)", (_CGROUP / "memory.stat").read_text(encoding="utf-8"), re.MULTILINE)
        return int(most) - int(used) + (int(kept[1]) if kept else 0)
    except (OSError, ValueError):  # no such limit
        return None


def _require_device(device: str, where: str) -> None:
    here = ["cpu"]
    here += [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    here += [f"xpu:{n}" for n in range(torch.xpu.device_count())] if torch.xpu.is_available() else []
    try:
        asked = torch.device(device)
    except RuntimeError:
        asked = None
    if asked is None or not any(asked == torch.device(one) or device == one.partition(":")[0] for one in here):
        raise MashbillError(
            f"no device `{device}` on this machine",
            where=where,
            why=f"there are: {', '.join(here)}",
            help="name one of them, or leave `device` out for the CPU",
        )
