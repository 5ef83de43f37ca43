"""Lists of a store beside those that its teacher gives today."""

import math

import pytest
import torch

from mashbill.distributions.topk import TopK
from mashbill.teachers.endpoint.telling import SAME
from mashbill.train.rescoring import difference


def lists_of(logits: torch.Tensor, *, k: int) -> TopK:
    return TopK.from_logprobs(torch.log_softmax(logits, dim=-1), k=k)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 200, generator=torch.Generator().manual_seed(0)) * 3


def test_entries_that_one_list_has_lost_are_not_compared_with_a_share_of_its_tail(logits: torch.Tensor) -> None:
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) * 0.01
    live, kept = lists_of(logits + noise, k=20), lists_of(logits, k=20)
    assert any(set(one.tolist()) != set(other.tolist()) for one, other in zip(live.ids, kept.ids, strict=True))
    found = difference([(live, kept)], [f"position {n}" for n in range(6)])
    assert found.largest <= 0.1
    assert 0 < found.apart <= SAME
    # A store may keep fewer entries than are listed.
    assert difference([(live, lists_of(logits, k=8))], ["p"] * 6).apart <= SAME


def test_lists_of_another_model_are_far_apart(logits: torch.Tensor) -> None:
    other = lists_of(logits.flip(-1), k=20)
    found = difference([(other, lists_of(logits, k=20))], [f"position {n}" for n in range(6)])
    assert found.apart > 0.5
    assert found.where_apart.startswith("position")
    same = lists_of(logits, k=20)
    assert difference([(same, same)], ["p"] * 6).apart == pytest.approx(0, abs=1e-9)


def test_the_distance_is_that_of_the_entries() -> None:
    one = TopK(torch.tensor([[0, 1]]), torch.tensor([[math.log(0.6), math.log(0.2)]]), torch.tensor([math.log(0.2)]), 9)
    other = TopK(
        torch.tensor([[0, 2]]), torch.tensor([[math.log(0.3), math.log(0.1)]]), torch.tensor([math.log(0.6)]), 9
    )
    # Of entry 1 today's list says that it is 0.1 at most.
    assert difference([(other, one)], ["p"]).apart == pytest.approx(1 - (0.3 + 0.1) / (0.6 + 0.2), abs=1e-6)
