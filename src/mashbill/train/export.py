"""A student as a plain artefact: what others load without this package, with a card and its lineage.

A ``transformers`` student becomes a folder for ``AutoModel...from_pretrained``; a LoRA student is merged into its base;
the built-in classifier comes with ``student.py``, one file that needs torch, numpy and safetensors.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

from mashbill import durable
from mashbill.errors import MashbillError
from mashbill.train import standalone
from mashbill.train.card import model_card
from mashbill.train.comparison import read_json
from mashbill.train.loading import load_recipe
from mashbill.train.students import load_student

Form = Literal["hashed_ngram", "causal_lm", "classifier", "adapter", "plugin"]
LINEAGE = ("teacher_manifest.json", "recipe.yaml", "result.json", "scorecard.json")


def export(run_dir: Path, to: Path, *, merge: bool = True) -> list[Path]:
    """Write a run's student to a new folder and return its files.

    Args:
        run_dir: A finished run.
        to: A folder that does not exist yet; written beside its place and renamed, so it is whole or absent.
        merge: Merge a LoRA adapter into its base model; otherwise the adapter is written alone.

    Raises:
        MashbillError: ``to`` exists, the run has no student yet, or a merged weight would not be finite.
    """
    run_dir, to = Path(run_dir), Path(to)
    student = run_dir / "student"
    if to.exists() or to.is_symlink():
        raise MashbillError(
            f"`{to}` exists", why="an export never overwrites", help="give a new folder, or remove it first"
        )
    if not (run_dir / "run.json").is_file():
        raise MashbillError(
            "there is no run", where=str(run_dir), help="give the folder that the recipe names under `output`"
        )
    if not student.is_dir():
        raise MashbillError(
            "the run has no student yet",
            where=str(student),
            help="finish it: `mashbill distill` with the same recipe goes on",
        )
    aside = to.absolute().with_name(f".{to.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        form = _write_student(student, aside, run_dir, merge=merge)
        _write_lineage(run_dir, aside)
        result = read_json(run_dir / "result.json") if (run_dir / "result.json").is_file() else None
        card = model_card(
            to.name,
            form=form,
            run=read_json(run_dir / "run.json"),
            result=result,
            has_comparison=(run_dir / "comparison.json").is_file(),
        )
        (aside / "README.md").write_text(card, encoding="utf-8")
        durable.publish(aside, to.absolute())
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return sorted(path for path in to.rglob("*") if path.is_file())


def _write_student(student: Path, aside: Path, run_dir: Path, *, merge: bool) -> Form:
    if (student / "adapter_config.json").is_file():
        if merge:
            return _write_merged(student, aside)
        _copy(student, aside)
        return "adapter"
    _copy(student, aside)
    config = read_json(student / "config.json")
    if "architecture" not in config:
        return _form_of(config)
    if config["architecture"] != "hashed_ngram":
        return "plugin"
    # How much of a text was read in training is the recipe's; without the recipe it has to be the model's.
    max_length = load_recipe(run_dir / "recipe.yaml").recipe.data.max_length
    text = json.dumps({**config, "max_length": max_length}, indent=1, ensure_ascii=False)
    (aside / "config.json").write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(str(standalone.__file__), aside / "student.py")
    return "hashed_ngram"


def _write_merged(student: Path, aside: Path) -> Form:
    loaded = load_student(student)
    module: Any = loaded.module
    try:
        merged = module.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise MashbillError(
            f"the adapter cannot be merged: {error}", where=str(student), help="export it alone, with merge=False"
        ) from error
    # peft wraps the head of a classifier in a list of modules to save; after merging it is a plain model again.
    merged.to(torch.float32).save_pretrained(aside)
    tokenizer = getattr(loaded, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)
    return "causal_lm" if loaded.kind == "causal_lm" else "classifier"


def _form_of(config: dict[str, Any]) -> Form:
    names = config.get("architectures") or ()
    return "classifier" if any("SequenceClassification" in name for name in names) else "causal_lm"


def _copy(student: Path, aside: Path) -> None:
    for file in sorted(student.iterdir()):
        if file.is_file() and file.name != "README.md":
            shutil.copyfile(file, aside / file.name)


def _write_lineage(run_dir: Path, aside: Path) -> None:
    for name in LINEAGE:
        if (run_dir / name).is_file():
            shutil.copyfile(run_dir / name, aside / name)
