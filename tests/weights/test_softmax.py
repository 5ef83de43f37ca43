import math

import pytest
import torch

from mashbill.weights.softmax import softmax_error, softmax_interval, softmax_range

DOUBLE = torch.float64


def test_no_scores_in_the_box_leave_the_interval_and_corners_reach_it() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(3, 5, generator=generator, dtype=DOUBLE)
    high = low + torch.rand(3, 5, generator=generator, dtype=DOUBLE)
    least, most = softmax_interval(low, high)
    inside = low + (high - low) * torch.rand(4000, 3, 5, generator=generator, dtype=DOUBLE)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * 3).unsqueeze(-1)
    corners = (low + (high - low) * corners).softmax(1)
    assert (inside.softmax(1) >= least - 1e-15).all()
    assert (inside.softmax(1) <= most + 1e-15).all()
    torch.testing.assert_close(corners.amin(0), least, rtol=0, atol=1e-15)
    torch.testing.assert_close(corners.amax(0), most, rtol=0, atol=1e-15)


def test_equal_ends_are_softmax_and_one_teacher_has_all() -> None:
    scores = 30 * torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    for end in softmax_interval(scores, scores):
        torch.testing.assert_close(end, scores.softmax(0))
    assert [end.tolist() for end in softmax_interval(torch.tensor([-9.0]), torch.tensor([9.0]))] == [[1.0], [1.0]]


def test_the_range_is_the_interval_of_a_common_box() -> None:
    low, high = torch.zeros(4, dtype=DOUBLE), torch.full((4,), 2.5, dtype=DOUBLE)
    least, most = softmax_interval(low, high)
    assert [float(least[0]), float(most[0])] == pytest.approx(softmax_range(2.5, 4))


def test_the_error_is_the_delta_methods() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, error = torch.randn(3, 4, generator=generator, dtype=DOUBLE), torch.rand(3, 4, generator=generator).double()
    found = softmax_error(scores.log_softmax(0), error)
    for b in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda s: s.softmax(0), scores[:, b])
        expected = (jacobian.square() @ error[:, b].square()).sqrt()
        torch.testing.assert_close(found[:, b], expected, rtol=0, atol=1e-15)
    unknown = softmax_error(torch.zeros(1, 2), torch.full((1, 2), math.inf))
    assert unknown.tolist() == [[0.0, 0.0]]
