"""Teachers that no run can use: one clear error through the command, exit code 2, nothing written."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mashbill import plugins
from mashbill.cli.app import main


class Silent:
    """A teacher that answers with one fixed reply."""

    labels = ("de", "en", "zz")

    def __init__(self, reply: dict[str, float] | None = None) -> None:
        self.reply = reply

    def predict(self, texts):
        if self.reply is None:
            raise ConnectionError("the model is not there")
        return [self.reply for _ in texts]


class Lazy:
    """A teacher that cannot start."""

    def __init__(self) -> None:
        raise OSError("no weights here")


class Mute:
    """A teacher that says nothing about its labels."""

    def predict(self, texts):
        return [{} for _ in texts]


class Foreign:
    """A teacher whose labels are all strange to the student."""

    labels = ("nb", "fi")

    def predict(self, texts):
        return [{"nb": 1.0} for _ in texts]


@pytest.fixture(autouse=True)
def _teachers(monkeypatch: pytest.MonkeyPatch, _word_teacher: None) -> None:
    monkeypatch.setitem(plugins._given["teachers"], "silent", Silent)
    for name, plugin in {"foreign": Foreign, "lazy": Lazy, "mute": Mute}.items():
        monkeypatch.setitem(plugins._given["teachers"], name, plugin)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"plugin": "silent", "options": {"reply": {"de": float("nan")}}}, "teacher `odd` gave no distribution"),
        ({"plugin": "silent", "options": {"reply": {"de": 0.9, "en": 0.4}}}, "its sum 1.3"),
        ({"plugin": "silent", "options": {"reply": {"de": -0.1}}}, "its least value is -0.1"),
        ({"plugin": "silent", "options": {"reply": {"fr": 1.0}}}, "a label that it did not declare: `fr`"),
        ({"plugin": "silent"}, "teacher `odd` failed: ConnectionError: the model is not there"),
        ({"plugin": "silent", "options": {"volume": 3}}, "volume"),
        ({"plugin": "foreign"}, "odd"),
        ({"plugin": "lazy"}, "the plug-in `lazy` cannot start: OSError: no weights here"),
        ({"plugin": "mute"}, "the plug-in `mute` has no `labels`"),
    ],
)
@pytest.mark.parametrize("command", ["distill", "scorecard"])
def test_a_plug_in(command, teacher, message, classification, tmp_path, capsys) -> None:
    changes = {"teachers": [{"id": "odd", **teacher}], "weighting": {}, "data.scorecard": "scorecard.jsonl"}
    loaded = classification(changes)
    refused(command, loaded, tmp_path, message, capsys)


@pytest.fixture
def other_tokenizer(language_models: Path, tmp_path: Path) -> Path:
    """A model whose tokenizer has as many entries as the student's, two of them exchanged."""
    folder = tmp_path / "other"
    shutil.copytree(language_models / "a", folder)
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    first, second = '"a":', '"b":'
    assert first in text
    assert second in text
    path.write_text(text.replace(first, "<1>").replace(second, first).replace("<1>", second), encoding="utf-8")
    return folder


@pytest.fixture
def broken_weights(language_models: Path, tmp_path: Path) -> Path:
    """A model with one weight that is no number."""
    folder = tmp_path / "broken"
    shutil.copytree(language_models / "a", folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_another_tokenizer_of_equal_size(language, other_tokenizer, tmp_path, capsys) -> None:
    teachers = [{"id": "odd", "model": str(other_tokenizer), "top_k": 8}]
    refused("distill", language({"teachers": teachers}), tmp_path, "does not share the student's vocabulary", capsys)


def test_weights_that_are_no_numbers(language, broken_weights, tmp_path, capsys) -> None:
    teachers = [{"id": "odd", "model": str(broken_weights), "top_k": 8}]
    refused("distill", language({"teachers": teachers}), tmp_path, "teacher `odd` gave logits that are not", capsys)


def refused(command, loaded, folder: Path, message: str, capsys) -> None:
    before = sorted(folder.rglob("*"))
    assert main([command, str(loaded.path)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("error:") == 1
    assert "Traceback" not in errors
    assert sorted(folder.rglob("*")) == before
