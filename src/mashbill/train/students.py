"""Students: built from a recipe, or loaded from the directory that a run has written.

Not covered: code from a model's folder. It is never run, whatever its configuration asks for.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mashbill import plugins
from mashbill.durable import sha256_of
from mashbill.errors import CorruptionError, MashbillError, did_you_mean
from mashbill.teachers.folder import ModelFolder
from mashbill.train import recipe
from mashbill.train.causal import CausalStudent
from mashbill.train.classifier import SequenceClassifier
from mashbill.train.label_list import read_labels
from mashbill.train.pretrained import load_causal, load_classifier, load_tokenizer, quietly, with_adapter
from mashbill.train.protocol import NO_LABEL, Batch, EncodedRow, Origin, Student, StudentArchitecture

__all__ = [
    "NO_LABEL",
    "Batch",
    "EncodedRow",
    "Origin",
    "Student",
    "StudentArchitecture",
    "build_student",
    "load_student",
    "origin",
]


def build_student(spec: recipe.Student, base: Path, seed: int) -> Student:
    """Build the student that a recipe asks for, with fresh parts drawn from ``seed``.

    The global random state is left as it was.

    Args:
        spec: The recipe's ``student``.
        base: Folder that relative paths start from.
        seed: Of everything drawn: new weights, new heads, adapters.

    Raises:
        MashbillError: No such model, unknown configuration keys, options that the architecture does not take.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.architecture is not None:
            return _from_architecture(spec.architecture, _labels(spec, base) or (), spec.options)
        if spec.config is not None:
            return _from_configuration(spec, base)
        return _from_model(spec, base)


def load_student(directory: Path) -> Student:
    """Load a student that a run has saved.

    Raises:
        MashbillError: There is no student in ``directory``.
    """
    if (directory / "adapter_config.json").is_file():
        return _load_adapter(directory)
    config = _read_json(directory / "config.json")
    if "architecture" in config:
        labels = _read_json(directory / "labels.json")["labels"]
        student = _from_architecture(config["architecture"], labels, config["options"])
        try:
            student.module.load_state_dict(load_file(directory / "model.safetensors"))
        except (RuntimeError, ValueError) as error:
            raise CorruptionError(
                f"the student's weights do not fit its configuration: {error}", where=str(directory)
            ) from error
        return student
    causal = any("CausalLM" in name or "LMHead" in name for name in config.get("architectures") or ())
    return _from_model(recipe.Student(kind="causal_lm" if causal else "classifier", model=directory), Path())


def origin(spec: recipe.Student, base: Path) -> Origin:
    """Return what pins down a student's first parameters, for lineage and for the ledger of a resume."""
    if spec.model is not None:
        return {"kind": spec.kind, "source": str(spec.model), **ModelFolder(base / spec.model, spec.gguf_file).pins}
    if spec.architecture is not None:
        return {"kind": spec.kind, "source": spec.architecture}
    assert spec.tokenizer is not None, "the recipe requires it beside `config`"
    return {"kind": spec.kind, "source": "config", "sha256": sha256_of(base / spec.tokenizer)}


def _from_architecture(name: str, labels: Sequence[str], options: Mapping[str, Any]) -> Student:
    try:
        student = plugins.resolve("students", name)(tuple(labels), **options)
    except (TypeError, ValueError) as error:
        raise MashbillError(
            f"architecture `{name}` does not take these options: {error}",
            where="student.options",
            help="correct the option, or leave it out for its default",
        ) from error
    return student


def _from_configuration(spec: recipe.Student, base: Path) -> Student:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert spec.config is not None, "the caller looked"
    assert spec.tokenizer is not None, "the recipe requires it beside `config`"
    tokenizer = load_tokenizer(base / spec.tokenizer, where="student.tokenizer")
    given = dict(spec.config)
    model_type = given.pop("model_type", None)
    try:
        known = AutoConfig.for_model(model_type).to_dict()
    except (KeyError, ValueError) as error:
        raise MashbillError(
            f"no model type `{model_type}`",
            where="student.config.model_type",
            help="name one that transformers has, such as llama",
        ) from error
    for key in given:
        if key not in known:
            raise MashbillError(
                f"{model_type} has no option `{key}`{did_you_mean(key, known)}",
                where=f"student.config.{key}",
                help="correct it",
            )
    n_entries = max(tokenizer.get_vocab().values()) + 1
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(model_type, **{"vocab_size": n_entries, **marks, **given})
    if config.vocab_size < n_entries:
        raise MashbillError(
            f"vocab_size={config.vocab_size} is smaller than the tokenizer's {n_entries} ids",
            where="student.config.vocab_size",
            help="leave vocab_size out",
        )
    if spec.peft is not None:
        raise MashbillError(
            "LoRA adapts a saved model; a model from `config` has nothing to adapt",
            where="student.peft",
            help="leave `peft` out",
        )
    return CausalStudent(AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer)


def _from_model(spec: recipe.Student, base: Path) -> Student:
    assert spec.model is not None, "the recipe requires it"
    if spec.peft is not None and spec.gguf_file is not None:
        raise MashbillError(
            "an adapter cannot name a GGUF file as its base",
            where="student.gguf_file",
            help="save the model with save_pretrained first, and give that folder",
        )
    # An adapter remembers where its base is, whatever the current folder is then.
    directory = ModelFolder((base / spec.model).resolve(), spec.gguf_file).path
    tokenizer = load_tokenizer(directory, where="student.model", gguf_file=spec.gguf_file)
    if spec.kind == "causal_lm":
        module = load_causal(directory, spec.gguf_file)
        return CausalStudent(with_adapter(module, spec.peft, "CAUSAL_LM"), tokenizer)
    module, labels = load_classifier(directory, _labels(spec, base), tokenizer)
    return SequenceClassifier(with_adapter(module, spec.peft, "SEQ_CLS"), tokenizer, labels)


def _load_adapter(directory: Path) -> Student:
    from peft import PeftModel

    config = _read_json(directory / "adapter_config.json")
    kind = "causal_lm" if config["task_type"] == "CAUSAL_LM" else "classifier"
    labels = _read_json(directory / "labels.json")["labels"] if kind == "classifier" else None
    student = _from_model(
        recipe.Student(kind=kind, model=Path(config["base_model_name_or_path"]), labels=labels), Path()
    )
    with quietly():
        student.module = PeftModel.from_pretrained(student.module, directory)  # pyright: ignore[reportArgumentType]  # as above
    return student


def _labels(spec: recipe.Student, base: Path) -> tuple[str, ...] | None:
    if spec.labels is None:
        return None
    return read_labels(base / spec.labels if isinstance(spec.labels, Path) else spec.labels)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MashbillError(
            f"there is no student here: {error}", where=str(path.parent), help="name the `student` folder of a run"
        ) from error
