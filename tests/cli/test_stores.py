"""Stores at the command line: what is wrong with one, or with a capture, is told in one clear text."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from teachers.conftest import N_TOKENS, save, tiny_llama, train_tokenizer
from teachers.store.distillkit_writer import EXACT, write_capture

from mashbill.cli.app import main
from mashbill.distributions import TopK

TEXT = "Strings are immutable sequences of Unicode code points, and they are written in a variety of ways: "


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A student's tokenizer, and two teachers that share it."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(TEXT * 9 + "while for if else return", N_TOKENS)
    tokenizer.save_pretrained(folder / "tokenizer")
    for seed, name in enumerate("ab"):
        save(folder / name, tiny_llama(len(tokenizer), seed), tokenizer)
    return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory, models):
    """A folder with a recipe, with a capture of its rows, and with a store that its teacher filled."""
    folder = tmp_path_factory.mktemp("ready")
    write_recipe(folder, models)
    write_capture_of(folder, models)
    assert main(["capture", str(folder / "recipe.yaml"), "--workers", "1"]) == 0
    return folder


@pytest.fixture
def place(tmp_path, ready):
    """A copy of it without the store."""
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("store"))
    return tmp_path


@pytest.fixture
def store(place, ready):
    """The store of the training rows, in the copy."""
    shutil.copytree(ready / "store", place / "store")
    return place / "store/train"


def write_recipe(tmp_path, models):
    rows = [{"id": f"r{n}", "text": TEXT[n:] + TEXT[: 10 + n]} for n in range(6)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    recipe = {
        "version": 1,
        "student": {
            "kind": "causal_lm",
            "tokenizer": str(models / "tokenizer"),
            "config": {**config, "num_attention_heads": 2, "max_position_embeddings": 256},
        },
        "teachers": [{"id": "a", "model": str(models / "a"), "store": "store"}],
        "data": {"format": "text", "train": "train.jsonl", "max_length": 200},
        "train": {"max_steps": 2, "per_device_train_batch_size": 2},
        "capture": {"k": 8, "shard_positions": 100},
        "output": "run",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def change(place, edit):
    values = yaml.safe_load((place / "recipe.yaml").read_text())
    edit(values)
    (place / "recipe.yaml").write_text(yaml.safe_dump(values))


def write_capture_of(place, models, settings=EXACT):
    """Write what DistillKit would of the recipe's rows."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer, model = (
        AutoTokenizer.from_pretrained(models / "tokenizer"),
        LlamaForCausalLM.from_pretrained(models / "a"),
    )
    rows = []
    for line in (place / "train.jsonl").read_text().splitlines():
        ids = tokenizer(json.loads(line)["text"])["input_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        kept = TopK.from_logprobs(logprobs, k=settings["k"])
        rows.append(([*ids, 0], kept.ids, kept.logprobs))
    write_capture(place / "capture", rows, {**settings, "d": len(tokenizer)})


def settings_of(place, **changes):
    file = place / "capture/compression_config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def table_of(place, edit):
    file = place / "capture/data_0.parquet"
    pq.write_table(edit(pq.read_table(file)), file)


def first_row(name, edit):
    """Change one row of a column."""

    def change(table):
        rows = table[name].to_pylist()
        rows[0] = edit(rows[0])
        field = table.schema.field(name)
        return table.set_column(table.column_names.index(name), field, pa.array(rows, field.type))

    return change


CAPTURES = {
    "no folder": (lambda place: shutil.rmtree(place / "capture"), "no capture at"),
    "no file": (lambda place: [one.unlink() for one in place.glob("capture/*.parquet")], "holds no Parquet file"),
    "no settings": (lambda place: (place / "capture/compression_config.yaml").unlink(), "how the capture was written"),
    "other k": (lambda place: settings_of(place, k=17, exact_k=17), "has positions of 64 bytes"),
    "unknown setting": (lambda place: settings_of(place, entropy_coding=True), "entropy_coding: Extra inputs"),
    "legacy": (lambda place: settings_of(place, polynomial_degree=8), "`legacy_logit_compression`"),
    "half of k": (lambda place: settings_of(place, exact_k=8), "nothing is kept of entries 8 to 15"),
    "other type": (lambda place: settings_of(place, k=32, exact_k=32, exact_dtype="float16"), "has positions of"),
    "smaller vocabulary": (lambda place: settings_of(place, d=300), "names an id of 300 or more"),
    "no tokens": (lambda place: table_of(place, lambda t: t.drop_columns("input_ids")), "no column `input_ids`"),
    "legacy columns": (
        lambda place: table_of(place, lambda t: t.rename_columns(["input_ids", "exact_values", "packed_indices"])),
        "has no column `compressed_logprobs`",
    ),
    "texts": (
        lambda place: table_of(place, lambda t: t.set_column(0, "input_ids", pa.array(["x"] * len(t)))),
        "column `input_ids` holds string",
    ),
    "nothing in a row": (lambda place: table_of(place, first_row("input_ids", lambda _: None)), "rows without a value"),
    "a row too short": (
        lambda place: table_of(place, first_row("compressed_logprobs", lambda row: row[:3])),
        "has 3 distributions for",
    ),
    "a position too short": (
        lambda place: table_of(place, first_row("compressed_logprobs", lambda row: [row[0][:5], *row[1:]])),
        "has positions of 5, 64 bytes",
    ),
    "no numbers": (
        lambda place: table_of(place, first_row("compressed_logprobs", lambda row: [[255] * 64, *row[1:]])),
        "holds what is no number",
    ),
    "an id twice": (
        lambda place: table_of(place, first_row("bytepacked_indices", lambda row: [[0] * len(row[0]), *row[1:]])),
        "names an id twice",
    ),
    "scores": (
        lambda place: table_of(place, first_row("compressed_logprobs", lambda row: [[0, 0, 0, 64] * 16, *row[1:]])),
        "sum to more than 1.1",
    ),
    "no Parquet": (lambda place: (place / "capture/data_0.parquet").write_bytes(b"PAR1 no"), "cannot read the capture"),
    "a row that was not captured": (
        lambda place: new_row(place, None),
        "1 of 7 rows were not captured, the first is `new`",
    ),
    "another tokenizer": (
        lambda place: change(place, lambda v: v["data"].update(max_length=20)),
        "rows were not captured",
    ),
    "no such teacher": (
        lambda place: change(place, lambda v: v["teachers"][0].pop("store")),
        "say which teacher it is",
    ),
}


def is_one_clear_text(outcome, told):
    import re

    assert outcome.code == 2, outcome.err
    assert re.search(told, outcome.err), outcome.err
    assert outcome.err.count("error:") == 1
    assert "Traceback" not in outcome.err
    assert not outcome.out


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_that_cannot_be_read_gives_one_error_and_no_store(place, models, command, name):
    spoil, told = CAPTURES[name]
    spoil(place)
    is_one_clear_text(command("import", place / "capture", place / "recipe.yaml"), told)
    assert not (place / "store").exists()


def test_a_capture_becomes_a_store_that_a_run_reads(place, models, command):
    done = command("import", place / "capture", place / "recipe.yaml")
    assert done.code == 0, done.err
    assert "6 rows" in done.out
    assert "KL lost" in done.out
    told = json.loads(command("import", place / "capture", place / "recipe.yaml", "--json").out)
    assert told["stores"][0]["against_teacher"]["agreement"] == 1
    again = command("verify", place / "store", "--recipe", place / "recipe.yaml")
    assert again.code == 0, again.err
    assert command("distill", place / "recipe.yaml").code == 0


def test_rows_are_written_from_a_capture(place, models, command):
    (place / "train.jsonl").unlink()
    done = command("import", place / "capture", place / "recipe.yaml", "--write-rows")
    assert done.code == 0, done.err
    assert "6 rows in" in done.out
    is_one_clear_text(command("import", place / "capture", place / "recipe.yaml", "--write-rows"), "exists")


@pytest.mark.parametrize("wrong", [("--teacher", "nobody"), ("--set", "weighting.token.rule=nonsense")])
def test_no_rows_are_written_by_a_command_that_is_wrong(place, models, command, monkeypatch, wrong):
    def write(*_, **__):
        pytest.fail("written before the recipe was checked")

    monkeypatch.setattr("mashbill.train.import_recipe.write_captured_rows", write)
    (place / "train.jsonl").unlink()
    assert command("import", place / "capture", place / "recipe.yaml", "--write-rows", *wrong).code == 2


def test_no_rows_are_left_of_an_import_that_failed(place, models, command):
    (place / "train.jsonl").unlink()
    (place / "store").write_text("in the way")
    again = ("import", place / "capture", place / "recipe.yaml", "--write-rows")
    assert command(*again).code != 0
    assert not (place / "train.jsonl").exists()
    (place / "store").unlink()
    assert command(*again).code == 0


def test_a_store_is_held_against_its_teacher(place, store, command):
    told = command("verify", store, "--recipe", place / "recipe.yaml", "--rows", "3", "--json")
    assert told.code == 0, told.out
    against = json.loads(told.out)["stores"][0]["against_teacher"]
    assert against["n_rows"] == 3
    assert against["largest"] < 2.0**-11 + 1e-4
    assert against["lost"] == pytest.approx(against["cut"], abs=1e-4)


def test_a_store_of_coarser_numbers_than_it_says_is_not_what_the_teacher_says(place, store, command, monkeypatch):
    monkeypatch.setattr("mashbill.train.verify_recipe.NOISE", {"float32": -(2.0**-11)})
    found = command("verify", store, "--recipe", place / "recipe.yaml")
    assert found.code == 4
    assert "nats from its teacher" in found.out


def no_plan(place, models):
    (place / "store/train/store.json").unlink()


def half(place, models):
    next((place / "store/train/shards").glob("*.json")).unlink()


def other_model(place, models):
    change(place, lambda values: values["teachers"][0].update(model=str(models / "b")))


def other_rows(place, models):
    text = (place / "train.jsonl").read_text()
    (place / "train.jsonl").write_text(text.replace("Strings", "Numbers", 1))


def other_tokenizer(place, models):
    tokenizer = train_tokenizer("quite another text, quite another text", N_TOKENS)
    tokenizer.save_pretrained(place / "tokenizer")
    change(place, lambda values: values["student"].update(tokenizer="tokenizer"))
    change(place, lambda values: values["teachers"][0].pop("model"))


def new_row(place, models):
    with (place / "train.jsonl").open("a") as file:
        file.write('{"id": "new", "text": "for else while"}\n')


def later_version(place, models):
    file = place / "store/train/store.json"
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 99'))


def new_set(place, models):
    shutil.copy(place / "train.jsonl", place / "eval.jsonl")
    change(place, lambda values: values["data"].update(eval={"held_out": "eval.jsonl"}))
    new_row(place, models)
    shutil.move(place / "train.jsonl", place / "eval.jsonl")
    rows = (place / "eval.jsonl").read_text().splitlines(keepends=True)
    (place / "train.jsonl").write_text("".join(rows[:-1]))


STORES = {
    no_plan: "no store at",
    half: "is not complete",
    other_model: "is that of another teacher: sha256",
    other_rows: "is not the row that teacher `a` was asked about",
    other_tokenizer: "captured for another vocabulary",
    new_row: "row `new` is not in the store",
    later_version: "has schema 99, and this version reads up to 1",
}


@pytest.mark.parametrize("spoil", STORES, ids=lambda spoil: spoil.__name__)
def test_a_store_that_does_not_fit_ends_a_run_before_it_begins(place, models, store, command, spoil):
    spoil(place, models)
    is_one_clear_text(command("distill", place / "recipe.yaml"), STORES[spoil])
    assert not (place / "run").exists()


def test_a_set_without_a_store_ends_a_run(place, models, store, command):
    new_set(place, models)
    found = command("distill", place / "recipe.yaml")
    is_one_clear_text(found, "row `new` is not in the store")
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda place, models: shutil.rmtree(place / "store"), "no store at"),
        (later_version, "has schema 99"),
        (other_model, "is that of another teacher"),
        (
            lambda place, models: change(place, lambda v: v["teachers"][0].update(store="other")),
            "no teacher with the store",
        ),
        (lambda place, models: change(place, lambda v: v["teachers"][0].pop("model")), "cannot be asked again"),
    ],
)
def test_what_cannot_be_verified_gives_one_error(place, models, store, command, spoil, told):
    spoil(place, models)
    is_one_clear_text(command("verify", store, "--recipe", place / "recipe.yaml"), told)


def test_a_store_that_is_not_complete_is_told_so(place, models, store, command):
    half(place, models)
    found = command("verify", store)
    assert found.code == 4  # it was complete before
    assert "shard 000000 is missing" in found.out
    assert "it holds rows 0 to" in found.out
    (store / "manifest.json").unlink()
    found = command("verify", store)
    assert found.code == 2
    assert "not captured yet: 1 shard(s)" in found.out
    assert command("capture", place / "recipe.yaml", "--workers", "1").code == 0
    assert command("verify", store).code == 0


def test_a_damaged_store_is_told_so(place, store, command):
    file = next((store / "shards").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    found = command("verify", store)
    assert found.code == 4
    assert "is not what was written" in found.out
