"""Captures of DistillKit as stores: found again by their tokens, compared with the teacher, read by a run."""

import json
import math
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from teachers.store.distillkit_writer import BINNED, BUDGET, EXACT, RECOMMENDED, write_capture

from mashbill import numerics
from mashbill.distributions import Dense, TopK
from mashbill.errors import DataError, MashbillError
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.teachers.store.verifying import verify
from mashbill.train.build import build_teacher
from mashbill.train.corpus import build_corpus
from mashbill.train.data import read_rows
from mashbill.train.import_recipe import import_recipe, write_captured_rows
from mashbill.train.loading import load_recipe
from mashbill.train.students import build_student

V = 300


def asked_of(loaded):
    """Return student, teacher (whole distributions) and the recipe's training rows."""
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    spec = loaded.recipe.teachers[0].model_copy(update={"store": None, "top_k": None})
    teacher = build_teacher(0, spec, student, loaded.path.parent) if spec.can_be_asked else None
    rows = read_rows(loaded.resolve(loaded.recipe.data.train), loaded.recipe.data)
    return student, teacher, build_corpus(student, rows, max_length=loaded.recipe.data.max_length)


def captured(loaded, folder, settings, *, padding=(2,), shift=0, order=None, sets=("train",), **options):
    """Write what DistillKit would of the recipe's rows: tokens, a token of padding, distributions after each."""
    _, teacher, corpus = asked_of(loaded)
    rows = []
    for n in order or range(len(corpus)):
        inputs = corpus.inputs(torch.tensor([n]))
        logprobs = teacher.score(inputs).distribution.logprobs[0].roll(-shift, 0)
        kept = TopK.from_logprobs(logprobs, k=settings["k"])
        rows.append(([*inputs.input_ids[0].tolist(), *padding], kept.ids, kept.logprobs))
    return write_capture(folder, rows, {**settings, "d": settings.get("d", V)}, **options)


def sharpened(scored):
    return replace(scored, distribution=Dense((3 * scored.distribution.logprobs).log_softmax(dim=-1)))


@pytest.fixture
def recipe(language, tmp_path):
    def make(**changes):
        base = language({"data.max_length": 64, "data.eval": {}, **changes})
        values = yaml.safe_load(base.path.read_text())
        values["teachers"] = [{**values["teachers"][0], "store": "store"}]
        base.path.write_text(yaml.safe_dump(values))
        return load_recipe(base.path)

    return make


def alone(loaded):
    """Return the recipe with the store and without the model."""
    values = yaml.safe_load(loaded.path.read_text())
    values["teachers"] = [{"id": "a", "store": "store"}]
    loaded.path.write_text(yaml.safe_dump(values))
    return load_recipe(loaded.path)


def test_what_is_read_is_what_was_captured_row_by_row(recipe, tmp_path):
    loaded = recipe()
    student, teacher, corpus = asked_of(loaded)
    order = list(reversed(range(len(corpus))))  # rows are found by their tokens, wherever they lie
    captured(loaded, tmp_path / "capture", EXACT, order=order)
    (done,) = import_recipe(loaded, tmp_path / "capture")
    assert (done.rows, done.plan.n_rows) == ("train", len(corpus))
    assert verify(done.folder).is_whole
    stored = StoredTeacher("a", tmp_path / "store", student.vocabulary)
    index = torch.tensor([3, 0, 7])
    inputs = corpus.inputs(index)
    found, wanted = stored.score(inputs), teacher.score(inputs)
    kept = TopK.from_logprobs(wanted.distribution.logprobs, k=16)
    mask = inputs.mask
    assert torch.equal(found.distribution.ids[mask], kept.ids[mask])
    assert (found.distribution.logprobs - kept.logprobs)[mask].abs().max() < 2.0**-11
    assert (found.distribution.log_tail - kept.log_tail)[mask].abs().max() < 1e-3
    # What was not captured is not known: the entropy is an interval, and the truth lies in it.
    assert (found.statistics.entropy_low <= wanted.statistics.entropy + 1e-3)[mask].all()
    assert (found.statistics.entropy >= wanted.statistics.entropy - 1e-3)[mask].all()


