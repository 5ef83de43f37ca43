"""Situations made once: every operator is put into the same ones, and making them costs more than asking."""

from collections.abc import Iterator

import pytest
import torch

from mashbill.audit import subject
from mashbill.audit.moods import Stage
from mashbill.audit.supply import Effort, worlds


@pytest.fixture(autouse=True, scope="session")
def worlds_made_once() -> Iterator[None]:
    """Keep those of equal stage, effort and seed for the whole run."""
    made: dict[tuple, list] = {}

    def remembered(stage: Stage, effort: Effort, generator: torch.Generator) -> list:
        key = (stage, effort, generator.initial_seed())
        if key not in made:
            made[key] = list(worlds(stage, effort, generator))
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "worlds", remembered)
        yield
