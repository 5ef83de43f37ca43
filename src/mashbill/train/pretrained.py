"""Models, tokenizers and adapters from folders on this machine, through ``transformers`` and ``peft``.

Nothing is downloaded and no code that comes with a model is run.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mashbill.errors import MashbillError
from mashbill.train import recipe

_OFFLINE = {"local_files_only": True, "trust_remote_code": False}
_WEIGHTS = {**_OFFLINE, "use_safetensors": True, "dtype": torch.float32}


def load_causal(directory: Path, gguf_file: str | None) -> nn.Module:
    """Load a language model in float32; one from GGUF is dequantised and can be saved again."""
    from transformers import AutoModelForCausalLM

    if gguf_file is None:
        return _loaded(AutoModelForCausalLM, directory)
    with quietly():
        quantised = AutoModelForCausalLM.from_pretrained(
            directory, gguf_file=gguf_file, dtype=torch.float32, **_OFFLINE
        )
    # A model read from GGUF refuses to be saved, so its dequantised weights move into a plain one.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    return plain


def load_classifier(
    directory: Path, labels: tuple[str, ...] | None, tokenizer: Any
) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a sequence classifier and its labels; other labels than its own, or no head, give it a new head."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(directory, **_OFFLINE)
    has_head = any("SequenceClassification" in name for name in config.architectures or ())
    own = tuple(label for _, label in sorted((config.id2label or {}).items())) if has_head else None
    if labels is None and own is None:
        raise MashbillError(
            "the model has no classification head and no labels are given", where="student.labels", help="list them"
        )
    if labels is None or labels == own:
        assert own is not None, "one of them was given"
        return _loaded(AutoModelForSequenceClassification, directory), own
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in config.id2label.items()}
    config.pad_token_id = tokenizer.pad_token_id
    module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    body = _loaded(AutoModel, directory)
    # A head is new even if an old one had the same size: its outputs meant something else.
    getattr(module, module.base_model_prefix).load_state_dict(body.state_dict(), strict=False)
    return module, labels


def _loaded(auto: Any, directory: Path) -> nn.Module:
    try:
        with quietly():
            return auto.from_pretrained(directory, **_WEIGHTS)
    except (OSError, ValueError) as error:
        raise MashbillError(
            f"cannot load the student: {str(error).splitlines()[0]}",
            where=str(directory),
            why="only model.safetensors is read; pickled weights could run code",
            help="save the model again with save_pretrained(..., safe_serialization=True)",
        ) from error


def load_tokenizer(directory: Path, *, where: str, gguf_file: str | None = None) -> Any:
    """Load a tokenizer; ``where`` is the recipe's key, for messages."""
    from transformers import AutoTokenizer

    options = _OFFLINE if gguf_file is None else {**_OFFLINE, "gguf_file": gguf_file}
    try:
        with quietly():
            return AutoTokenizer.from_pretrained(directory, **options)
    except (OSError, ValueError) as error:
        raise MashbillError(
            f"cannot load a tokenizer: {str(error).splitlines()[0]}",
            where=f"{where} ({directory})",
            help="give a folder that has one",
        ) from error


def with_adapter(module: nn.Module, peft: recipe.Peft | None, task_type: str) -> nn.Module:
    """Wrap a model with the LoRA adapter that a recipe asks for, if it does."""
    if peft is None:
        return module
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MashbillError(
            "LoRA needs the package `peft`", where="student.peft", help="pip install 'mashbill[peft]'"
        ) from error
    config = LoraConfig(
        r=peft.r,
        lora_alpha=peft.alpha,
        lora_dropout=peft.dropout,
        target_modules=peft.target_modules,
        task_type=task_type,
    )
    with quietly():
        return get_peft_model(module, config)  # pyright: ignore[reportArgumentType]  # every model of transformers is one it takes


@contextmanager
def quietly() -> Iterator[None]:
    """Hide progress bars and what libraries say to each other about coming versions; nobody here can act on either."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if was_on:
            logging.enable_progress_bar()
