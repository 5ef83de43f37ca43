"""Models of the hub are named with a commit, and taken from this machine's cache where they are there."""

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from mashbill.errors import MashbillError
from mashbill.teachers import LocalCausalLM, hub
from mashbill.teachers.folder import ModelFolder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OddConfig(LlamaConfig):
    model_type = "odd"


class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig

    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        output.logits = output.logits / 2
        return output
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def kept(cache, llama):
    """A model as the hub's client keeps it."""
    return shutil.copytree(llama.path, cache / "models--some--model" / "snapshots" / COMMIT)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", ""])
def test_what_is_no_commit_is_refused(revision):
    with pytest.raises(MashbillError, match=r"is no commit(.|\n)*branches and tags move") as caught:
        hub.snapshot("some/model", revision, teacher_id="t")
    assert caught.value.exit_code == 2


def test_a_hub_that_cannot_be_reached_is_one_error_without_noise(monkeypatch, caplog):
    def unreachable(name, **options):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5]")
        raise ConnectionError("no way")

    monkeypatch.setattr(hub, "kept", lambda *names, **options: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    before = logging.getLogger("huggingface_hub").level
    with pytest.raises(MashbillError, match=r"cannot be had: ConnectionError(.|\n)*no way"):
        hub.snapshot("some/model", COMMIT, teacher_id="t")
    assert "Retrying" not in caplog.text
    assert logging.getLogger("huggingface_hub").level == before


@pytest.mark.parametrize("name", ["model", "../model", "/models/some", "a/b/c", "./some/model"])
def test_a_revision_belongs_to_a_name_of_the_hub(name):
    with pytest.raises(MashbillError, match="is no name of the hub"):
        hub.snapshot(name, COMMIT, teacher_id="t")


def test_a_commit_is_taken_from_the_cache(kept, llama, causal_inputs):
    assert hub.snapshot("some/model", COMMIT, teacher_id="t") == kept
    inputs = causal_inputs(llama.tokenizer)
    teacher = LocalCausalLM("t", kept, llama.vocabulary, source="some/model")
    plain = LocalCausalLM("t", llama.path, llama.vocabulary)
    assert torch.equal(teacher.score(inputs).distribution.logprobs, plain.score(inputs).distribution.logprobs)
    assert teacher.identity()["source"] == "some/model"
    assert teacher.identity()["sha256"] == plain.identity()["sha256"]


def test_another_commit_is_another_model(kept):
    with pytest.raises(
        MashbillError, match=r"`some/model` at 99999999 is not here and cannot be had(.|\n)*hf download"
    ):
        hub.snapshot("some/model", "9" * 40, teacher_id="t")


def test_a_cache_with_the_configuration_alone_is_not_enough(kept):
    (kept / "model.safetensors").unlink()
    assert hub.kept("some/model", COMMIT) is None
    with pytest.raises(MashbillError, match="is not here and cannot be had"):
        hub.snapshot("some/model", COMMIT, teacher_id="t")


def test_what_is_downloaded_is_neither_a_pickle_nor_code_unless_asked_for(tmp_path, monkeypatch):
    asked = []
    (tmp_path / "model.safetensors").touch()

    def resolver(name, **options):
        if options.get("local_files_only"):
            raise FileNotFoundError
        asked.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", resolver)
    for code in (False, True):
        assert hub.snapshot("some/model", COMMIT, teacher_id="t", code=code) == tmp_path
    names = ["model.safetensors", "config.json", "tokenizer.json", "pytorch_model.bin", "model.pt", "modeling_odd.py"]
    for (name, options), expected in zip(asked, (names[:3], [*names[:3], names[-1]]), strict=True):
        assert (name, options["revision"]) == ("some/model", COMMIT)
        patterns = options["allow_patterns"]
        assert [one for one in names if any(Path(one).match(pattern) for pattern in patterns)] == expected


@pytest.fixture
def odd(kept):
    """A model whose code lies beside it: a Llama that halves its logits."""
    (kept / "modeling_odd.py").write_text(CODE)
    config = json.loads((kept / "config.json").read_text())
    config |= {"model_type": "odd", "architectures": ["OddForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "modeling_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}
    (kept / "config.json").write_text(json.dumps(config))
    return kept


def test_code_runs_where_it_is_trusted_and_nowhere_else(odd, llama, causal_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with pytest.raises(MashbillError, match="names code to run"):
        LocalCausalLM("t", odd, llama.vocabulary)
    inputs = causal_inputs(llama.tokenizer)
    teacher = LocalCausalLM("t", odd, llama.vocabulary, top_k=None, is_trusted=True)
    with torch.no_grad():
        expected = (llama.model(inputs.input_ids).logits / 2).log_softmax(-1)[inputs.mask]
    assert torch.allclose(teacher.score(inputs).distribution.logprobs[inputs.mask], expected, atol=2e-5)


def test_the_code_is_part_of_who_the_teacher_is(odd):
    before = ModelFolder(odd, is_trusted=True).pins
    (odd / "modeling_odd.py").write_text(CODE + "\n# changed\n")
    after = ModelFolder(odd, is_trusted=True).pins
    assert before["code"] != after["code"]
    assert before["sha256"] == after["sha256"]


def test_code_of_another_repository_is_refused_even_where_code_is_trusted(odd):
    config = json.loads((odd / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil/repo--modeling.Odd"}
    (odd / "config.json").write_text(json.dumps(config))
    with pytest.raises(MashbillError, match=r"names code of another repository: (.|\n)*a revision pins"):
        ModelFolder(odd, is_trusted=True)
