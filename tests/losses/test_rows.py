import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.losses.rows import counted, rows_at_once


def test_every_counted_position_once_and_in_order():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    parts = list(counted(mask, n_each=2))
    assert torch.cat([rows.index for rows in parts]).tolist() == [0, 1, 3, 4, 5]
    assert [rows.span for rows in parts] == [(0, 2), (3, 5), (5, 6)]


def test_no_position_no_chunk():
    assert list(counted(torch.zeros(2, 3, dtype=torch.bool), n_each=2)) == []


def test_neighbours_are_a_view_and_strangers_a_copy():
    values = torch.arange(12.0).view(2, 3, 2)
    together, apart = (next(counted(torch.tensor([m, m]), n_each=6)) for m in ([True] * 3, [True, False, True]))
    assert together.select(values).data_ptr() == values.data_ptr()
    torch.testing.assert_close(apart.select(values), values.flatten(0, 1)[[0, 2, 3, 5]])


@pytest.mark.parametrize("mask", [[True, True], [True, False]])
def test_values_that_are_not_contiguous(mask):
    whole = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    shifted = whole[:, :-1]
    rows = next(counted(torch.tensor([mask, mask]), n_each=9))
    torch.testing.assert_close(rows.select(shifted), shifted.reshape(-1, 4)[rows.index])


def test_distributions_come_along():
    dense = Dense.from_logits(torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0)))
    rows = next(counted(torch.tensor([[True, False], [True, True]]), n_each=9))
    taken = rows.take(dense, like=torch.zeros(1))
    assert isinstance(taken, Dense)
    assert torch.equal(taken.logprobs, dense.logprobs.view(4, 5)[[0, 2, 3]])
    stored = TopK.from_logprobs(dense.logprobs, k=2)
    part = rows.take(stored, like=torch.zeros(1, dtype=torch.float64))
    assert isinstance(part, TopK)
    assert torch.equal(part.ids, stored.ids.view(4, 2)[[0, 2, 3]])
    assert part.log_tail.dtype == torch.float64


@pytest.mark.parametrize("mask", [[True, True, False], [True, False, True]])
def test_store_is_the_inverse_of_select(mask):
    values = torch.randn(1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = next(counted(torch.tensor([mask]), n_each=9))
    into = torch.zeros(3, 2)
    rows.store(rows.select(values), into=into)
    torch.testing.assert_close(into, (values[0] * torch.tensor(mask).unsqueeze(-1)).float())


def test_at_least_one_row_at_once():
    assert rows_at_once(10**9, torch.device("cpu")) == 1


def test_without_a_mask_nobody_looks_where_positions_are(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__int__", lambda _: pytest.fail("looked"))
    assert [rows.span for rows in counted(torch.ones(2, 3, dtype=torch.bool), n_each=4)] == [(0, 4), (4, 6)]
