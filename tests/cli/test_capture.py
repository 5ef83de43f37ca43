"""What `capture` does when all is well, and what it says when something is not: one clear error, nothing written."""

import errno
import json
import os
import re
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from mashbill import plugins
from mashbill.teachers.labelled import LabelledTeacher
from mashbill.teachers.store import capturing, files
from mashbill.train import capture as capture_module

RECIPE = "recipe.yaml"


def listing(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def edit(folder, old, new, *, file=RECIPE):
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text, old
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def captured(folder, monkeypatch):
    """A folder with a recipe whose first teacher has a store."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    edit(folder, "  - id: office", "  - store: stores/office\n    id: office")
    edit(folder, "output: runs/first", "output: runs/first\ncapture: {k: 3, shard_positions: 6}")
    return folder


def test_capture_says_what_it_did_and_does_it_once(captured, command):
    outcome = command("capture", RECIPE, "--workers", "1")
    assert outcome.code == 0
    assert "60 positions to capture in 3 store(s): at most about" in outcome.err
    assert re.search(r"capturing keywords: 20/20  tokens/s \S+  0 s", outcome.err)
    said = "of the mass kept, on 13 positions that were answered"
    for part in ("office, train: 20 rows, 20 positions in ", "bytes a position", said, "KL lost to truncation"):
        assert part in outcome.out
    before = listing(captured)
    again = command("capture", RECIPE, "--json")
    assert "nothing to capture" in again.err
    stores = json.loads(again.out)["stores"]
    assert [one["rows"] for one in stores] == ["train", "held_out", "scorecard rows"]
    assert all(one["is_complete"] and one["n_rows"] == 20 for one in stores)
    assert listing(captured) == before


def test_machines_take_turns(captured, command):
    assert "not complete" in command("capture", RECIPE, "--workers", "1", "--rank", "1", "--world", "2").out
    assert "not complete" not in command("capture", RECIPE, "--workers", "1", "--rank", "0", "--world", "2").out


def _store(path):
    return lambda folder, monkeypatch: edit(folder, "store: stores/office", f"store: {path}")


def _no_store(folder, monkeypatch):
    edit(folder, "  - store: stores/office\n    id: office", "  - id: office")


def _only_a_store(folder, monkeypatch):
    text = (folder / RECIPE).read_text(encoding="utf-8")
    start, end = text.index("  - store: stores/office"), text.index("  - id: workshop")
    (folder / RECIPE).write_text(text[:start] + "  - {id: office, store: stores/office}\n" + text[end:])


def _file(name, content=""):
    def change(folder, monkeypatch):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return change


def _same_store_twice(folder, monkeypatch):
    edit(folder, "  - id: workshop", "  - store: stores/../stores/office\n    id: workshop")


def _read_only(folder, monkeypatch):
    access = os.access  # whoever runs this may write everywhere
    monkeypatch.setattr(capturing.os, "access", lambda path, mode: mode != os.W_OK | os.X_OK and access(path, mode))


def _small_disk(folder, monkeypatch):
    monkeypatch.setattr(capture_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**28}))


def _row(**values):
    def change(folder, monkeypatch):
        lines = (folder / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
        record = {**json.loads(lines[6]), **values}
        lines[6] = json.dumps({key: value for key, value in record.items() if value is not None})
        (folder / "data/train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def _same_id(folder, monkeypatch):
    first = json.loads((folder / "data/train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    _row(id=first["id"])(folder, monkeypatch)


def _line(content):
    def change(folder, monkeypatch):
        with (folder / "data/train.jsonl").open("a", encoding="utf-8") as file:
            file.write(content)

    return change


def _teacher(answer):
    """Put a plug-in teacher with one answer to everything in the place of the first one."""

    def change(folder, monkeypatch):
        monkeypatch.syspath_prepend(str(folder))
        for name in ("_given", "_added"):  # what this process has been given is given to no later test
            monkeypatch.setattr(plugins, name, deepcopy(getattr(plugins, name)))
        name = f"answers_{abs(hash(answer))}"
        (folder / f"{name}.py").write_text(
            "class Teacher:\n    labels = ['billing', 'bug']\n    def __init__(self, **options): ...\n"
            f"    def predict(self, texts):\n        return {answer}\n"
            "MASHBILL_PLUGINS = {'teachers': {'answers': Teacher}}\n"
        )
        edit(folder, "plugin: keywords", "plugin: answers")
        return ["--plugin", name]

    return change


def _setting(old, new):
    return lambda folder, monkeypatch: edit(folder, old, new)


SETTINGS = "capture: {k: 3, shard_positions: 6}"
CASES = {
    "no store": (_no_store, r"no teacher has a `store` to capture into\n  --> .*teachers"),
    "nobody to ask": (_only_a_store, r"no teacher has a `store` to capture into"),
    "a store for two": (_same_store_twice, r"recipe\.yaml:\d+: teachers\[1\]\.store|is that of teachers\[0\] already"),
    "store is a file": (_file("stores/office/train", "x"), r"train` is a file, not a folder"),
    "store below a file": (_file("stores"), r"stores` is a file, not a folder"),
    "store holds other files": (_file("stores/office/train/thesis.txt", "x"), r"holds files, but no store"),
    "store where nothing can be kept": (_store("/proc/mashbill"), r"the disk is too small: 0 MiB are free"),
    "read-only folder": (_read_only, r"cannot write a store to .*: no right to write to"),
    "small disk": (_small_disk, r"the disk is too small: 256 MiB are free"),
    "empty store path": (_store('""'), r"teachers\[0\]\.store: must not be empty"),
    "plan of a later version": (_file("stores/office/train/store.json", '{"schema": 9}'), r"has schema 9, .* up to 1"),
    "empty row": (_row(text=" "), r"train\.jsonl:7: column `text` is empty"),
    "row without text": (_row(text=None), r"train\.jsonl:7: column `text` must be text, not nothing"),
    "id twice": (_same_id, r"train\.jsonl:7: the id `.*` is already that of data/train\.jsonl:1"),
    "missing column": (_setting("  task_column", "  id_column: number\n  task_column"), r"no column `number`"),
    "missing file": (_setting("data/train.jsonl", "data/none.jsonl"), r"none\.jsonl: no such file"),
    "a line that is no JSON": (_line("{oops\n"), r"train\.jsonl:21: column 2: not valid JSON"),
    "a label of nobody": (_row(label="weather"), r"the label `weather` is none of the student's labels"),
    "k of nothing": (_setting("k: 3", "k: 0"), r"capture\.k: .*must be at least 1"),
    "mass above one": (_setting("k: 3", "mass: 1.5"), r"capture\.mass: .*must be at most 1"),
    "unit too coarse": (_setting("k: 3", "unit: 2.0"), r"capture\.unit: .*must be at most 1"),
    "no threads": (_setting("k: 3", "threads: 0"), r"capture\.threads: .*must be at least 1"),
    "unknown setting": (_setting("k: 3", "top_k: 3"), r"capture\.top_k"),
    "teacher gives NaN": (_teacher("[{'bug': float('nan')}] * len(texts)"), r"gave no distribution.*\n  --> row `"),
    "teacher gives too few": (_teacher("[]"), r"gave 0 replies to 1 texts"),
    "teacher gives another label": (_teacher("[{'sun': 1.0}] * len(texts)"), r"a label that it did not declare: `sun`"),
    "teacher fails": (_teacher("1 // 0"), r"failed: ZeroDivisionError"),
}
COMMAND_LINES = {
    "rank beyond world": (["--rank", "2", "--world", "2"], r"--rank 2 is no machine of --world 2"),
    "negative rank": (["--rank", "-1"], r"--rank.*(at least|greater than or equal to|range)"),
    "no world": (["--world", "0"], r"--world.*(greater than or equal to|range)"),
    "no workers": (["--workers", "0"], r"--workers.*(greater than or equal to|range)"),
    "workers in words": (["--workers", "many"], r"--workers.*(valid int)"),
}


def refused(folder, command, arguments, expected, *, code=2):
    before = listing(folder)
    outcome = command("capture", RECIPE, "--workers", "1", *arguments)
    assert outcome.code == code, outcome
    assert re.search(expected, outcome.err), outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    assert len(re.findall(r"^error: ", outcome.err, re.M)) == 1, outcome.err
    assert listing(folder) == before


@pytest.mark.parametrize("name", CASES)
def test_each_mistake_gives_one_clear_error_and_leaves_nothing_behind(name, captured, command, monkeypatch):
    change, expected = CASES[name]
    arguments = change(captured, monkeypatch) or []
    refused(captured, command, arguments, expected)


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_wrong_command_line_leaves_nothing_behind(name, captured, command):
    refused(captured, command, *COMMAND_LINES[name])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("receipt", "recipes", "the teacher's options differs"),
        ("k: 3", "k: 2", "what is kept differs"),
        ("plugin: keywords", "plugin: keywords\n    batch_size: 3", "the teacher's batch_size differs"),
        (SETTINGS, SETTINGS.replace("k: 3", "k: 3, threads: 2"), "the teacher's threads differs"),
        ("labels: [billing, bug, ", "labels: [bug, billing, ", "the vocabulary differs"),
    ],
)
def test_the_store_of_something_else_is_left_alone(old, new, expected, captured, command):
    assert command("capture", RECIPE, "--workers", "1").code == 0
    edit(captured, old, new)
    refused(captured, command, [], f"is the store of something else: .*{expected}")


def test_a_row_that_has_changed_is_asked_about_and_no_other(captured, command, monkeypatch):
    assert command("capture", RECIPE, "--workers", "1").code == 0
    _row(text="the bill again")(captured, monkeypatch)
    outcome = command("capture", RECIPE, "--workers", "1")
    assert outcome.code == 0
    assert "20 positions to capture in 1 store(s)" in outcome.err
    assert "19 of them are answered already, and taken over" in outcome.err
    assert "1 answers to rows that are asked about no more are in" in outcome.out
    assert command("verify", "stores/office").code == 0
    assert command("distill", RECIPE).code == 0


def test_a_data_file_may_have_another_name(captured, command):
    for file in Path("data").glob("train.jsonl"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        file.write_text("".join(json.dumps({k: v for k, v in one.items() if k != "id"}) + "\n" for one in lines))
    assert command("capture", RECIPE, "--workers", "1").code == 0
    Path("data/train.jsonl").rename("data/learnt.jsonl")
    edit(captured, "data/train.jsonl", "data/learnt.jsonl")
    outcome = command("distill", RECIPE)
    assert "is not in the store of teacher `office`" in outcome.err
    assert "capture again with these rows" in outcome.err
    outcome = command("capture", RECIPE, "--workers", "1")
    assert "20 of them are answered already, and taken over" in outcome.err
    assert command("distill", RECIPE).code == 0
    assert not Path("stores/office/.beside-train").exists()


def _refusing(monkeypatch, is_refused):
    score = LabelledTeacher.score

    def refusing(self, inputs):
        refused = {n: "no credit left" for n, row_id in enumerate(inputs.row_ids) if is_refused(row_id)}
        return replace(score(self, inputs), refused=refused)

    monkeypatch.setattr(LabelledTeacher, "score", refusing)


def test_a_teacher_that_refuses_the_first_row_is_bad_input(captured, command, monkeypatch):
    _refusing(monkeypatch, lambda _: True)
    refused(captured, command, [], r"teacher `office` refuses row `.*`\n(.*\n)*.*no credit left")


def test_a_teacher_that_refuses_most_rows_is_no_success_and_is_asked_again(captured, command, monkeypatch):
    first = json.loads(Path("data/train.jsonl").read_text(encoding="utf-8").splitlines()[0])["id"]
    with monkeypatch.context() as there:
        _refusing(there, lambda row_id: row_id != first)
        outcome = command("capture", RECIPE, "--workers", "1")
    assert outcome.code == 3
    assert "error: teacher `office` refused 19 of 20 rows of train" in outcome.out
    outcome = command("capture", RECIPE, "--workers", "1", "--json")
    assert outcome.code == 3
    assert "nothing to capture" in outcome.err
    assert len(json.loads(outcome.out)["problems"]) == 3
    assert "mashbill capture RECIPE --again" in command("distill", RECIPE).err
    outcome = command("capture", RECIPE, "--workers", "1", "--again")
    assert outcome.code == 0
    assert "1 of them are answered already, and taken over" in outcome.err
    assert "refused" not in outcome.out
    assert not list(Path("stores/office").rglob("dead_letters.jsonl"))
    assert command("verify", "stores/office").code == 0
    assert "nothing to capture: every shard is there" in command("capture", RECIPE, "--workers", "1", "--again").err
    assert command("distill", RECIPE).code == 0


def test_a_machine_without_a_shard_is_told_so(captured, command):
    outcome = command("capture", RECIPE, "--workers", "1", "--rank", "8", "--world", "9")
    assert "nothing to capture here: others do the rest" in outcome.err


def test_a_plan_that_was_changed_is_damage(captured, command):
    assert command("capture", RECIPE, "--workers", "1").code == 0
    edit(captured, '"k": 3', '"k": 4', file="stores/office/train/store.json")
    file = captured / "stores/office/train/store.json"
    file.write_text(file.read_text() + " ")
    refused(captured, command, [], r"store\.json` is not what was written", code=4)


def test_a_note_that_was_changed_is_damage_and_says_which_rows(captured, command):
    assert command("capture", RECIPE, "--workers", "1").code == 0
    edit(captured, '"n_kept": ', '"n_kept": 1', file="stores/office/train/shards/000001.json")
    file = captured / "stores/office/train/shards/000001.json"
    file.write_text(file.read_text().replace('"n_rows": 6', '"n_rows": 7'))
    refused(captured, command, [], r"note of shard 000001 is not what was written\n(.*\n)*.*rows 6 to 11", code=4)


def test_a_disk_that_fills_up_stops_it_cleanly_and_the_same_command_goes_on(captured, command, monkeypatch):
    write, left = files.pq.write_table, [2]

    def failing(table, where, **options):
        if ".asked" not in str(where) and not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= ".asked" not in str(where)
        return write(table, where, **options)

    monkeypatch.setattr(files.pq, "write_table", failing)
    outcome = command("capture", RECIPE, "--workers", "1")
    assert outcome.code == 2
    assert "error: cannot write shard 000002: No space left on device" in outcome.err
    assert "the same command goes on where this one stopped" in outcome.err
    shards = sorted(Path("stores/office/train/shards").iterdir())
    assert [one.name for one in shards] == [f"00000{n}.{ending}" for n in (0, 1) for ending in ("json", "parquet")]
    left[0] = 99
    outcome = command("capture", RECIPE, "--workers", "1")
    assert outcome.code == 0
    assert "2 of 4 shards are there" in outcome.err
    assert command("verify", "stores/office").code == 0


def test_whoever_interrupts_it_is_told_that_it_goes_on(captured, command, monkeypatch):
    monkeypatch.setattr(capture_module, "capture_recipe", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    outcome = command("capture", RECIPE, "--workers", "1")
    assert outcome.code == 130
    assert "the same command goes on where this one stopped" in outcome.err
