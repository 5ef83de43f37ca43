"""Recipes are captured with the bytes of one worker, and say what the live teacher says."""

import pytest
import torch

from mashbill.distributions import TopK
from mashbill.teachers.store.files import read_shard
from mashbill.teachers.store.plan import Plan
from mashbill.train.assemble import build_parts
from mashbill.train.build import build_teacher
from mashbill.train.capture import capture_recipe
from mashbill.train.students import build_student
from teachers.store.fire import bytes_of


def stored(loaded, *, store="store"):
    """Return the recipe with a store for its first teacher, cut into small shards."""
    spec = loaded.recipe.teachers[0].model_copy(update={"store": loaded.path.parent / store})
    given = loaded.recipe.model_copy(
        update={
            "teachers": [spec],
            "capture": loaded.recipe.capture.model_copy(update={"k": 8, "shard_positions": 40}),
        }
    )
    return type(loaded)(given, loaded.path, loaded.text, loaded.lines)


def test_two_workers_write_the_bytes_of_one(language, tmp_path):
    one, two = stored(language(), store="one"), stored(language(), store="two")
    capture_recipe(one)
    capture_recipe(two, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert len(Plan.read(tmp_path / "one/train").shards) > 2
