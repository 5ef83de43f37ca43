"""Teachers that run here, through the command: what works, and one clear error for what cannot."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from teachers.lora import edit_json, make_adapter
from teachers.pretended_vllm import PretendedLLM
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, BertForSequenceClassification, T5Config

from mashbill.cli.app import main
from mashbill.teachers import bases, vllm_offline
from mashbill.train import local_models

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def adapters(language_models, tmp_path_factory) -> Path:
    """Two adapters for the model ``a``."""
    folder = tmp_path_factory.mktemp("adapters")
    model = AutoModelForCausalLM.from_pretrained(language_models / "a")
    for seed, name in enumerate(("one", "two")):
        make_adapter(folder / name, model, seed=seed)
    return folder


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the models that were opened."""
    found, real = [], bases.open_model

    def counted(auto_class, folder, **options):
        found.append(folder.path.name)
        return real(auto_class, folder, **options)

    monkeypatch.setattr(bases, "open_model", counted)
    return found


def test_a_run_opens_the_model_of_three_teachers_once(language, language_models, adapters, opened, tmp_path) -> None:
    base = str(language_models / "a")
    teachers = [
        {"id": "plain", "model": base, "top_k": 8},
        {"id": "one", "model": base, "adapter": str(adapters / "one"), "top_k": 8},
        {"id": "b", "model": str(language_models / "b"), "top_k": 8},
        {"id": "two", "model": base, "adapter": str(adapters / "two"), "top_k": 8},
    ]
    loaded = language({"teachers": teachers})
    assert main(["distill", str(loaded.path)]) == 0
    assert sorted(opened) == ["a", "b"]
    manifest = json.loads((tmp_path / "run" / "teacher_manifest.json").read_text())
    pinned = {one["id"]: one for one in manifest["teachers"]}
    assert pinned["one"]["adapter"] != pinned["two"]["adapter"]
    assert pinned["one"]["sha256"] == pinned["plain"]["sha256"]


def test_one_model_at_a_time_where_that_is_asked_for(language, language_models, opened, monkeypatch) -> None:
    counts, real = [], bases.Bases.speaking

    def counted(self, lease):
        model = real(self, lease)
        counts.append(len(self.open))
        return model

    monkeypatch.setattr(bases.Bases, "speaking", counted)
    teachers = [{"id": n, "model": str(language_models / n), "top_k": 8, "off_load": "drop"} for n in "ab"]
    assert main(["distill", str(language({"teachers": teachers}).path)]) == 0
    assert set(counts) == {1}
    assert opened == ["a", "b", "a", "b"]  # for the first row of all; then each for all of its rows