def test_the_loss_of_the_form_is_told_apart_from_the_cut(recipe, tmp_path):
    for name, settings in {"exact": EXACT, "binned": BINNED, "curve": RECOMMENDED}.items():
        loaded = recipe(**{"output": name})
        captured(loaded, tmp_path / name, settings)
        (done,) = import_recipe(loaded, tmp_path / name)
        against = done.against
        assert against.agreement == 1
        if name == "exact":
            assert against.lost == pytest.approx(against.cut, abs=1e-6)
            assert done.form.fitted == 0
            assert against.largest < 1e-5
        else:
            assert done.form.fitted == {"binned": 32, "curve": 112}[name]
            assert against.lost > against.cut > 0
            assert against.largest > 1e-2
        if name == "binned":
            assert 0 < done.form.binned < 1
        shutil.rmtree(tmp_path / "store")


def test_lists_of_which_some_leave_nothing_for_others_are_still_the_teacher_s(recipe, tmp_path, monkeypatch):
    loaded = recipe()
    steep, _ = asked_of(loaded)[1:]
    plain = type(steep).score
    # A sharper teacher than any random one: a curve after one exact entry then misses what is left.
    monkeypatch.setattr(type(steep), "score", lambda self, inputs: sharpened(plain(self, inputs)))
    captured(loaded, tmp_path / "capture", BUDGET)
    (done,) = import_recipe(loaded, tmp_path / "capture")
    against = done.against
    assert against.agreement > 0.8  # a curve may rise above the entry before it
    assert 0.02 < against.infinite < 0.98
    assert against.cut < against.lost < against.cut + 2  # no placeholder for what is infinite


def test_a_run_reads_an_imported_store(recipe, tmp_path):
    from mashbill.train.run import distill

    loaded = recipe()
    captured(loaded, tmp_path / "capture", EXACT)
    import_recipe(loaded, tmp_path / "capture")
    # compared with the model on the way in, it is the model's; a run may name either
    assert distill(loaded).status == "finished"


def test_without_the_model_nobody_can_tell_whose_it_is(recipe, tmp_path):
    loaded = recipe()
    captured(loaded, tmp_path / "capture", EXACT)
    with_model = loaded.path.read_text()
    without = alone(loaded)
    (done,) = import_recipe(without, tmp_path / "capture")
    assert done.against is None
    student, _, _ = asked_of(without)
    build_teacher(0, without.recipe.teachers[0], student, tmp_path)
    loaded.path.write_text(with_model)
    spec = load_recipe(loaded.path).recipe.teachers[0]
    with pytest.raises(MashbillError, match="nothing says that the store of teacher `a`"):
        build_teacher(0, spec, student, tmp_path)


def test_another_teacher_s_capture_is_refused(recipe, tmp_path, language_models):
    loaded = recipe()
    captured(loaded, tmp_path / "capture", EXACT)
    values = yaml.safe_load(loaded.path.read_text())
    values["teachers"][0]["model"] = str(language_models / "b")
    loaded.path.write_text(yaml.safe_dump(values))
    with pytest.raises(MashbillError, match="is not that of teacher `a`"):
        import_recipe(load_recipe(loaded.path), tmp_path / "capture")
    assert not (tmp_path / "store").exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(recipe, tmp_path, monkeypatch):
    loaded = recipe()
    captured(loaded, tmp_path / "capture", EXACT)
    free = shutil.disk_usage(tmp_path)._replace(free=2**28)
    monkeypatch.setattr("mashbill.train.importing.shutil.disk_usage", lambda _: free)
    with pytest.raises(MashbillError, match="the disk is too small"):
        import_recipe(loaded, tmp_path / "capture")
    assert not (tmp_path / "store").exists()


def test_what_lists_sum_to_above_1_is_part_of_the_error_of_written_numbers():
    from mashbill.teachers.store.distillkit import Restored, Settings
    from mashbill.train.reconstruction import reconstruction_of

    found = Restored(torch.tensor([[1, 2, 12]]), torch.tensor([[0.6, 0.45, 0.05]]).log(), torch.full((1, 3), 1e-3))
    told = reconstruction_of([found], Settings(d=16, k=3, exact_k=3, residual_bins=[]), 10, where="here")
    assert told.written == pytest.approx(1e-3 + math.log(1.05), abs=1e-6)


def test_rows_that_were_not_captured_are_refused(recipe, tmp_path):
    loaded = recipe()
    captured(loaded, tmp_path / "capture", EXACT, order=[0, 1, 2, 4])
    with pytest.raises(DataError, match="8 of 12 rows were not captured, the first is `train3`"):
        import_recipe(loaded, tmp_path / "capture")


