"""On what a run happened."""

import argparse
import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mashbill.losses import native

PACKAGES = ("mashbill", "torch", "triton", "transformers", "trl", "liger-kernel", "nvidia-modelopt")


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Describe machine, versions and how the measurement was made."""
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else processor()
    return {
        "device": device,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "date": datetime.date.today().isoformat(),
        "loops": native.why_not() or "compiled",
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def processor() -> str:
    """Return the processor's name, with the vector units that decide the speed here."""
    source = Path("/proc/cpuinfo")
    if not source.exists():
        return platform.processor() or platform.machine()
    pairs = [line.split(":", 1) for line in source.read_text(encoding="utf-8").splitlines() if ":" in line]
    fields = {name.strip(): value.strip() for name, value in pairs}
    flags = fields.get("flags", "").split()
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(units) or 'no vector units known'})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