@pytest.fixture
def folders(language_models, adapters, tmp_path, monkeypatch) -> dict[str, str]:
    """Folders that no teacher can have, by name."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    places = {name: tmp_path / "models" / name for name in ("pickled", "bare", "coded", "masked", "sorted", "halves")}
    for place in places.values():
        shutil.copytree(language_models / "a", place)
    (places["pickled"] / "model.safetensors").rename(places["pickled"] / "pytorch_model.bin")
    (places["bare"] / "model.safetensors").unlink()
    edit_json(places["coded"] / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    for name, kind in {"masked": BertForMaskedLM, "sorted": BertForSequenceClassification}.items():
        kind(BertConfig(vocab_size=300, **small)).save_pretrained(places[name])
    config = T5Config(vocab_size=300).to_dict() | {"architectures": ["T5ForConditionalGeneration"]}
    (places["halves"] / "config.json").write_text(json.dumps(config, default=str))
    wider = type(AutoModelForCausalLM.from_pretrained(language_models / "a").config)
    config = json.loads((language_models / "a" / "config.json").read_text()) | {"hidden_size": 48}
    places["foreign"] = make_adapter(
        tmp_path / "models/foreign", AutoModelForCausalLM.from_config(wider(**config)), seed=1
    )
    places["unsaid"] = shutil.copytree(adapters / "one", tmp_path / "models/unsaid")
    (places["unsaid"] / "adapter_config.json").unlink()
    places["pissa"] = shutil.copytree(adapters / "one", tmp_path / "models/pissa")
    edit_json(places["pissa"] / "adapter_config.json", init_lora_weights="pissa")
    shutil.copytree(language_models / "a", tmp_path / f"cache/models--some--model/snapshots/{COMMIT}")
    return {name: str(path) for name, path in places.items()} | {"a": str(language_models / "a")}


@pytest.mark.parametrize("command", ["validate", "distill"])
@pytest.mark.parametrize(
    ("teacher", "key", "message"),
    [
        ({"model": "nowhere"}, "model", "no model folder at"),
        ({"model": "some/model"}, "model", "for a model of the hub, give the commit as `revision`"),
        ({"model": "<pickled>"}, "model", "holds its weights as a pickle: pytorch_model.bin"),
        ({"model": "<bare>"}, "model", "no weights in"),
        ({"model": "<coded>"}, "model", "names code to run"),
        ({"model": "<masked>"}, "model", "holds a BertForMaskedLM, but the student is a causal_lm"),
        ({"model": "<sorted>"}, "model", "holds a BertForSequenceClassification, but the student is a causal_lm"),
        ({"model": "<halves>"}, "model", "holds a T5ForConditionalGeneration, but the student is a causal_lm"),
        ({"model": "<a>", "adapter": "nowhere"}, "adapter", "no adapter folder at"),
        ({"model": "<a>", "adapter": "<unsaid>"}, "adapter", "no adapter_config.json in"),
        ({"model": "<a>", "adapter": "<a>"}, "adapter", "it is no adapter but a whole model"),
        ({"model": "<a>", "adapter": "<pissa>"}, "adapter", "changes more than it adds: init_lora_weights: pissa"),
        ({"model": "<a>", "revision": COMMIT}, "revision", "is no name of the hub"),
        ({"model": "some/model", "revision": "main"}, "revision", "revision='main' is no commit"),
        ({"model": "<a>", "trust_remote_code": True}, "trust_remote_code", "needs `revision`, which pins the code"),
        ({"model": "<a>", "off_load": "cpu"}, "off_load", "moves nothing"),
        ({"model": "<a>", "device": "cpu", "device_map": "auto"}, "device", "`device_map` gives several"),
        ({"store": "somewhere", "adapter": "<a>"}, "adapter", "belongs to a local `model`"),
    ],
)
def test_what_a_recipe_cannot_mean(command, teacher, key, message, folders, language, tmp_path, capsys) -> None:
    given = {name: folders.get(str(value).strip("<>"), value) for name, value in teacher.items()}
    loaded = language({"teachers": [{"id": "odd", **given}]})
    assert f"teachers[0].{key}" in refused(
        command, loaded, tmp_path, message, capsys, n_errors=1 + ("store" in teacher)
    )


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"model": "<a>", "adapter": "<foreign>"}, "the adapter of teacher `odd` does not fit its model"),
        ({"model": "<a>", "device": "cuda:99"}, "no device `cuda:99` on this machine"),
        ({"model": "<a>", "device_map": {"model": "warp", "lm_head": "cpu"}}, "no device `warp` on this machine"),
        ({"model": "some/model", "revision": "9" * 40}, "`some/model` at 99999999 is not here and cannot be had"),
    ],
)
def test_what_only_opening_can_tell(teacher, message, folders, language, tmp_path, capsys) -> None:
    given = {
        name: folders.get(value.strip("<>"), value) if isinstance(value, str) else value
        for name, value in teacher.items()
    }
    refused("distill", language({"teachers": [{"id": "odd", **given}]}), tmp_path, message, capsys)


@pytest.mark.parametrize("rows", ["train", "eval"])
def test_a_row_longer_than_the_models_context(rows, folders, language, language_models, tmp_path, capsys) -> None:
    short = shutil.copytree(language_models / "a", tmp_path / "short")
    edit_json(short / "config.json", max_position_embeddings=50)
    loaded = language({"teachers": [{"id": "odd", "model": str(short)}], "data.max_length": 64})
    text = " ".join(["haus"] * 50)
    with (tmp_path / f"{rows}.jsonl").open("a") as file:
        file.write(json.dumps({"id": "the long one", "text": text}) + "\n")
    found = refused("distill", loaded, tmp_path, "teacher `odd` reads 50 tokens at most, and a row has", capsys)
    assert "row `the long one" in found
    assert "data.max_length: 50" in found


def test_a_model_of_the_hub_at_a_commit_teaches(folders, language, tmp_path) -> None:
    teachers = [{"id": "t", "model": "some/model", "revision": COMMIT, "top_k": 8}]
    assert main(["distill", str(language({"teachers": teachers}).path)]) == 0
    manifest = json.loads((tmp_path / "run" / "teacher_manifest.json").read_text())
    assert manifest["teachers"][0]["source"] == "some/model"


@pytest.fixture
def engines(monkeypatch, language_models) -> list[dict]:
    """vLLM, pretended: the settings of every engine that was opened."""
    opened = []

    def opens(settings, n_logprobs):
        opened.append(dict(settings))
        return PretendedLLM(AutoModelForCausalLM.from_pretrained(settings["model"])), n_logprobs

    monkeypatch.setattr(vllm_offline, "_vllm", opens)
    for module in (vllm_offline, local_models):
        monkeypatch.setattr(module, "find_spec", lambda name: True)
    return opened


def test_an_engine_captures_and_the_student_learns_from_it(language, language_models, engines, tmp_path) -> None:
    model = str(language_models / "a")
    teacher = {"id": "a", "model": model, "engine": "vllm", "options": {"seed": 3}, "store": "store"}
    loaded = language({"teachers": [teacher], "weighting": {}, "capture.k": 20})
    assert main(["capture", str(loaded.path), "--workers", "1"]) == 0
    assert [(one["max_logprobs"], one["seed"], one["enable_prefix_caching"]) for one in engines] == [(20, 3, False)]
    assert main(["verify", str(tmp_path / "store")]) == 0
    assert main(["distill", str(loaded.path)]) == 0
    assert len(engines) == 1


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"adapter": "<a>"}, "adapter", "is not for the engine vllm"),
        ({"device": "cuda"}, "device", "is not for the engine vllm"),
        ({"off_load": "drop"}, "off_load", "is not for the engine vllm"),
    ],
)
def test_what_the_engine_does_not_do(changes, key, message, folders, language, engines, tmp_path, capsys) -> None:
    given = {name: folders.get(value.strip("<>"), value) for name, value in changes.items()}
    loaded = language({"teachers": [{"id": "odd", "model": folders["a"], "engine": "vllm", **given}]})
    n_errors = 1 + (key == "adapter")  # the folder is no adapter either
    assert f"teachers[0].{key}" in refused("distill", loaded, tmp_path, message, capsys, n_errors=n_errors)


def test_an_engine_that_is_not_installed(folders, language, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(local_models, "find_spec", lambda name: None)
    loaded = language({"teachers": [{"id": "odd", "model": folders["a"], "engine": "vllm"}]})
    refused("validate", loaded, tmp_path, "the package `vllm` is not installed", capsys)


def test_an_engine_for_tokens_does_not_teach_a_classifier(classification, engines, tmp_path, capsys) -> None:
    loaded = classification({"teachers": [{"id": "odd", "model": "x", "engine": "vllm"}], "weighting": {}})
    refused("validate", loaded, tmp_path, "vllm gives tokens, but the student is a classifier", capsys, n_errors=2)


def refused(command, loaded, folder: Path, message: str, capsys, *, n_errors: int = 1) -> str:
    before = sorted(folder.rglob("*"))
    assert main([command, str(loaded.path)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("error:") == n_errors
    assert "Traceback" not in errors
    assert sorted(folder.rglob("*")) == before
    return errors