def test_a_capture_that_ends_early_is_refused(recipe, tmp_path):
    loaded = recipe()
    folder = captured(loaded, tmp_path / "capture", EXACT, padding=())
    for file in folder.glob("*.parquet"):  # as many distributions as tokens less one
        table = pq.read_table(file)
        columns = {name: [row[:-1] for row in table[name].to_pylist()] for name in table.column_names[1:]}
        pq.write_table(pa.table({"input_ids": table["input_ids"].to_pylist(), **columns}), file)
    with pytest.raises(DataError, match="were not captured"):
        import_recipe(loaded, tmp_path / "capture")


def test_distributions_at_other_places_are_refused():
    from mashbill.teachers.store.distillkit import Restored
    from mashbill.train.reconstruction import require_alignment

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(V, (60,), generator=generator)
    ids = torch.stack([torch.randperm(V, generator=generator)[:16] for _ in labels])
    ids[:40, 2] = labels[:40]
    known = Restored(ids, torch.zeros(60, 16), torch.zeros(60, 16))
    require_alignment([known], [labels], where="here")
    for shift, told in ((1, "1 later"), (-1, "1 earlier"), (2, "2 later")):
        moved = replace(known, ids=ids.roll(-shift, 0))
        with pytest.raises(DataError, match=told):
            require_alignment([moved], [labels], where="here")


def test_rows_are_made_from_the_tokens_of_a_capture(recipe, tmp_path):
    loaded = recipe()
    captured(loaded, tmp_path / "capture", EXACT)
    before = [json.loads(line)["text"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    with pytest.raises(MashbillError, match="exists"):
        write_captured_rows(loaded, tmp_path / "capture")
    (tmp_path / "train.jsonl").unlink()
    written = write_captured_rows(loaded, tmp_path / "capture")
    after = [json.loads(line)["text"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert (written.n_rows, written.n_lost, after) == (12, 0, before)
    (done,) = import_recipe(loaded, tmp_path / "capture")
    assert done.plan.n_rows == 12


def test_differences_that_are_read_as_numbers_are_noticed(recipe, tmp_path):
    loaded = recipe()
    folder = captured(loaded, tmp_path / "capture", {**EXACT, "delta_encoding": True})
    import_recipe(loaded, folder)
    shutil.rmtree(tmp_path / "store")
    settings = yaml.safe_load((folder / "compression_config.yaml").read_text())
    (folder / "compression_config.yaml").write_text(yaml.safe_dump({**settings, "delta_encoding": False}))
    with pytest.raises(DataError, match="rises where it must fall"):
        import_recipe(loaded, folder)


def test_entries_on_a_curve_share_what_the_written_ones_leave():
    from mashbill.teachers.store.distillkit import Restored
    from mashbill.teachers.store.distillkit_files import as_topk

    logprobs, curve = torch.tensor([[0.6, 0.5, 0.3], [0.6, 0.1, 0.1]]).log(), torch.inf
    found = Restored(torch.tensor([[1, 2, 3]] * 2), logprobs, torch.tensor([[0.0, curve, curve]] * 2))
    topk, total = as_topk(found, 10)
    assert topk.logprobs.exp()[0].tolist() == pytest.approx([0.6, 0.25, 0.15])
    assert topk.logprobs.exp()[1].tolist() == pytest.approx([0.6, 0.1, 0.1])
    assert topk.log_tail.exp().tolist() == pytest.approx([0, 0.2], abs=1e-6)
    assert topk.log_tail[0] == numerics.LOG_ZERO  # and not the rounding of a sum
    assert total.tolist() == pytest.approx([1.4, 0.8])


def test_ids_that_the_student_lacks_get_no_mass():
    from mashbill.teachers.store.distillkit import Restored
    from mashbill.teachers.store.distillkit_files import as_topk

    logprobs = torch.tensor([[0.5, 0.2, 0.1], [0.6, 0.5, 0.1]]).log()
    topk, total = as_topk(Restored(torch.tensor([[3, 12, 4], [1, 2, 3]]), logprobs, torch.zeros(2, 3)), 10)
    assert topk.ids.tolist() == [[3, -1, 4], [1, 2, 3]]
    assert topk.logprobs.exp()[0, [0, 2]].tolist() == pytest.approx([0.625, 0.125])
    assert topk.log_tail.exp().tolist() == pytest.approx([0.25, 0], abs=1e-6)
    assert total.tolist() == pytest.approx([0.8, 1.2])
    assert topk.logprobs[1].exp().tolist() == pytest.approx([0.5, 0.5 / 1.2, 0.1 / 1.2])
