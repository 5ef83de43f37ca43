import numpy as np
import pytest
import torch
from teachers.store.worlds import CLASSES, V, answered, inputs, plan_of, scored

from mashbill.errors import MashbillError, TeacherError, VocabularyError
from mashbill.teachers.entry_classes import EntryClasses
from mashbill.teachers.protocol import Inputs, Teacher
from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.teachers.vocabulary import Vocabulary

N = 30
WORDS = Vocabulary.from_labels([f"word {n}" for n in range(V)])

DECLARED = EntryClasses({name: (number,) for number, name in enumerate(CLASSES)}, V)


def plan():
    given = plan_of(inputs(N))
    return Plan({**given.teacher, **DECLARED.pins}, WORDS.digest, Layout(V, classes=CLASSES), given.shards)


@pytest.fixture
def folder(tmp_path):
    asked = inputs(N)
    capture(tmp_path / "store", plan(), lambda s: answered(asked, range(s.first, s.first + s.n_rows)), reserve=0)
    return tmp_path / "store"


def part(asked, index, *, more=0):
    """Return some rows, in another order and with more padding."""
    pad = torch.nn.functional.pad
    return Inputs(
        tuple(asked.row_ids[n] for n in index),
        tuple(asked.texts[n] for n in index),
        pad(asked.input_ids[index], (0, more), value=7),
        pad(asked.labels[index], (0, more), value=-100),
        pad(asked.mask[index], (0, more), value=False),
    )


def test_answers_are_those_that_the_teacher_gave(folder):
    teacher, asked = StoredTeacher("one", folder, WORDS, classes=DECLARED, most_shards=2), inputs(N)
    assert isinstance(teacher, Teacher)
    for index in ([3, 17, 29], [29, 0, 4, 11], list(range(N))):
        here = part(asked, index, more=2)
        if not here.mask.any():
            continue
        found, wanted = teacher.score(here), scored(here)
        mask = here.mask
        assert torch.equal(found.distribution.ids[mask], wanted.distribution.ids[mask].long())
        assert (found.distribution.logprobs - wanted.distribution.logprobs)[mask].abs().max() < 5e-4
        assert torch.equal(found.statistics.entropy[mask], wanted.statistics.entropy[mask])
        assert torch.equal(found.statistics.class_mass[mask], wanted.statistics.class_mass[mask])
        assert found.distribution.logprobs.shape[:2] == mask.shape


def test_rows_that_changed_or_were_never_asked_about_are_refused(folder):
    teacher, asked = StoredTeacher("one", folder, WORDS), inputs(N)
    here = part(asked, [4])
    for changed in (
        Inputs(here.row_ids, ("another text",), here.input_ids, here.labels, here.mask),
        Inputs(here.row_ids, here.texts, here.input_ids + 1, here.labels, here.mask),
        Inputs(here.row_ids, here.texts, here.input_ids, here.labels + 1, here.mask),
        Inputs(here.row_ids, here.texts, here.input_ids, here.labels, torch.ones_like(here.mask)),
    ):
        with pytest.raises(TeacherError, match="`row 4` is not the row"):
            teacher.score(changed)
    with pytest.raises(TeacherError, match="`row 99` is not in the store"):
        teacher.score(Inputs(("row 99",), here.texts, here.input_ids, here.labels, here.mask))


def test_streams_have_the_order_of_the_rows_or_of_a_seed(folder):
    teacher = StoredTeacher("one", folder, WORDS)

    def rows(**options):
        return [row for one in teacher.shards(**options) for row in one.row_ids]

    in_order = [f"row {n}" for n in range(N)]
    assert rows() == in_order
    assert rows(seed=1) == rows(seed=1) != rows(seed=2)
    assert sorted(rows(seed=1)) == sorted(in_order)
    assert np.sum([len(one.positions) for one in teacher.shards()]) == sum(
        one.n_positions for one in teacher.plans.values()
    )


def test_a_store_that_is_not_complete_is_refused(folder):
    (folder / "shards/000001.json").unlink()
    with pytest.raises(MashbillError, match="is not complete"):
        StoredTeacher("one", folder, WORDS)


def test_a_store_of_other_words_is_refused(folder):
    other = Vocabulary.from_labels([f"wort {n}" for n in range(V)])
    with pytest.raises(VocabularyError, match="another vocabulary"):
        StoredTeacher("one", folder, other)


def test_no_store(tmp_path):
    with pytest.raises(MashbillError, match="no store at"):
        StoredTeacher("one", tmp_path, WORDS)
