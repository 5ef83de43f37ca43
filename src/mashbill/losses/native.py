"""The compiled loops of the dense loss: built where they run, with whatever C compiler is there, and never required.

The first call compiles ``native.c``, about a second, and keeps the library in the user's cache folder under a digest of
source, compiler and processor. Where there is no compiler, or no folder to write to, the loss runs in PyTorch as
before; :func:`why_not` says why. ``CC`` names another compiler; ``MASHBILL_NATIVE=0`` does without.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("native.c")
FLAGS = (
    *("-std=gnu11", "-O3", "-funroll-loops", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
)
# Loops may be reordered where the source says so and nowhere else: no -ffast-math, which forgets NaN and infinity.
_OF_PROCESSOR = {"x86_64": ("-march=native",), "AMD64": ("-march=native",), "arm64": (), "aarch64": ("-mcpu=native",)}
_PATIENCE_S = 60


class UnavailableError(Exception):
    """The library cannot be built or loaded here; the message says why."""


def is_available() -> bool:
    """Whether the compiled loops can run here; the first call may build them."""
    return why_not() is None


def why_not() -> str | None:
    """Return why the compiled loops cannot run here; None if they can."""
    try:
        library()
    except UnavailableError as error:
        return str(error)
    return None


def library() -> ctypes.CDLL:
    """Return the loaded library, built if need be.

    Raises:
        UnavailableError: There is no compiler, it fails, or the result cannot be kept or loaded.
    """
    found = _library(os.environ.get("MASHBILL_NATIVE", "1"), os.environ.get("CC", "cc"))
    if isinstance(found, str):
        raise UnavailableError(found)
    return found


@functools.cache
def _library(switch: str, compiler: str) -> ctypes.CDLL | str:
    """Return the library, or why there is none: a failure is remembered as well, since building again costs seconds."""
    if switch == "0":
        return "MASHBILL_NATIVE=0 is set"
    path = shutil.which(compiler)
    if path is None:
        return f"there is no C compiler {compiler!r}; install one, or name another in CC"
    try:
        found = ctypes.CDLL(str(_built(path)))
    except (OSError, subprocess.SubprocessError) as error:
        return f"the compiled loops could not be built or loaded: {error}"
    found.mashbill_mix.restype = ctypes.c_int64
    return found


def _built(compiler: str) -> Path:
    flags = (*FLAGS, *_OF_PROCESSOR.get(platform.machine(), ()))
    parts = [SOURCE.read_bytes(), repr(flags).encode(), _version(compiler), _processor()]
    target = _cache() / f"native-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:24]}.so"
    if target.is_file():
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        out = Path(folder) / target.name
        done = subprocess.run(
            [compiler, *flags, "-fPIC", "-shared", str(SOURCE), "-o", str(out), "-lm"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"{compiler} failed: {done.stderr.strip()[:500]}")
        out.replace(target)  # In one step: other processes may be building the same.
    return target


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "mashbill"
    except RuntimeError as error:
        raise OSError(f"there is no home folder to keep them in: {error}") from error


def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, timeout=_PATIENCE_S, check=True).stdout


def _processor() -> bytes:
    """Say what the code is made for: a cache folder may be shared by unlike machines."""
    listed = Path("/proc/cpuinfo")
    if not listed.is_file():
        return f"{platform.machine()} {platform.processor()}".encode()
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})).encode()
