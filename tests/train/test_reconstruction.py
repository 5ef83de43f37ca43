import math

import pytest
import torch

from mashbill.teachers.store.distillkit import Restored, Settings
from mashbill.train.reconstruction import reconstruction_of


def test_what_a_list_is_divided_by_is_part_of_its_error():
    # One list sums to 1.1; of the other a tenth is on an id that the student lacks.
    logprobs = torch.tensor([[0.6, 0.3, 0.2], [0.5, 0.3, 0.1]]).log()
    ids = torch.tensor([[0, 1, 2], [0, 1, 9]])
    settings = Settings(d=10, k=3, exact_k=3, residual_bins=[])
    found = reconstruction_of([Restored(ids, logprobs, torch.full((2, 3), 0.01))], settings, 5, where="here")
    assert found.written == pytest.approx(0.01 - math.log(0.9), abs=1e-6)
    assert found.excess == pytest.approx(0.1, abs=1e-6)
    assert found.foreign == pytest.approx(0.05, abs=1e-6)
    alone = reconstruction_of([Restored(ids[:1], logprobs[:1], torch.full((1, 3), 0.01))], settings, 5, where="here")
    assert alone.written == pytest.approx(0.01 + math.log(1.1), abs=1e-6)
