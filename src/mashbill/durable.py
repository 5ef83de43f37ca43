"""Files that are either whole or absent, and the hashes that prove it.

Everything is written beside its place, synced, and renamed: a reader sees the old bytes or the new ones, through a kill
and through a power loss. A hash kept beside the file tells later whether its bytes are still those that were written.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file; of a directory, that of its files' names and hashes in sorted order."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a hidden path to write a file at; sync it and rename it to ``path`` when the block ends without an error."""
    make_folder(path.parent)
    aside = name_aside(path)
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def name_aside(path: Path) -> Path:
    """Return a hidden name beside a file that nobody else has, on this machine or on one that shares its disk."""
    return path.with_name(f".{path.name}.{platform.node()[:32]}.{os.getpid()}.{secrets.token_hex(4)}")


def sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left half written of a file, or of those that begin with ``name`` and a dot.

    Whoever calls this knows that nobody is writing them now.
    """
    for aside in folder.glob(f".{name}.*"):
        aside.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a directory and those above it, and put the entries of all that were not there on the disk."""
    missing = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync(place.absolute().parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def json_text(value: Mapping[str, Any] | list[Any]) -> str:
    """Return the one text that :func:`write_json` writes for a value: a file with any other text was changed."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON whole or not at all; NaN and infinity are no JSON and raise ``ValueError``."""
    write_text(path, json_text(value))


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.torch import save_file

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as aside:
        save_file(own, str(aside), metadata=dict(metadata or {}))


def publish(aside: Path, place: Path) -> None:
    """Sync a directory that was written aside, file by file, and rename it to ``place``.

    What stood at ``place`` is moved away first and removed last. A kill in between leaves the old one under its hidden
    name and the new one nowhere: whoever looks finds no directory, never half of one.
    """
    for file in aside.rglob("*"):
        sync(file)
    sync(aside)
    old = place.with_name(f".old-{place.name}-{os.getpid()}")
    if place.exists():
        place.rename(old)
    aside.rename(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Make the kernel put a file or a directory's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
