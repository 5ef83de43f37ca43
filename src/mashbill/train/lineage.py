"""What a run leaves behind about itself: ``run.json``, ``teacher_manifest.json``, ``recipe.yaml`` and ``run.log``."""

import hashlib
import json
import logging
import platform
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from mashbill.durable import write_json, write_text
from mashbill.errors import CorruptionError
from mashbill.train.loading import Loaded

log = logging.getLogger(__name__)

Status = Literal["running", "finished", "interrupted", "stopped"]
"""``interrupted``: told to stop from outside; ``stopped``: by an error or at the asked step. Both can go on."""


class RunRecord:
    """``run.json``: rewritten whole whenever something is known.

    Args:
        directory: Of the run.
        loaded: Its recipe.
    """

    def __init__(self, directory: Path, loaded: Loaded) -> None:
        self.path = directory / "run.json"
        before = read_run(directory)
        self.values: dict[str, Any] = {
            "mashbill": _version("mashbill"),
            "torch": _version("torch"),
            "transformers": _version("transformers"),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "seed": loaded.recipe.train.seed,
            "started": before.get("started") or _now(),
            "finished": None,
            "resumes": before.get("resumes", -1) + 1,
            "status": "running",
            "recipe_sha256": recipe_sha256(loaded),
            "teacher_seconds": before.get("teacher_seconds", 0.0),
        }
        write_text(directory / "recipe.yaml", loaded.text)
        self.update()

    def update(self, **values: Any) -> None:
        """Add or replace values and write the file."""
        self.values |= values
        self.values["peak_memory_mb"] = round(_peak_memory_mb(), 1)
        write_json(self.path, self.values)

    def end(self, status: Status) -> None:
        """Write the last status."""
        self.update(status=status, finished=_now() if status == "finished" else None)
        log.info("%s after %d steps", status, self.values.get("steps", 0))


def read_run(directory: Path) -> dict[str, Any]:
    """Return the ``run.json`` of a run; empty if there is none.

    Raises:
        CorruptionError: It is no JSON.
    """
    path = directory / "run.json"
    try:
        return json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise CorruptionError(
            "run.json cannot be read",
            where=str(path),
            help="remove the file: the same command goes on from the last checkpoint",
        ) from error


def recipe_sha256(loaded: Loaded) -> str:
    """Return the sha256 of the recipe's text."""
    return hashlib.sha256(loaded.text.encode()).hexdigest()


def write_manifest(directory: Path, teachers: Sequence[Mapping[str, str]]) -> None:
    """Write who taught, with the hashes that pin each teacher down."""
    write_json(directory / "teacher_manifest.json", {"teachers": [dict(teacher) for teacher in teachers]})


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Copy what the package logs into a file."""
    logger = logging.getLogger("mashbill")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
