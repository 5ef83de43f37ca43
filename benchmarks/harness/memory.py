"""How far memory rises above the inputs."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above(function: Callable[[], object], *, device: str = "cpu") -> float:
    """Run a function once and return how far memory rose meanwhile, in MiB; what it returns counts."""
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    _CLEAR.write_text("5", encoding="ascii")
    start = _field("VmRSS")
    function()
    return _field("VmHWM") - start


def most_resident() -> float:
    """Return the most MiB that this process had resident, its files' pages too.

    Not `getrusage`: there a process inherits the peak of the one that started it.
    """
    return _field("VmHWM")


def own() -> float:
    """Return the MiB that this process has of its own: not the pages of files, which can be taken back."""
    return _field("RssAnon")


def in_new_process(arguments: Sequence[str]) -> float | None:
    """Run this program again with other arguments and return the number that it prints; None if that cannot work."""
    if not _CLEAR.exists():
        return None
    # Without this, glibc keeps what building the inputs freed, and a variant that takes it again seems to need nothing.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    command = [sys.executable, sys.argv[0], *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        print(done.stderr.strip().splitlines()[-1:] or "no reason given", file=sys.stderr)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def _field(name: str) -> float:
    """Read one field of the process's status, in MiB."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
