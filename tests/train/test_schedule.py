"""The learning rate against the schedules of transformers."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from mashbill.train.schedule import learning_rate


@pytest.mark.parametrize(
    ("kind", "theirs"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_the_fall_is_that_of_transformers(kind, theirs) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = theirs(optimiser, num_warmup_steps=4, num_training_steps=20)
    for step in range(20):
        own = learning_rate(step, peak=0.3, kind=kind, warmup_steps=4, max_steps=20)
        if step >= 4:
            assert own == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        schedule.step()


def test_the_rise_starts_above_zero_and_ends_at_the_peak() -> None:
    rates = [learning_rate(step, peak=1.0, kind="constant", warmup_steps=3, max_steps=9) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]
