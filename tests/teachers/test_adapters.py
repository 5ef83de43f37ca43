"""Adapters of one model are teachers of their own, and the model is in memory once."""

import shutil
from dataclasses import replace

import pytest
import torch
from teachers.lora import edit_json, make_adapter, merged, wrapped

from mashbill.errors import MashbillError
from mashbill.teachers import LocalCausalLM, LocalClassifier
from mashbill.teachers.adapter_folder import AdapterFolder
from mashbill.teachers.bases import Bases


@pytest.fixture(scope="module")
def adapters(llama, tmp_path_factory):
    """Two adapters of the shared model; the second also replaces its head."""
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(folder / "a", llama.model, seed=1)
    make_adapter(folder / "b", llama.model, seed=2, r=5, use_rslora=True, target_modules="all-linear")
    return folder


@pytest.fixture
def inputs(llama, causal_inputs):
    return causal_inputs(llama.tokenizer)


def teachers_of(llama, adapters, bases=None, **options):
    bases = bases or Bases()
    folders = {"plain": None, "a": adapters / "a", "b": adapters / "b"}
    return {
        name: LocalCausalLM(name, llama.path, llama.vocabulary, adapter=folder, top_k=None, bases=bases, **options)
        for name, folder in folders.items()
    }


def said(teacher, inputs):
    return teacher.score(inputs).distribution.logprobs[inputs.mask]


def test_an_adapter_says_what_the_merged_model_says(llama, adapters, inputs):
    for name in "ab":
        teacher = teachers_of(llama, adapters)[name]
        whole = merged(llama.model, adapters / name)
        with torch.no_grad():
            expected = whole(inputs.input_ids).logits.log_softmax(-1)[inputs.mask]
            plain = llama.model(inputs.input_ids).logits.log_softmax(-1)[inputs.mask]
        assert torch.allclose(said(teacher, inputs), expected, atol=1e-4)
        assert (expected - plain).abs().max() > 0.1


def test_teachers_in_turn_say_what_each_says_alone(llama, adapters, inputs):
    alone = {name: said(teachers_of(llama, adapters)[name], inputs) for name in ("plain", "a", "b")}
    statistics = {n: teachers_of(llama, adapters)[n].score(inputs).statistics.entropy for n in ("plain", "a", "b")}
    bases = Bases()
    together = teachers_of(llama, adapters, bases)
    for name in ("a", "plain", "b", "a", "a", "b", "plain", "a"):
        assert torch.equal(said(together[name], inputs), alone[name]), name
        assert torch.equal(together[name].score(inputs).statistics.entropy, statistics[name]), name
    assert bases.n_opened == 1


def test_the_model_itself_is_not_touched(llama, adapters, inputs):
    together = teachers_of(llama, adapters)
    said(together["a"], inputs)
    said(together["b"], inputs)
    with torch.no_grad():
        expected = llama.model(inputs.input_ids[:1]).logits.log_softmax(-1)[inputs.mask[:1]]
    first = replace(inputs, mask=inputs.mask & (torch.arange(len(inputs.mask)) == 0).unsqueeze(1))
    assert torch.allclose(said(together["plain"], first), expected, atol=2e-5)
    assert not any(one.requires_grad for one in together["plain"].model.parameters())


def test_the_model_goes_when_all_its_teachers_are_done(llama, adapters, inputs):
    bases = Bases()
    together = teachers_of(llama, adapters, bases)
    said(together["a"], inputs)
    together["a"].release()
    together["b"].release()
    assert bases.open
    together["plain"].release()
    assert not bases.open
    said(together["b"], inputs)
    assert bases.n_opened == 2


def test_other_settings_are_another_model(llama, adapters, inputs):
    bases = Bases()
    said(LocalCausalLM("x", llama.path, llama.vocabulary, bases=bases), inputs)
    said(LocalCausalLM("y", llama.path, llama.vocabulary, bases=bases, dtype="bfloat16"), inputs)
    assert bases.n_opened == 2


def test_identity_tells_adapters_apart(llama, adapters, tmp_path):
    together = teachers_of(llama, adapters)
    found = {name: dict(teacher.identity()) for name, teacher in together.items()}
    assert found["plain"]["sha256"] == found["a"]["sha256"] == found["b"]["sha256"]
    assert "adapter" not in found["plain"]
    assert found["a"]["adapter"] != found["b"]["adapter"]
    moved = shutil.copytree(adapters / "a", tmp_path / "elsewhere")
    same = LocalCausalLM("z", llama.path, llama.vocabulary, adapter=moved, top_k=None)
    assert same.identity() == found["a"]
    edit_json(moved / "adapter_config.json", lora_alpha=7)
    scaled = LocalCausalLM("z", llama.path, llama.vocabulary, adapter=moved, top_k=None)
    assert scaled.identity() != found["a"]


def test_an_adapter_may_bring_its_own_head(llama, inputs, tmp_path):
    options = {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}
    folder = make_adapter(tmp_path / "head", llama.model, seed=3, **options)
    bases = Bases()
    plain = LocalCausalLM("plain", llama.path, llama.vocabulary, top_k=None, bases=bases)
    before = said(plain, inputs)
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder, top_k=None, bases=bases)
    with torch.no_grad():
        expected = merged(llama.model, folder)(inputs.input_ids).logits.log_softmax(-1)[inputs.mask]
    assert torch.allclose(said(teacher, inputs), expected, atol=1e-4)
    assert torch.equal(said(plain, inputs), before)


