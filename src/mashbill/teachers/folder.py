"""A model folder, looked at before anything in it is opened.

Weights are safetensors or GGUF; anything that could run code when it is loaded (pickles, a configuration that names
code of its own) is refused. This module does not import torch.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mashbill.errors import MashbillError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class ModelFolder:
    """A local model in the ``transformers`` layout, or a GGUF file in a folder.

    Attributes:
        path: The folder.
        gguf_file: Name of the GGUF file in it; None for safetensors.

    Raises:
        MashbillError: A file is missing, or the folder holds what must not be loaded.
    """

    path: Path
    gguf_file: str | None = None

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise MashbillError(
                f"no model folder at `{self.path}`",
                help="give the path of a folder with config.json and model.safetensors; nothing is downloaded",
            )
        _ = self.weight_files
        for name in ("config.json", "tokenizer_config.json"):
            _require_no_code(self.path / name, needed=name == "config.json" and self.gguf_file is None)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in a fixed order."""
        if self.gguf_file is not None:
            return (self._gguf(),)
        if (self.path / INDEX).is_file():
            names = sorted(set(_read_json(self.path / INDEX).get("weight_map", {}).values()))
            return tuple(self._inside(name) for name in names)
        if not (self.path / SINGLE).is_file():
            self._refuse_missing_weights()
        return (self.path / SINGLE,)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``; empty for GGUF, which carries its own."""
        return {} if self.gguf_file is not None else _read_json(self.path / "config.json")

    @cached_property
    def pins(self) -> dict[str, str]:
        """What identifies the model whatever the folder is called: sha256 of weights and of the configuration."""
        whole = hashlib.sha256()
        for file in self.weight_files:
            for block in _blocks(file):
                whole.update(block)
        config = self.path / "config.json"
        return {
            "sha256": whole.hexdigest(),
            "config": hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else "",
        }

    def _gguf(self) -> Path:
        file = self._inside(str(self.gguf_file))
        if find_spec("gguf") is None:
            raise MashbillError(
                f"`{file}` cannot be read without the package `gguf`", help="pip install 'mashbill[gguf]'"
            )
        return file

    def _inside(self, name: str) -> Path:
        file = self.path / name
        if Path(name).name != name or not file.is_file():
            raise MashbillError(
                f"no weight file `{name}` in `{self.path}`", why="weight files lie in the model folder itself"
            )
        return file

    def _refuse_missing_weights(self) -> None:
        pickles = sorted(file.name for pattern in PICKLES for file in self.path.glob(pattern))
        if pickles:
            raise MashbillError(
                f"`{self.path}` holds its weights as a pickle: {', '.join(pickles[:3])}",
                why="loading a pickle can run code that somebody put into it",
                help="convert it once, where you trust it: "
                "AutoModel.from_pretrained(...).save_pretrained(..., safe_serialization=True)",
            )
        raise MashbillError(
            f"no weights in `{self.path}`",
            why=f"neither {SINGLE} nor {INDEX} is there",
            help="name the file with `gguf_file` if the weights are GGUF",
        )


def _require_no_code(file: Path, *, needed: bool) -> None:
    if not file.is_file():
        if needed:
            raise MashbillError(f"no {file.name} in `{file.parent}`", help="a model folder needs its configuration")
        return
    config = _read_json(file)
    attention = str(config.get("_attn_implementation_internal") or config.get("_attn_implementation") or "")
    if "auto_map" in config or "/" in attention:
        named = config.get("auto_map") or attention
        raise MashbillError(
            f"`{file}` names code to run: {json.dumps(named)[:120]}",
            why="code from a model folder is never run",
            help="use a model that transformers knows, or serve this one and use it through a plug-in",
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MashbillError(f"cannot read `{file}`: {error}") from error
    if not isinstance(content, dict):
        raise MashbillError(f"`{file}` holds no JSON object")
    return content


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block
