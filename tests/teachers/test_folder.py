"""What a model folder may hold."""

import json
import shutil
from importlib import util
from pathlib import Path

import pytest
import torch

from mashbill.errors import MashbillError
from mashbill.teachers import LocalCausalLM, folder
from mashbill.teachers.folder import ModelFolder


@pytest.fixture
def copy(llama, tmp_path) -> Path:
    return shutil.copytree(llama.path, tmp_path / "copy")


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_good_folder_passes(llama):
    model = ModelFolder(llama.path)
    assert [file.name for file in model.weight_files] == ["model.safetensors"]
    assert len(model.pins["sha256"]) == 64


def test_a_missing_folder_is_a_users_error(tmp_path):
    with pytest.raises(MashbillError, match="no model folder at") as caught:
        ModelFolder(tmp_path / "nothing")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_pickled_weights_are_refused(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(MashbillError, match=rf"as a pickle: {name}(.|\n)*can run code"):
        ModelFolder(copy)


def test_no_weights_at_all(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(MashbillError, match="no weights in"):
        ModelFolder(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_configuration_is_refused(copy, name):
    edit(copy / name, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(MashbillError, match=rf"{name}` names code to run: (.|\n)*never run"):
        ModelFolder(copy)


def test_a_kernel_from_elsewhere_is_refused(copy):
    edit(copy / "config.json", _attn_implementation_internal="somebody/kernel")
    with pytest.raises(MashbillError, match="names code to run"):
        ModelFolder(copy)


def test_an_index_may_not_point_outside(copy):
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    index = {"weight_map": {"a": "../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MashbillError, match=r"no weight file `../model.safetensors`"):
        ModelFolder(copy)


def test_shards_are_read_and_pinned(llama, causal_inputs, tmp_path):
    llama.model.save_pretrained(tmp_path, max_shard_size="20KB")
    llama.tokenizer.save_pretrained(tmp_path)
    teacher = LocalCausalLM("t", tmp_path, llama.vocabulary)
    assert len(teacher.folder.weight_files) > 1
    inputs = causal_inputs(llama.tokenizer)
    whole = LocalCausalLM("t", llama.path, llama.vocabulary).score(inputs)
    assert torch.equal(teacher.score(inputs).distribution.logprobs, whole.distribution.logprobs)


def test_a_broken_configuration_names_the_file(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(MashbillError, match=r"cannot read `.*config.json`"):
        ModelFolder(copy)


def test_incomplete_weights_are_refused(copy, llama, causal_inputs):
    edit(copy / "config.json", num_hidden_layers=3)
    with pytest.raises(MashbillError, match=r"incomplete: \d+ tensors are missing"):
        LocalCausalLM("t", copy, llama.vocabulary).score(causal_inputs(llama.tokenizer))


def test_damaged_weights_are_a_teachers_error(copy, llama, causal_inputs):
    (copy / "model.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(MashbillError, match="teacher `t` cannot be opened"):
        LocalCausalLM("t", copy, llama.vocabulary).score(causal_inputs(llama.tokenizer))


def test_gguf_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    with pytest.raises(MashbillError, match=r"pip install 'mashbill\[gguf\]'"):
        ModelFolder(tmp_path, "m.gguf")


def test_gguf_needs_the_file(tmp_path):
    with pytest.raises(MashbillError, match=r"no weight file `m\.gguf`"):
        ModelFolder(tmp_path, "m.gguf")


@pytest.mark.skipif(util.find_spec("gguf") is None, reason="needs the package gguf")
def test_a_damaged_gguf_is_a_teachers_error(tmp_path, llama):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(MashbillError, match="cannot be opened"):
        LocalCausalLM("t", tmp_path, llama.vocabulary, gguf_file="m.gguf")
