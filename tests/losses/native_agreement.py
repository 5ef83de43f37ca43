"""The compiled loops beside the reference in float64, for the tests of both."""

import torch


def truth(case, **options):
    return case.to(torch.float64).solve(impl="reference", **options)


def agree(case, *, rtol=3e-6, atol=2e-6, **options):
    """Compare the compiled loops with the truth; returns loss and gradient."""
    loss, gradient = case.solve(impl="native", **options)
    twin, exact = truth(case, **options)
    # A divergence is a difference of logs of a few nats: that, not its own size, sets its rounding.
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=rtol, atol=atol)
    torch.testing.assert_close(loss.cross_entropy.double(), twin.cross_entropy, rtol=rtol, atol=atol)
    # Rounded to the dtype of the logits at the end, and only there.
    rounding = (exact.to(gradient.dtype) - exact).norm()
    # It is T p (log p - log q - D): as rough as D.
    slack = 1e-6 * max(1, options.get("temperature", 1) * max(1, twin.divergence.max().item()))
    assert (gradient - exact).norm() <= 1.05 * rounding + 3e-6 * exact.norm() + slack, options
    return loss, gradient


def same(one, two):
    """Whether two pairs of loss and gradient are the same bit for bit."""
    (loss, gradient), (other, expected) = one, two
    return all(
        torch.equal(a, b)
        for a, b in [
            (loss.total, other.total),
            (loss.divergence, other.divergence),
            (loss.cross_entropy, other.cross_entropy),
            (gradient, expected),
        ]
    )
