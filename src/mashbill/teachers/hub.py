"""Models of the Hugging Face hub, by name and commit; nothing of a hub is taken without one. Does not import torch.

A branch or a tag means something else tomorrow. A commit does not, so a name with a commit pins weights, tokenizer and
code as a folder's sha256 does.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mashbill.errors import MashbillError

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
REST = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


def is_commit(revision: str) -> bool:
    """Say whether this is a full commit hash, and not a branch or a tag."""
    return COMMIT.fullmatch(revision) is not None


def is_name(text: str) -> bool:
    """Say whether this can be a name of the hub: ``organisation/model``."""
    return NAME.fullmatch(text) is not None


def require_pinned(name: str, revision: str, *, where: str) -> None:
    """Refuse what does not say for good which model is meant.

    Raises:
        MashbillError: The revision is no commit, or the model no name of the hub.
    """
    if not is_commit(revision):
        raise MashbillError(
            f"revision={revision!r} is no commit",
            where=where,
            why="branches and tags move, and the teacher with them",
            help="give the commit's 40 hexadecimal digits, as the model's page shows them under `commits`",
        )
    if not is_name(name):
        raise MashbillError(
            f"`{name}` is no name of the hub",
            where=where,
            why="a `revision` belongs to a model of the hub; a folder is pinned by the sha256 of its files",
            help="write it as `organisation/model`, or leave `revision` out for a folder",
        )


def kept(name: str, revision: str, *, gguf_file: str | None = None, code: bool = False) -> Path | None:
    """Return the folder of a model at one commit from the cache of this machine; None if not all of it is there."""
    from huggingface_hub import snapshot_download

    asked = _asked(gguf_file, code=code)
    try:
        return _whole(snapshot_download(name, revision=revision, local_files_only=True, **asked), asked)
    except OSError:
        return None


def snapshot(name: str, revision: str, *, teacher_id: str, gguf_file: str | None = None, code: bool = False) -> Path:
    """Return the folder of a model of the hub at one commit: that of the local cache, downloaded if it is not there.

    Pickles are never downloaded, and code only if it is asked for.

    Args:
        name: ``organisation/model``.
        revision: The commit.
        teacher_id: For messages.
        gguf_file: The one file of weights to take, if they are GGUF.
        code: Whether to take the code that lies beside the model.

    Raises:
        MashbillError: The revision is no commit, or there is no such model, or no way to it.
    """
    from huggingface_hub import snapshot_download

    where = f"teachers.{teacher_id}"
    require_pinned(name, revision, where=where)
    here = kept(name, revision, gguf_file=gguf_file, code=code)
    if here is not None:
        return here
    asked = _asked(gguf_file, code=code)
    try:
        with _quiet():
            return _whole(snapshot_download(name, revision=revision, **asked), asked)
    except Exception as error:  # what the hub's client raises has no common class
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0") else ""
        raise MashbillError(
            f"model `{name}` at {revision[:8]} is not here and cannot be had: {type(error).__name__}{offline}",
            where=where,
            why=str(error).strip().partition("\n")[0][:200],
            help="download it where there is a network, `hf download NAME --revision COMMIT`, or give a folder",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client from printing each of its attempts: what became of them is said once, by whoever asked."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _asked(gguf_file: str | None, *, code: bool) -> dict[str, Any]:
    patterns = [*((gguf_file,) if gguf_file else WEIGHTS), *REST, *(("*.py",) if code else ())]
    return {"allow_patterns": patterns, "ignore_patterns": ["consolidated*", "original/*"]}


def _whole(folder: str, asked: dict[str, Any]) -> Path:
    """Refuse a snapshot without weights: a cache that other programs filled may hold the configuration alone."""
    if not any(Path(folder).glob(asked["allow_patterns"][0])):
        raise FileNotFoundError(f"no {asked['allow_patterns'][0]} in {folder}")
    return Path(folder)
