"""What a run hears of its teachers: other tokenizers, text alone, and lists at another temperature than 1."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mashbill import pools
from mashbill.distributions import TopK, softened_tail_interval
from mashbill.errors import MashbillError, RecipeError, VocabularyError
from mashbill.report.page import render
from mashbill.report.records import read_run
from mashbill.report.sections import heard as section
from mashbill.report.text import percent
from mashbill.train import heard
from mashbill.train.checks import check
from mashbill.train.loading import Loaded
from mashbill.train.run import distill

Make = Callable[..., Loaded]
UNIFORM = {"weighting": {}}


@pytest.fixture(scope="module")
def stranger(language_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model like `a`, whose tokenizer was made of other text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<eot>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the house and the water, the tree and the thing"] * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eot>")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("stranger")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def teachers(*specs: dict[str, Any]) -> dict[str, Any]:
    return {"teachers": list(specs)}


def run_json(loaded: Loaded) -> dict[str, Any]:
    return json.loads((loaded.resolve(loaded.recipe.output) / "run.json").read_text())


def test_a_stranger_is_refused_without_align_and_taught_by_with_it(language: Make, language_models, stranger):
    mine = {"id": "a", "model": str(language_models / "a"), "top_k": 8}
    other = {"id": "s", "model": str(stranger), "top_k": 8}
    with pytest.raises(VocabularyError, match=r"(?s)does not share the student's vocabulary.*`align: \{\}`"):
        distill(language(teachers(mine, other)))
    loaded = language(teachers(mine, {**other, "align": {"min_mapped": 0.1}}))
    check(loaded)
    assert distill(loaded).status == "finished"
    heard = run_json(loaded)["heard"]
    assert set(heard["a"]) == {"n_positions", "answered", "kept"}
    assert heard["a"]["answered"] == 1
    assert 0.3 < heard["s"]["answered"] < 1
    assert 0.1 < heard["s"]["kept"] < heard["s"]["mapped"] < 1
    files = read_run(loaded.resolve(loaded.recipe.output))
    table = section.table(files)
    assert table is not None
    (cells,) = [[shown.text for shown in row] for row in table.rows]
    assert cells[0] == "s"
    assert cells[1:4] == [percent(heard["s"][name]) for name in ("answered", "kept", "mapped")]
    assert "How much was heard" in render(files)
    assert "tokens of its own" in section.notes(files)[0]


@pytest.mark.parametrize("least", [{"min_mapped": 0.999}, {"min_positions": 0.999}])
def test_too_little_in_common_is_refused_with_the_numbers(language: Make, stranger, least):
    loaded = language(teachers({"id": "s", "model": str(stranger), "align": {"min_mapped": 0.0, **least}}))
    with pytest.raises(VocabularyError, match=r"(?s)answers at \d\d\.\d% of .* positions, and there \d+\.\d% .*100%"):
        distill(loaded)


def test_a_store_remembers_what_was_mapped(language: Make, stranger):
    from mashbill.train.capture import capture_recipe

    spec = {"id": "s", "model": str(stranger), "align": {"min_mapped": 0.1}}
    live = language({**teachers(spec), **UNIFORM})
    distill(live)
    kept = language({**teachers({**spec, "store": "store"}), **UNIFORM, "output": "kept", "capture.k": 64})
    capture_recipe(kept)
    distill(kept)
    one, other = run_json(live)["heard"]["s"], run_json(kept)["heard"]["s"]
    assert one["mapped"] == pytest.approx(other["mapped"], abs=1e-4)
    assert one["answered"] == other["answered"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prompted(tmp_path: Path) -> dict[str, Any]:
    rows = [{"id": "1", "prompt": "the house", "completion": " is one"}, {"id": "2", "prompt": "a", "completion": " b"}]
    write(tmp_path / "pairs.jsonl", rows)
    says = [" is one", " is not", " is one"]
    write(tmp_path / "said.jsonl", [{"prompt": "the house", "completion": each} for each in says])
    data = {"format": "prompt_completion", "train": "pairs.jsonl", "max_length": 32}
    return {"data": data, **UNIFORM, **teachers({"id": "said", "samples": "said.jsonl"})}


def test_a_language_model_learns_from_completions(language: Make, tmp_path: Path):
    loaded = language(prompted(tmp_path))
    check(loaded)
    assert distill(loaded).status == "finished"
    heard = run_json(loaded)["heard"]["said"]
    assert 0 < heard["answered"] < 1  # nobody completed `a`
    assert 1 < heard["samples"] <= 3
    assert 0 < heard["error"] <= 2
    assert 0 <= heard["single"] < 1
    files = read_run(loaded.resolve(loaded.recipe.output))
    assert section.notes(files)[0].startswith("said: text only")


def test_a_classifier_learns_from_labels(classification: Make, tmp_path: Path):
    texts = [json.loads(line) for line in (classification().path.parent / "train.jsonl").read_text().splitlines()]
    write(tmp_path / "said.jsonl", [{"text": row["text"], "label": label} for row in texts for label in ("de", "DE")])
    spec = {"id": "said", "samples": "said.jsonl", "labels": {"DE": "de"}}
    loaded = classification({**teachers(spec), **UNIFORM, "data.eval": {}, "train": {"max_steps": 3}})
    check(loaded)
    distill(loaded)
    heard = run_json(loaded)["heard"]["said"]
    n = len({row["text"] for row in texts})
    assert heard["answered"] == 1
    assert heard["samples"] >= 2
    assert heard["kept"] == pytest.approx(1)
    assert heard["error"] == pytest.approx(min(2, math.sqrt(2 / 2)), abs=0.2 if n < len(texts) else 1e-6)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "holds no rows"),
        ([{"text": "der", "lable": "de"}], "has no label"),
        ([{"text": 3, "label": "de"}], "column `text` must be text"),
        ([{"txt": "der", "label": "de"}], "has no column `text`"),
    ],
)
def test_bad_files_of_samples_give_one_clear_error(classification: Make, tmp_path: Path, rows, match):
    classification()
    write(tmp_path / "said.jsonl", rows)
    with pytest.raises(RecipeError) as caught:
        check(classification({**teachers({"id": "said", "samples": "said.jsonl"}), **UNIFORM}))
    assert len(caught.value.problems) == 1
    assert match in caught.value.render()
    assert "teachers[0].samples" in caught.value.render()
    assert caught.value.render().count("said.jsonl") == 1


def test_a_missing_file_of_samples_and_strange_labels_are_named(classification: Make, tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        check(classification({**teachers({"id": "said", "samples": "gone.jsonl"}), **UNIFORM}))
    assert "no file of samples" in caught.value.render()
    write(tmp_path / "said.jsonl", [{"text": "der", "label": "zz"}])
    with pytest.raises(MashbillError, match="no sample of teacher `said` names a label of the student"):
        distill(classification({**teachers({"id": "said", "samples": "said.jsonl"}), **UNIFORM}))


@pytest.mark.parametrize("rule", ["entropy_softmax", "inverse_variance", "margin", "ebkd"])
def test_rules_that_read_certainty_are_refused_beside_text_alone(language: Make, tmp_path: Path, rule):
    loaded = language({**prompted(tmp_path), "weighting": {"token": {"rule": rule}}})
    with pytest.raises(MashbillError, match=r"(?s)read how sure teachers are.*`said` is text alone.*performance"):
        distill(loaded)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"distill.tail": "even"}, "an even tail would teach evenness"),
        ({"distill.divergence": {"temperature": 2.0}}, "at temperature 2"),
        ({"teachers": [{"id": "said", "samples": "said.jsonl", "store": "s"}]}, "samples are kept already"),
    ],
)
def test_what_samples_cannot_do_is_said_before_anything_runs(language: Make, tmp_path: Path, changes, match):
    with pytest.raises(RecipeError) as caught:
        check(language({**prompted(tmp_path), **changes}))
    assert match in caught.value.render()


def test_smoothing_and_align_belong_to_their_teachers(language: Make, classification: Make, language_models):
    with pytest.raises(RecipeError) as caught:
        check(language(teachers({"id": "a", "model": str(language_models / "a"), "smoothing": 0.5})))
    assert "smooths `samples`" in caught.value.render()
    with pytest.raises(RecipeError) as caught:
        check(classification(teachers({"id": "g", "plugin": "words", "align": {}})))
    assert "aligns tokens, but the student reads labels" in caught.value.render()


def test_lists_at_another_temperature_are_refused_then_bounded(language: Make):
    hot = {"distill.divergence": {"temperature": 2.0}}
    with pytest.raises(RecipeError) as caught:
        check(language(hot))
    text = caught.value.render()
    assert "does not follow from its mass" in text
    assert all(way in text for way in ("temperature: 1", "top_k: null", "at_temperature: bound"))
    with pytest.raises(MashbillError, match="does not follow from its mass"):
        distill(language(hot))
    loaded = language(hot)
    bounded = [
        {**one.model_dump(exclude_unset=True, mode="json"), "at_temperature": "bound"} for one in loaded.recipe.teachers
    ]
    loaded = language({**hot, "teachers": bounded, "output": "bounded"})
    check(loaded)
    distill(loaded)
    heard = run_json(loaded)["heard"]
    low, high = heard["a"]["tail"]
    assert 0 < low < high < 1
    assert low <= 1 - heard["a"]["kept"] + 0.5
    files = read_run(loaded.resolve(loaded.recipe.output))
    assert any("softened" in note and "not what a log-linear pool is" in note for note in section.notes(files))


def test_what_bounds_a_linear_pool_bounds_no_log_linear_one():
    def softened(rows: list[list[float]]) -> torch.Tensor:
        return (torch.tensor(rows, dtype=torch.float64).clamp_min(1e-300).log() / 2).log_softmax(-1)

    # Each teacher's list holds its first entry alone; one truly has its tail on the third, the other is read as even.
    true = softened([[0.9, 0, 0.1, 0], [0, 0.9, 0.1, 0]])
    said = softened([[0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3], [0.1 / 3, 0.9, 0.1 / 3, 0.1 / 3]])
    tails = [1 - torch.stack([one[0, 0], one[1, 1]]).exp() for one in (true, said)]
    bound = float(torch.stack(tails).amax(dim=0).mean())
    listed = TopK(torch.tensor([[0], [1]]), torch.full((2, 1), math.log(0.9)), torch.full((2,), math.log(0.1)), 4)
    _, high = softened_tail_interval(listed, temperature=2.0)
    assert float(high.mean()) == pytest.approx(bound, abs=1e-6)
    log_weights = torch.full((2,), math.log(0.5), dtype=torch.float64)
    off = {
        pool: float((pool(true, log_weights).exp() - pool(said, log_weights).exp()).abs().sum()) / 2
        for pool in (pools.linear, pools.log_linear)
    }
    assert off[pools.linear] < bound == pytest.approx(0.366, abs=1e-3)
    assert off[pools.log_linear] == pytest.approx(0.848, abs=1e-3)


def test_a_list_that_is_no_top_loosens_no_other_position():
    # The tail of the first does not fit below its least entry: somebody kept an entry beside the largest.
    logprobs = torch.tensor([[0.5, 1e-4], [0.5, 0.2]]).log()
    topk = TopK(torch.tensor([[0, 1], [0, 1]]), logprobs, (1 - logprobs.exp().sum(-1)).log(), 10)
    low, high = heard._tails(topk, 2.0, is_top=True, error=0.0)
    for place, is_top in enumerate((False, True)):
        one = TopK(topk.ids[place], topk.logprobs[place], topk.log_tail[place], 10)
        wanted = softened_tail_interval(one, temperature=2.0, is_top=is_top)
        assert [float(low[place]), float(high[place])] == pytest.approx([float(end) for end in wanted], abs=1e-6)


def test_the_interval_of_a_store_is_wider_by_its_rounding(language: Make):
    from mashbill.train.capture import capture_recipe

    hot = {"distill.divergence": {"temperature": 3.0}, **UNIFORM, "capture.unit": 2.0**-4, "capture.k": 8}
    (spec, *_) = language().recipe.teachers
    asked = {**spec.model_dump(exclude_unset=True, mode="json"), "top_k": 8, "at_temperature": "bound"}
    live = language({**hot, **teachers(asked)})
    distill(live)
    kept = language({**hot, **teachers({**asked, "store": "store"}), "output": "kept"})
    capture_recipe(kept)
    distill(kept)
    (low, high), (wide_low, wide_high) = (run_json(one)["heard"][spec.id]["tail"] for one in (live, kept))
    assert low - 0.1 < wide_low < low - 0.005
    assert high + 0.002 < wide_high < high + 0.1


def test_whole_distributions_are_softened_as_ever(language: Make, language_models):
    whole = {"id": "a", "model": str(language_models / "a"), "top_k": None}
    loaded = language({**teachers(whole), "distill.divergence": {"temperature": 2.0}})
    check(loaded)
    distill(loaded)
    assert "tail" not in run_json(loaded)["heard"]["a"]


def test_a_plain_run_has_nothing_to_tell(classification: Make):
    loaded = classification()
    distill(loaded)
    assert section.table(read_run(loaded.resolve(loaded.recipe.output))) is None
