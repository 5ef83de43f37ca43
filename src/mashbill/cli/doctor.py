"""``mashbill doctor``: what is installed here, and what is wrong with it."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, get_args

from mashbill import plugins
from mashbill.cli.reply import Reply
from mashbill.losses import native

# Torch takes seconds to import and can fail in ways that end the process, so it is asked in another one.
TORCH_PROBE = """
import json, torch
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(),
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
}))
"""
VARIABLES = (
    *("HF_HUB_OFFLINE", "HF_HOME", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS"),
    *("CC", "XDG_CACHE_HOME", "MASHBILL_NATIVE", "MASHBILL_NO_PLUGINS"),
)


def doctor() -> Reply:
    """Say what is installed here, and what is wrong with it; exit 2 if something is."""
    torch, packages = _torch(), _packages()
    found = {kind: plugins.names(kind) for kind in get_args(plugins.Kind)}
    wrong = [f"{name} {has or 'is missing'}, but mashbill needs {needs}" for name, needs, has, ok in packages if not ok]
    if "error" in torch:
        wrong.append(f"torch cannot be imported: {torch['error']}")
    loops = _loops()
    if (error := loops.get("error")) is not None:
        wrong.append(error)
    value = {
        "ok": not wrong,
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "torch": torch,
        "compiled_loops": loops,
        "packages": {name: has for name, _, has, _ in packages},
        "plugins": found,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "problems": wrong,
    }
    return Reply(_lines(value), value, exit_code=2 if wrong else 0)


def _lines(value: dict[str, Any]) -> list[str]:
    torch = value["torch"]
    build = f"{torch['version']}, CUDA {torch['cuda'] or 'none'}" if "version" in torch else "cannot be imported"
    devices = ", ".join(torch.get("devices", [])) or "CPU only"
    return [
        f"python     {value['python']} on {value['platform']}",
        f"machine    {value['cores']} cores, {value['memory_gb']} GB memory, {value['free_disk_gb']} GB disk free here",
        f"torch      {build}; {devices}",
        f"compiler   {value['compiled_loops']['compiler'] or 'no C compiler'}",
        f"loops      {_said_of_loops(value['compiled_loops'])}",
        "packages   " + ", ".join(f"{name} {has or 'missing'}" for name, has in value["packages"].items()),
        *(f"{kind:10} {', '.join(names) or 'none'}" for kind, names in value["plugins"].items()),
        *(f"{name}={setting}" for name, setting in value["environment"].items()),
        *(f"problem: {problem}" for problem in value["problems"]),
        "ok" if value["ok"] else f"{len(value['problems'])} problem(s)",
    ]


def _torch() -> dict[str, Any]:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", TORCH_PROBE], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": "it takes more than two minutes"}
    if probe.returncode != 0:
        return {"error": (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]}
    return json.loads(probe.stdout.strip().splitlines()[-1])


def _loops() -> dict[str, str | None]:
    """Return compiler and library of the loss's loops, or why there is none; builds them, as the first loss would."""
    compiler = native.compiler()
    try:
        missing = native.why_not()
    except ValueError as error:
        return {"compiler": compiler, "library": None, "missing": None, "error": str(error)}
    return {"compiler": compiler, "library": None if missing else str(native.path()), "missing": missing}


def _said_of_loops(loops: dict[str, str | None]) -> str:
    if loops["library"]:
        return f"compiled, kept as {loops['library']}"
    why = loops["missing"] or loops.get("error")
    return f"not compiled: {why}; losses on a CPU have the same numbers without, and take longer"


def _packages() -> list[tuple[str, str, str | None, bool]]:
    """Return name, requirement, installed version and verdict of each package that the core needs."""
    found = []
    for text in requires("mashbill") or ():
        match = re.match(r"^([\w.\-]+)\s*(?:>=\s*([\w.]+))?", text)
        if match is None or ";" in text:  # those of the extras
            continue
        name, floor = match[1], match[2] or "0"
        try:
            has = version(name)
        except PackageNotFoundError:
            has = None
        found.append((name, f">={floor}", has, has is not None and _numbers(has) >= _numbers(floor)))
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+", maxsplit=1)[0])[:3])


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no such question
        return None
