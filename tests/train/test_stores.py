"""Training from stores: the same curve as online, only from whole stores of the right teacher, without refused rows."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from mashbill.errors import CorruptionError, MashbillError, VocabularyError
from mashbill.teachers.protocol import Scored
from mashbill.train.build import build_teachers
from mashbill.train.capture import capture_recipe
from mashbill.train.loading import load_recipe
from mashbill.train.run import distill
from mashbill.train.students import build_student


def changed(loaded, change):
    """Return the recipe with its values changed in place."""
    values = yaml.safe_load(loaded.path.read_text())
    change(values)
    loaded.path.write_text(yaml.safe_dump(values))
    return load_recipe(loaded.path)


def stored(loaded, *, alone=False, unit=None, output="from-store", top_k=8):
    def change(values):
        values["output"] = output
        values["capture"] = {"k": top_k, "shard_positions": 64, **({"unit": unit} if unit else {})}
        for teacher in values["teachers"]:
            teacher["store"] = f"stores-{unit or ''}/{teacher['id']}"
            if alone:
                del teacher["model"], teacher["top_k"]

    return changed(loaded, change)


def curve(directory: Path) -> np.ndarray:
    records = [json.loads(line) for line in (directory / "records.jsonl").read_text().splitlines()]
    return np.array([record["loss"] for record in records if "loss" in record])


LEARNING = {"train.max_steps": 24, "train.logging_steps": 1, "train.save_steps": 24, "train.learning_rate": 0.01}


def test_the_curve_from_a_store_is_the_online_one_within_the_storage_error(language, tmp_path):
    online = distill(language({**LEARNING, "output": "online"}))
    assert online.status == "finished"
    whole = curve(tmp_path / "online")
    assert len(whole) == 24
    assert whole[0] - whole[-1] > 0.3  # it learns: the curve is no flat line that anything would match
    gaps = {}
    for unit in (2.0**-11, 2.0**-4):
        loaded = stored(language(LEARNING), unit=unit, output=f"unit-{unit}")
        capture_recipe(loaded, workers=1)
        distill(loaded)
        gaps[unit] = np.abs(curve(tmp_path / f"unit-{unit}") - whole)
    # A log-probability is off by a unit at most. Then a KL divergence is off by unit * (1 + E|log p/q|) at most, and
    # E|log p/q| <= KL + 2/e: the bound of the first step, where both students are the same. Later ones have followed
    # gradients that differ by as much; over so few steps that is of the same order.
    for unit, gap in gaps.items():
        bound = unit * math.exp(unit) * (1 + whole[0] + 2 / math.e)
        assert gap[0] <= bound
        assert gap.max() <= 4 * bound
    assert gaps[2.0**-4].max() > 20 * gaps[2.0**-11].max()  # the test sees an error of the size it bounds


def test_a_store_alone_is_read_as_well_as_beside_its_model(language, tmp_path):
    loaded = stored(language(LEARNING))
    capture_recipe(loaded, workers=1)
    distill(loaded)
    alone = stored(loaded, alone=True, output="alone")
    distill(alone)
    assert np.array_equal(curve(tmp_path / "alone"), curve(tmp_path / "from-store"))


def teachers_of(loaded):
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    return build_teachers(loaded.recipe.teachers, student, loaded.path.parent)


def test_the_store_of_another_model_is_refused(language, tmp_path, language_models):
    loaded = stored(language())
    capture_recipe(loaded, workers=1)
    teachers_of(loaded)
    other = changed(loaded, lambda values: values["teachers"][0].update(model=str(language_models / "b")))
    with pytest.raises(MashbillError, match="the store of teacher `a` is that of another teacher: sha256 was"):
        teachers_of(other)


def test_half_a_store_is_refused(language, tmp_path):
    loaded = stored(language())
    capture_recipe(loaded, workers=1)
    next((tmp_path / "stores-/a/train/shards").glob("*.json")).unlink()
    with pytest.raises(MashbillError, match="is not complete"):
        teachers_of(loaded)


def test_a_store_for_another_tokenizer_is_refused(language, tmp_path, language_models):
    from transformers import AutoTokenizer

    loaded = stored(language(), alone=False)
    capture_recipe(loaded, workers=1)
    other = AutoTokenizer.from_pretrained(language_models / "tokenizer")
    other.add_tokens(["<new>"])
    other.save_pretrained(tmp_path / "other")
    grown = changed(
        stored(loaded, alone=True), lambda values: values["student"].update(tokenizer=str(tmp_path / "other"))
    )
    with pytest.raises(VocabularyError, match="was captured for another vocabulary"):
        teachers_of(grown)


def test_rows_that_changed_since_are_refused(language, tmp_path):
    loaded = stored(language())
    capture_recipe(loaded, workers=1)
    text = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text.replace("der die", "die der", 1))
    with pytest.raises(MashbillError, match="is not the row that teacher `a` was asked about"):
        distill(load_recipe(loaded.path))
    assert not (tmp_path / "from-store").exists()


def test_damage_is_noticed_by_whoever_reads(language, tmp_path):
    loaded = stored(language())
    capture_recipe(loaded, workers=1)
    file = sorted((tmp_path / "stores-/a/train/shards").glob("*.parquet"))[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"is not what was written|cannot be read"):
        distill(loaded)


class Shy:
    """A live teacher's answers, but some rows are refused."""

    def __init__(self, teacher, rows):
        self._teacher, self._rows = teacher, rows
        self.id = teacher.id

    def identity(self):
        return self._teacher.identity()

    def score(self, inputs):
        said = self._teacher.score(inputs)
        refused = {n: "too rude" for n, row in enumerate(inputs.row_ids) if row in self._rows}
        return Scored(said.distribution, said.statistics, refused)


