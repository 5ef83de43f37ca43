"""Recipes are captured with the bytes of one worker, and say what the live teacher says."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from teachers.store.fire import bytes_of

from mashbill import plugins
from mashbill.distributions import Dense, TopK, measure
from mashbill.errors import CorruptionError, DataError, MashbillError
from mashbill.progress import Silent
from mashbill.teachers.bases import Bases
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.asking import read_asked
from mashbill.teachers.store.capturing import Work
from mashbill.teachers.store.files import read_shard
from mashbill.teachers.store.plan import Plan
from mashbill.train import capture as capturing
from mashbill.train import crew, filling
from mashbill.train.assemble import TRAIN
from mashbill.train.build import build_teacher
from mashbill.train.capture import capture_recipe
from mashbill.train.questions import question_sets
from mashbill.train.students import build_student


def stored(loaded, *, store="store", n_teachers=1, **options):
    """Return the recipe with a store for each of its first teachers, cut into small shards."""
    specs = [
        spec.model_copy(update={"store": loaded.path.parent / store / spec.id})
        for spec in loaded.recipe.teachers[:n_teachers]
    ]
    options = {"k": 8, "shard_positions": 40, **options}
    changed = loaded.recipe.model_copy(
        update={"teachers": specs, "capture": loaded.recipe.capture.model_copy(update=options)}
    )
    return type(loaded)(changed, loaded.path, loaded.text, loaded.lines)


def shards_of(folder):
    plan = Plan.read(folder)
    return plan, [read_shard(folder, plan, shard) for shard in plan.shards]


def test_two_workers_write_the_bytes_of_one(language, tmp_path):
    one, two = stored(language(), store="one", n_teachers=2), stored(language(), store="two", n_teachers=2)
    done = capture_recipe(one, workers=1)
    capture_recipe(two, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert len(Plan.read(tmp_path / "one/a/train").shards) > 2
    assert [(each.teacher, each.rows) for each in done] == [(t, r) for t in "ab" for r in ("train", "held_out")]
    assert all(each.is_complete for each in done)


def test_what_is_kept_is_what_the_teacher_says_alone(language, tmp_path):
    loaded = stored(language(), shard_positions=100)
    (done, _) = capture_recipe(loaded, workers=1)
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    spec = loaded.recipe.teachers[0].model_copy(update={"store": None, "top_k": None})
    teacher = build_teacher(0, spec, student, loaded.path.parent, bases=Bases())
    plan, shards = shards_of(tmp_path / "store/a/train")
    asked = list(question_sets(loaded, student)[TRAIN].of(plan.shards))
    worst = lost = n = 0.0
    for (_, rows), kept in zip(asked, shards, strict=True):
        assert rows.row_ids == kept.row_ids
        for row in range(len(rows)):
            inputs = rows.inputs([row])
            live = teacher.score(inputs)
            full, mask = live.distribution.logprobs[0], inputs.mask[0]
            here = slice(int(kept.starts[row]), int(kept.starts[row + 1]))
            topk = kept.scored.distribution
            assert torch.equal(topk.ids[here], TopK.from_logprobs(full[mask], k=8).ids)
            worst = max(worst, float((full[mask].gather(-1, topk.ids[here]) - topk.logprobs[here]).abs().max()))
            for name in ("entropy", "gini", "margin", "max_logprob", "label_logprob"):
                wanted = getattr(live.statistics, name)[0][mask]
                assert torch.allclose(getattr(kept.scored.statistics, name)[here], wanted, atol=1e-5), name
            assert kept.tokens[row].tolist() == inputs.input_ids[0, : int(mask.nonzero().max()) + 1].tolist()
            own = TopK(topk.ids[here], topk.logprobs[here], topk.log_tail[here], topk.n_entries).densify()
            lost += float((full[mask].double().exp() * (full[mask].double() - own.double())).sum())
            n += int(mask.sum())
    assert plan.layout.error_bound / 8 < worst <= plan.layout.error_bound + 1e-5
    # What capture reports, from kept entries and entropies, is the divergence from the whole distribution.
    assert n == done.plan.n_positions == done.n_measured
    assert done.lost == pytest.approx(lost / n, rel=1e-3)
    assert done.lost > 0.01


def test_machines_do_their_share_and_the_last_one_writes_the_manifest(language, tmp_path):
    whole = stored(language(), store="whole")
    capture_recipe(whole, workers=1)
    parts = stored(language(), store="parts")
    first = capture_recipe(parts, work=Work(1, 2), workers=1)
    assert not first[0].is_complete
    assert not list((tmp_path / "parts").rglob("manifest.json"))
    assert not list((tmp_path / "parts").rglob(".asked"))
    assert all(one.is_complete for one in capture_recipe(parts, work=Work(0, 2), workers=1))
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


class Reluctant:
    """Answers evenly, and refuses rows with a word; the pretended teacher of a few tests."""

    id = "a"

    def __init__(self, n_entries, *, nan_at=None):
        self.n_entries, self.nan_at, self.asked = n_entries, nan_at, []

    def score(self, inputs):
        self.asked += inputs.row_ids
        logprobs = torch.zeros(*inputs.mask.shape, self.n_entries).log_softmax(-1)
        if self.nan_at in inputs.row_ids:
            logprobs[inputs.row_ids.index(self.nan_at), 2] = torch.nan
        dense = Dense(logprobs)
        refused = {row: "too rude" for row, row_id in enumerate(inputs.row_ids) if row_id in ("train3#1", "train7#0")}
        return Scored(TopK.from_logprobs(logprobs, k=4), measure(dense, labels=inputs.labels), refused)

    def identity(self):
        return {"kind": "pretended"}


def pretended(monkeypatch, **options):
    made = []

    def build(_number, _spec, student, _base, *, bases, **_):
        made.append(Reluctant(student.n_entries, **options))
        return made[-1]

    monkeypatch.setattr(filling, "build_teacher", build)
    return made


def test_rows_that_a_teacher_refuses_are_kept_and_listed(language, tmp_path, monkeypatch):
    pretended(monkeypatch)
    train, held_out = capture_recipe(stored(language()), workers=1)
    assert (train.n_refused, held_out.n_refused) == (2, 0)
    text = (tmp_path / "store/a/train/dead_letters.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"row_id": "train3#1", "reason": "too rude"},
        {"row_id": "train7#0", "reason": "too rude"},
    ]
    assert not (tmp_path / "store/a/eval-held_out/dead_letters.jsonl").exists()
    _, shards = shards_of(tmp_path / "store/a/train")
    reasons = {row_id: why for one in shards for row_id, why in zip(one.row_ids, one.refused, strict=True)}
    assert {row_id for row_id, why in reasons.items() if why} == {"train3#1", "train7#0"}


class Far(Reluctant):
    """A model behind a name, which may be another one tomorrow."""

    def __init__(self, n_entries, *, favourite):
        super().__init__(n_entries)
        self.favourite = favourite

    def score(self, inputs):
        self.asked += inputs.row_ids
        logits = torch.zeros(*inputs.mask.shape, self.n_entries)
        logits[..., self.favourite] = 5.0
        dense = Dense(logits.log_softmax(-1))
        return Scored(TopK.from_logprobs(dense.logprobs, k=8), measure(dense, labels=inputs.labels))

    def identity(self):
        return {"kind": "endpoint"}


def test_another_model_behind_the_same_name_is_found_out(language, tmp_path, monkeypatch):
    made, loaded = [], stored(language())

    def build(favourite):
        def built(_number, _spec, student, _base, **_):
            made.append(Far(student.n_entries, favourite=favourite))
            return made[-1]

        monkeypatch.setattr(filling, "build_teacher", built)

    build(3)
    capture_recipe(loaded, work=Work(1, 2), workers=1)
    files = bytes_of(tmp_path / "store")
    build(4)
    with pytest.raises(MashbillError, match=r"answers row `.*` otherwise than when its store was begun") as caught:
        capture_recipe(loaded, workers=1)
    assert caught.value.exit_code == 2
    assert bytes_of(tmp_path / "store") == files
    build(3)
    assert all(one.is_complete for one in capture_recipe(loaded, workers=1))


def test_a_file_that_shrinks_while_it_is_read_is_an_error_of_the_data(language):
    loaded = stored(language())
    rows = question_sets(loaded, build_student(loaded.recipe.student, loaded.path.parent, 0))[TRAIN]
    shards, _ = rows.shards(at_most=40)
    shards = (*shards, replace(shards[-1], number=len(shards)))
    with pytest.raises(DataError, match="rows are gone that were there a moment ago"):
        list(rows.of(shards))


def test_a_number_that_is_none_stops_it_and_names_the_row(language, tmp_path, monkeypatch):
    made, loaded = pretended(monkeypatch, nan_at="train9#0"), stored(language())
    with pytest.raises(MashbillError, match=r"not finite\n  --> row `train9#0`, position 2") as caught:
        capture_recipe(loaded, workers=1)
    assert caught.value.exit_code == 3
    n_there = len(list((tmp_path / "store/a/train/shards").glob("*.parquet")))
    assert n_there > 0
    made.clear()
    pretended(monkeypatch)
    capture_recipe(loaded, workers=1)  # what was there is kept
    assert bytes_of(tmp_path / "store")


def test_a_teacher_that_fails_at_once_leaves_nothing(language, tmp_path, monkeypatch):
    pretended(monkeypatch, nan_at="train0#0")
    with pytest.raises(MashbillError, match="not finite") as caught:
        capture_recipe(stored(language()), workers=1)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store").exists()


def test_a_label_without_a_number_stops_it_too(language, monkeypatch):
    def forgetful(self, inputs, score=Reluctant.score):
        scored = score(self, inputs)
        scored.statistics.label_logprob[0, 2] = torch.nan
        return scored

    monkeypatch.setattr(Reluctant, "score", forgetful)
    pretended(monkeypatch)
    with pytest.raises(MashbillError, match=r"not finite\n  --> row `train0#0`, position 2"):
        capture_recipe(stored(language()), workers=1)


def test_what_is_there_is_not_asked_again(language, tmp_path, monkeypatch):
    made, loaded = pretended(monkeypatch), stored(language())
    capture_recipe(loaded, workers=1)
    files = bytes_of(tmp_path / "store")
    (tmp_path / "store/a/train/shards/000001.json").unlink()
    (tmp_path / "store/a/train/manifest.json").unlink()
    said = []
    capture_recipe(loaded, workers=1, say=said.append)
    _, shards = shards_of(tmp_path / "store/a/train")
    lost = shards[1].row_ids
    # The first row once more, as a sample of what the teacher can do.
    assert sorted(made[-1].asked) == sorted([*lost, "train0#0"])
    assert bytes_of(tmp_path / "store") == files
    assert said[0].startswith(f"{len(shards[1].positions)} positions to capture in 1 store(s): at most about")
    capture_recipe(loaded, workers=1, say=said.append)
    assert said[1] == "nothing to capture: every shard is there"
    assert made[-1].asked == []


def test_what_killed_runs_left_half_written_is_removed(language, tmp_path, monkeypatch):
    pretended(monkeypatch)
    loaded, shards = stored(language()), tmp_path / "store/a/train/shards"
    shards.mkdir(parents=True)
    for name in (".000000.parquet.999", ".000001.json.999"):
        (shards / name).write_bytes(b"half")
    for name in (".store.json.here.1.0", ".manifest.json.here.1.0", ".dead_letters.jsonl.here.1.0"):
        (shards.parent / name).write_bytes(b"half")
    (tmp_path / "store/a/.sets.json.here.1.0").write_bytes(b"half")
    capture_recipe(loaded, workers=1)
    assert {one.name for one in (tmp_path / "store").rglob(".*")} == {".claims"}


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(language, tmp_path, monkeypatch):
    pretended(monkeypatch)
    monkeypatch.setattr(capturing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**28 + 2**16}))
    with pytest.raises(MashbillError, match=r"the disk is too small: 256 MiB are free"):
        capture_recipe(stored(language()), workers=1)
    assert not (tmp_path / "store").exists()


def test_ids_that_stand_twice_are_found_across_pieces(language, tmp_path, monkeypatch):
    pretended(monkeypatch)
    loaded = stored(language())
    rows = [json.dumps({"id": f"r{n if n != 1300 else 4}", "text": "the house and the tree"}) for n in range(1301)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl:1301: the id `r4` is already that of .*train\.jsonl:5"):
        capture_recipe(loaded, workers=1)


def test_questions_that_were_damaged_are_not_asked(language, tmp_path, monkeypatch):
    pretended(monkeypatch)
    loaded, folder = stored(language()), tmp_path / "store/a/train"
    for module, name in ((crew, "fill"), (capturing, "capture"), (capturing, "forget_asked")):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    capture_recipe(loaded, workers=1)
    plan, files = Plan.read(folder), sorted((folder / ".asked").iterdir())
    assert len(files) == len(plan.shards)
    assert [len(read_asked(folder, one)) for one in plan.shards] == [one.n_rows for one in plan.shards]
    files[1].replace(files[0])
    for shard, why in zip(plan.shards, ("they are other rows", "000001-"), strict=False):
        with pytest.raises(CorruptionError, match=why):
            read_asked(folder, shard)
    assert not {files[0], files[1]} & set((folder / ".asked").iterdir())  # so that they are laid down again


class KillsHelper(Silent):
    """Kills every other process as soon as the first shard is done."""

    def advance(self, n=1, **fields):
        for child in multiprocessing.active_children():
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)


def test_a_worker_that_is_killed_costs_nothing(language, tmp_path):
    one, two = stored(language(), store="one"), stored(language(), store="two")
    capture_recipe(one, workers=1)
    told = []
    assert all(each.is_complete for each in capture_recipe(two, workers=2, progress=KillsHelper(), say=told.append))
    assert any("a worker was killed by signal 9" in one for one in told)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert not multiprocessing.active_children()


def test_what_stops_a_worker_stops_all_and_is_told(classification, tmp_path, monkeypatch):
    # The test's plug-in is known to this process only, so that the other cannot start.
    loaded = stored(classification(), n_teachers=1, shard_positions=1)
    slow = plugins._given["teachers"]["words"]

    class Slow(slow):
        def predict(self, texts):
            time.sleep(0.5)
            return super().predict(texts)

    monkeypatch.setitem(plugins._given, "teachers", {"words": Slow})
    with pytest.raises(MashbillError, match="`words`"):
        capture_recipe(loaded, workers=2)
    assert not multiprocessing.active_children()


def test_as_many_workers_as_cores_memory_and_shards_bear(language, monkeypatch):
    loaded = stored(language())
    tasks = [filling.Task(0, "a", TRAIN, loaded.path.parent / "no", plan_of_shards(9), 4, 0, loaded.path.parent / "no")]
    monkeypatch.setattr(crew.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(crew, "free_in_memory", lambda: 2**40)
    assert crew.usual_workers(loaded, tasks, Work()) == 8
    assert crew.usual_workers(loaded, tasks, Work(0, 3)) == 3
    assert crew.usual_workers(stored(language(), threads=4), tasks, Work()) == 2
    monkeypatch.setattr(crew, "free_in_memory", lambda: int(2.5 * 2**30))
    assert crew.usual_workers(loaded, tasks, Work()) == 2
    (loaded.path.parent / "hub").mkdir()
    with (loaded.path.parent / "hub" / "model.safetensors").open("wb") as file:
        file.truncate(2**30)
    monkeypatch.setattr(crew, "model_path", lambda *_, **__: loaded.path.parent / "hub")
    assert crew.usual_workers(loaded, tasks, Work()) == 1
    on_gpu = loaded.recipe.teachers[0].model_copy(update={"device": "cuda"})
    shared = type(loaded)(loaded.recipe.model_copy(update={"teachers": [on_gpu]}), loaded.path, loaded.text, {})
    assert crew.usual_workers(shared, tasks, Work()) == 1


def plan_of_shards(n):
    from mashbill.teachers.store.layout import Layout
    from mashbill.teachers.store.plan import cut

    return Plan({"kind": "test"}, "v", Layout(10), cut([1] * n, map(str, range(n)), [b"row"] * n, at_most=1))
