"""The compiled loops of the dense loss: built where they run, with whatever C compiler is there, and never required.

The first call compiles ``native.c``, about a second, and keeps the library in the user's cache folder under a digest of
source, compiler and processor. Where there is no compiler, or no folder to write to, the loss runs in PyTorch as
before; :func:`why_not` says why. ``CC`` names another compiler; ``MASHBILL_NATIVE=0`` (or false, no, off) does without.
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
_OFF, _ON = ("0", "false", "no", "off"), ("", "1", "true", "yes", "on")


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
        UnavailableError: There is no compiler, it fails, the result cannot be kept or loaded, or it is switched off.
        ValueError: ``MASHBILL_NATIVE`` says neither yes nor no.
    """
    switch = os.environ.get("MASHBILL_NATIVE", "").strip()
    if switch.lower() in _OFF:
        raise UnavailableError(f"MASHBILL_NATIVE={switch} is set")
    if switch.lower() not in _ON:
        raise ValueError(f"MASHBILL_NATIVE={switch!r} must be one of {', '.join(_OFF)}, or {', '.join(_ON[1:])}")
    found = _library(_named_compiler())
    if isinstance(found, str):
        raise UnavailableError(found)
    return found


def compiler() -> str | None:
    """Return the command that compiles, as it is found here; None if there is none."""
    command = _command(_named_compiler())
    return None if command is None else " ".join(command)


def path() -> Path:
    """Return where the library is kept.

    Raises:
        UnavailableError: There is none.
    """
    return Path(library()._name)  # documented, and ctypes has no other name for it


def _named_compiler() -> str:
    return os.environ.get("CC", "").strip() or "cc"


def has_float16() -> bool:
    """Whether the compiler knew 16 bit floats: GCC before 12 did not on x86."""
    return bool(library().mashbill_has_float16())


@functools.cache
def _library(compiler: str) -> ctypes.CDLL | str:
    """Return the library, or why there is none: a failure is remembered as well, since building again costs seconds."""
    command = _command(compiler)
    if command is None:
        return f"there is no C compiler {compiler!r}; install one, or name another in CC"
    try:
        found = _loaded(command)
        found.mashbill_mix.restype = ctypes.c_int64
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        return f"the compiled loops could not be built or loaded: {error}"
    return found


def _command(compiler: str) -> list[str] | None:
    """Return the command that compiles; None if there is none."""
    command = [compiler] if shutil.which(compiler) else compiler.split()  # "ccache gcc", or a path with blanks
    path = shutil.which(command[0])
    return None if path is None else [path, *command[1:]]


def _loaded(compiler: list[str]) -> ctypes.CDLL:
    command = [*compiler, *FLAGS, *_OF_PROCESSOR.get(platform.machine(), ())]
    parts = [SOURCE.read_bytes(), repr(command).encode(), _version(compiler), _processor()]
    folder, stem = _cache(), f"native-{_digest(b'|'.join(parts))}"
    whole = (path for path in folder.glob(f"{stem}-*.so") if path.name == _name(stem, path))
    return ctypes.CDLL(str(next(whole, None) or _built(command, folder, stem)))


def _built(command: list[str], folder: Path, stem: str) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        out = Path(aside) / "native.so"
        done = subprocess.run(
            [*command, "-fPIC", "-shared", str(SOURCE), "-o", str(out), "-lm"],
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()[:500]}")
        # In one step: other processes may be building the same.
        return out.replace(folder / _name(stem, out))


def _name(stem: str, path: Path) -> str:
    """Name a library after its bytes: loading what a crash left half written would end the process."""
    return f"{stem}-{_digest(path.read_bytes())}.so"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "mashbill"
    except RuntimeError as error:
        raise OSError(f"there is no home folder to keep them in: {error}") from error


def _version(compiler: list[str]) -> bytes:
    return subprocess.run([*compiler, "--version"], capture_output=True, timeout=_PATIENCE_S, check=True).stdout


def _processor() -> bytes:
    """Say what the code is made for: a cache folder may be shared by unlike machines."""
    listed = Path("/proc/cpuinfo")
    if not listed.is_file():
        return f"{platform.machine()} {platform.processor()}".encode()
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})).encode()