@pytest.fixture
def shy(language, tmp_path, monkeypatch):
    """A recipe whose teacher `a` refused two training rows and one for evaluation."""
    from mashbill.train import filling

    usual = filling.build_teacher

    def build(number, *arguments, **options):
        teacher = usual(number, *arguments, **options)
        return Shy(teacher, {"train3", "train7", "eval1"}) if number == 0 else teacher

    monkeypatch.setattr(filling, "build_teacher", build)
    loaded = stored(language({**LEARNING, "train.max_steps": 3, "data.max_length": 64}))
    capture_recipe(loaded, workers=1)
    monkeypatch.undo()
    return loaded


def test_refused_rows_end_the_run_unless_the_recipe_drops_them(shy, tmp_path):
    with pytest.raises(
        MashbillError, match="teacher `a` refused 2 of 12 training rows, the first is `train3`"
    ) as error:
        distill(shy)
    assert error.value.why == "too rude"
    assert not (tmp_path / "from-store").exists()


def test_dropped_rows_are_counted_and_take_no_part(shy, tmp_path):
    dropping = changed(shy, lambda values: values["teachers"][0].update(refused="drop"))
    assert distill(dropping).status == "finished"
    told = json.loads((tmp_path / "from-store/run.json").read_text())
    assert told["refused"] == {"a": {"train": 2, "held_out": 1}}
    assert {name: each["rows"] for name, each in told["data"].items()} == {"train": 10, "held_out": 3}
    assert "refused by a" in rendered(tmp_path / "from-store")


def test_a_set_of_which_no_row_is_left_ends_the_run(shy, tmp_path):
    from mashbill.train.corpus import build_corpus
    from mashbill.train.data import read_rows
    from mashbill.train.stores import without_refused

    dropping = changed(shy, lambda values: values["teachers"][0].update(refused="drop"))
    student = build_student(dropping.recipe.student, tmp_path, 0)
    rows = [row for row in read_rows(tmp_path / "train.jsonl", dropping.recipe.data) if row.id in ("train3", "train7")]
    corpus = build_corpus(student, rows, max_length=64)
    with pytest.raises(MashbillError, match="no row of held_out is left"):
        without_refused(dropping.recipe.teachers, teachers_of(dropping), {"held_out": corpus})


def rendered(directory: Path) -> str:
    from mashbill.report.page import write_report

    return write_report(directory, output=directory / "report.html").read_text(encoding="utf-8")
