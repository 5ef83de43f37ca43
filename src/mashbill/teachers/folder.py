"""A model folder, looked at before anything in it is opened.

Weights are safetensors or GGUF; anything that could run code when it is loaded (pickles, a configuration that names
code of its own) is refused. Code that lies in the folder itself may be allowed, for one teacher at a time. This module
does not import torch.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mashbill.errors import MashbillError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
Kind = Literal["causal_lm", "classifier"]
_ENCODERS = ("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
_WRONG_HEADS: dict[Kind, tuple[str, ...]] = {
    "causal_lm": ("ForSequenceClassification", *_ENCODERS),
    "classifier": ("ForCausalLM", "LMHeadModel", *_ENCODERS),
}


@dataclass(frozen=True)
class ModelFolder:
    """A local model in the ``transformers`` layout, or a GGUF file in a folder.

    Attributes:
        path: The folder.
        gguf_file: Name of the GGUF file in it; None for safetensors.
        is_trusted: Code that lies in the folder itself may run. Whoever says so knows which code that is: see
            :func:`mashbill.teachers.hub.snapshot`.

    Raises:
        MashbillError: A file is missing, or the folder holds what must not be loaded.
    """

    path: Path
    gguf_file: str | None = None
    is_trusted: bool = False

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise MashbillError(
                f"no model folder at `{self.path}`",
                help="give the path of a folder with config.json and model.safetensors; nothing is downloaded",
            )
        _ = self.weight_files
        for name in ("config.json", "tokenizer_config.json"):
            needed = name == "config.json" and self.gguf_file is None
            _require_no_code(self.path / name, needed=needed, is_trusted=self.is_trusted)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in a fixed order."""
        if self.gguf_file is not None:
            return (self._gguf(),)
        if (self.path / INDEX).is_file():
            names = sorted(set(read_json(self.path / INDEX).get("weight_map", {}).values()))
            return tuple(self._inside(name) for name in names)
        if not (self.path / SINGLE).is_file():
            self._refuse_missing_weights()
        return (self.path / SINGLE,)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``; empty for GGUF, which carries its own."""
        return {} if self.gguf_file is not None else read_json(self.path / "config.json")

    @cached_property
    def pins(self) -> dict[str, str]:
        """What identifies the model whatever the folder is called: sha256 of weights, configuration and code."""
        config = self.path / "config.json"
        found = {
            "sha256": digest_of(self.weight_files),
            "config": digest_of((config,)) if config.is_file() else "",
        }
        return found | ({"code": digest_of(sorted(self.path.rglob("*.py")))} if self.is_trusted else {})

    @cached_property
    def n_parameters(self) -> int:
        """Numbers in the weights; of GGUF, which packs them, the most that its size allows."""
        if self.gguf_file is not None:
            return 2 * self.weight_files[0].stat().st_size
        headers = [read_header(file) for file in self.weight_files]
        return sum(math.prod(tensor["shape"]) for header in headers for tensor in header.values())

    def wrong_head(self, kind: Kind) -> str | None:
        """Return the architecture that the folder holds if no teacher of this kind can have it.

        ``transformers`` opens some of them all the same: an encoder, which sees what it should predict, or a decoder
        whose other half is missing.
        """
        heads = [str(name) for name in self.config.get("architectures") or ()]
        wrong = [name for name in heads if name.endswith(_WRONG_HEADS[kind])]
        if kind == "causal_lm" and self.config.get("is_encoder_decoder"):
            wrong += heads or ["encoder-decoder"]
        return wrong[0] if wrong else None

    def require_head(self, kind: Kind, *, teacher_id: str) -> None:
        """Refuse another kind of model.

        Raises:
            MashbillError: The configuration names one.
        """
        if wrong := self.wrong_head(kind):
            raise MashbillError(
                f"the model of teacher `{teacher_id}` is a {wrong}, and a {kind} is needed",
                where=f"teachers.{teacher_id} ({self.path / 'config.json'})",
                why="another head would be made up of random numbers, or would have seen what it is to predict",
                help="use a model that was trained as a " + {"causal_lm": "causal language model"}.get(kind, kind),
            )

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
        refuse_pickles(self.path, loader="AutoModel")
        raise MashbillError(
            f"no weights in `{self.path}`",
            why=f"neither {SINGLE} nor {INDEX} is there",
            help="name the file with `gguf_file` if the weights are GGUF",
        )


def refuse_pickles(folder: Path, *, loader: str) -> None:
    """Refuse weights that are a pickle; ``loader`` is the class that converts them.

    Raises:
        MashbillError: Such a file is in the folder.
    """
    found = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if found:
        raise MashbillError(
            f"`{folder}` holds its weights as a pickle: {', '.join(found[:3])}",
            why="loading a pickle can run code that somebody put into it",
            help="convert it once, where you trust it: "
            f"{loader}.from_pretrained(...).save_pretrained(..., safe_serialization=True)",
        )


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Return the tensors of a safetensors file by name: ``dtype`` and ``shape``.

    Raises:
        MashbillError: It is no such file.
    """
    try:
        with file.open("rb") as stream:
            n_bytes = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(n_bytes, file.stat().st_size)))
        header.pop("__metadata__", None)
        _ = [tensor["shape"] for tensor in header.values()]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise MashbillError(f"`{file}` is no safetensors file: {error}", help="copy or convert it again") from error
    return header


def digest_of(files: Iterable[Path]) -> str:
    """Return the sha256 of some files, one after the other."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        MashbillError: There is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MashbillError(f"cannot read `{file}`: {error}") from error
    if not isinstance(content, dict):
        raise MashbillError(f"`{file}` holds no JSON object")
    return content


def _require_no_code(file: Path, *, needed: bool, is_trusted: bool) -> None:
    if not file.is_file():
        if needed:
            raise MashbillError(f"no {file.name} in `{file.parent}`", help="a model folder needs its configuration")
        return
    config = read_json(file)
    attention = str(config.get("_attn_implementation_internal") or config.get("_attn_implementation") or "")
    code = config.get("auto_map")
    if is_trusted and "--" in json.dumps(code):
        raise MashbillError(
            f"`{file}` names code of another repository: {json.dumps(code)[:120]}",
            why="a revision pins the code of its own repository only",
            help="use a model whose code lies beside it",
        )
    if "/" in attention or ("auto_map" in config and not is_trusted):
        raise MashbillError(
            f"`{file}` names code to run: {json.dumps(code or attention)[:120]}",
            why="code from a model folder is never run",
            help="use a model that transformers has; or, if you have read the code, one of the hub with its commit as "
            "`revision` and `trust_remote_code: true`; or serve this one and use it through a plug-in",
        )