def test_copies_of_the_models_embeddings_are_no_change(llama, inputs, tmp_path):
    folder = make_adapter(tmp_path / "rows", llama.model, seed=3, target_modules=["q_proj", "embed_tokens"])
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder, top_k=None)
    with torch.no_grad():  # merging would change the head too, which is the same tensor
        expected = wrapped(llama.model, folder)(inputs.input_ids).logits.log_softmax(-1)[inputs.mask]
    assert torch.allclose(said(teacher, inputs), expected, atol=1e-4)


def test_adapters_of_a_classifier(bert, text_inputs, tmp_path):
    options = {"target_modules": ["query", "value"], "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    folder = make_adapter(tmp_path / "adapter", bert.model, seed=4, **options)
    bases, labels = Bases(), ("news", "sport", "LABEL_2", "other")
    asked = text_inputs(["two words", "one"])
    plain = LocalClassifier("plain", bert.path, labels, bases=bases)
    tuned = LocalClassifier("tuned", bert.path, labels, bases=bases, adapter=folder)
    before = plain.score(asked).distribution.densify()
    got, whole = tuned.score(asked).distribution.densify()[:, 0], merged(bert.model, folder)
    for row, text in enumerate(asked.texts):
        with torch.no_grad():
            expected = whole(**bert.tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1)
        assert torch.allclose(got[row], expected, atol=1e-5)
    assert (got - before[:, 0]).abs().max() > 0.1
    assert torch.equal(plain.score(asked).distribution.densify(), before)
    assert bases.n_opened == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_size": 48},
            r"does not fit its model(.|\n)*lora_B.weight` is \[48, 3\], and the model takes \[32, 3\]",
        ),
        ({"num_hidden_layers": 3}, r"tensors have no place in the model, first `.*layers.2"),
        ({"num_hidden_layers": 1}, r"\d+ tensors are missing, first `.*layers.1"),
    ],
)
def test_an_adapter_for_another_model_is_refused_and_the_model_stays_right(
    llama, inputs, adapters, tmp_path, change, message
):
    other = type(llama.model)(type(llama.model.config)(**(llama.model.config.to_dict() | change)))
    foreign = make_adapter(tmp_path / "foreign", other, seed=1)
    bases = Bases()
    together = teachers_of(llama, adapters, bases)
    before = said(together["plain"], inputs)
    with pytest.raises(MashbillError, match=message) as caught:
        LocalCausalLM("t", llama.path, llama.vocabulary, adapter=foreign, bases=bases).score(inputs)
    assert caught.value.exit_code == 2
    assert torch.equal(said(together["plain"], inputs), before)


def test_modules_that_the_model_lacks_are_refused(llama, inputs, adapters, tmp_path):
    folder = shutil.copytree(adapters / "a", tmp_path / "x")
    edit_json(folder / "adapter_config.json", target_modules=["query_key_value"])
    with pytest.raises(MashbillError, match=r"does not fit its model(.|\n)*query_key_value"):
        LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder).score(inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "adapter of the type IA3"),
        ({"bias": "all"}, "changes more than it adds: bias: all"),
        ({"init_lora_weights": "pissa"}, "changes more than it adds: init_lora_weights: pissa"),
        ({"layer_replication": [[0, 2]]}, "changes more than it adds: layer_replication"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "changes more than it adds: megatron_config"),
        ({"a_setting_of_tomorrow": 1}, "changes more than it adds: a_setting_of_tomorrow"),
    ],
)
def test_adapters_that_would_change_other_teachers_are_refused(adapters, tmp_path, changes, message):
    folder = shutil.copytree(adapters / "a", tmp_path / "x")
    edit_json(folder / "adapter_config.json", **changes)
    with pytest.raises(MashbillError, match=message):
        AdapterFolder(folder)


def test_folders_that_are_no_adapter(adapters, llama, tmp_path):
    with pytest.raises(MashbillError, match="no adapter folder at"):
        AdapterFolder(tmp_path / "nothing")
    with pytest.raises(MashbillError, match=r"no adapter_config.json(.|\n)*a whole model(.|\n)*give it as `model`"):
        AdapterFolder(llama.path)
    pickled = shutil.copytree(adapters / "a", tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(MashbillError, match=r"as a pickle: adapter_model.bin(.|\n)*safe_serialization=True"):
        AdapterFolder(pickled)
    (pickled / "adapter_model.bin").unlink()
    with pytest.raises(MashbillError, match=r"no adapter_model.safetensors"):
        AdapterFolder(pickled)


def test_an_adapter_that_names_another_model_or_task(adapters, llama, tmp_path):
    folder = shutil.copytree(adapters / "a", tmp_path / "x")
    edit_json(folder / "adapter_config.json", base_model_name_or_path="someone/model-7b")
    with pytest.raises(MashbillError, match="one for `someone/model-7b`, and its model is `other/model`"):
        LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder, source="other/model")
    LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder)  # a folder's name says nothing
    edit_json(folder / "adapter_config.json", task_type="SEQ_CLS")
    with pytest.raises(MashbillError, match="was trained for SEQ_CLS, and a causal_lm is needed"):
        LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder)


def test_damaged_adapter_weights(adapters, llama, inputs, tmp_path):
    folder = shutil.copytree(adapters / "a", tmp_path / "x")
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(MashbillError, match="does not fit its model"):
        LocalCausalLM("t", llama.path, llama.vocabulary, adapter=folder).score(inputs)
