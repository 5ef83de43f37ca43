import pytest
import torch

from mashbill import losses
from mashbill.losses import Objective


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "divergence='kl' must be one of forward_kl, reverse_kl, js"),
        ({"pool": "mean"}, "pool='mean' must be one of linear, log_linear"),
        ({"tail": "none"}, "tail='none' must be one of student, even"),
        ({"temperature": 0.0}, r"temperature=0\.0 must lie in \[0\.001, 1000\]"),
        ({"temperature": 9e-4}, r"temperature=0\.0009 must lie in"),
        ({"temperature": 1001.0}, r"temperature=1001\.0 must lie in"),
        ({"temperature": float("nan")}, "temperature=nan must lie in"),
        ({"temperature": float("inf")}, "temperature=inf must lie in"),
        ({"cross_entropy": 1.5}, r"cross_entropy=1\.5 is a share"),
        ({"beta": -0.5}, r"beta=-0\.5 must lie in \[0, 1\]"),
        ({"skew": 1.0}, r"skew=1\.0 must lie in \[0, 1\): 0 is the KL divergence itself"),
        ({"alpha": 1.5}, r"alpha=1\.5 must lie in \[0, 1\]: 1 is the forward KL"),
    ],
)
def test_options_outside_their_range(options, message):
    # The test suite's type checker guards the constructor; users without it meet the check behind.
    objective = Objective()
    for name, value in options.items():
        object.__setattr__(objective, name, value)
    with pytest.raises(ValueError, match=message):
        objective.__post_init__()


def test_ends_of_beta_resolve():
    assert Objective("js", 0.0).kind == "forward_kl"
    assert Objective("js", 1.0).kind == "reverse_kl"
    assert Objective("js", 0.5).kind == "js"
    assert Objective("forward_kl", 1.0).kind == "forward_kl"


def test_ends_of_skew_and_alpha_resolve():
    assert Objective("skew_kl", skew=0.0).kind == "forward_kl"
    assert Objective("reverse_skew_kl", skew=0.0).kind == "reverse_kl"
    assert Objective("alpha", alpha=1.0).kind == "forward_kl"
    assert Objective("alpha", alpha=0.0).kind == "reverse_kl"
    assert Objective("alpha", skew=0.0).kind == "alpha"
    assert Objective("skew_kl", alpha=0.0, beta=0.0).kind == "skew_kl"


def test_each_divergence_gets_its_own_option():
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator).log_softmax(dim=-1)
    options = {"beta": 0.2, "skew": 0.3, "alpha": 0.4}
    for name, expected in (
        ("forward_kl", losses.forward_kl(q, p)),
        ("reverse_kl", losses.reverse_kl(q, p)),
        ("js", losses.js(q, p, beta=0.2)),
        ("skew_kl", losses.skew_kl(q, p, skew=0.3)),
        ("reverse_skew_kl", losses.reverse_skew_kl(q, p, skew=0.3)),
        ("alpha", losses.alpha_divergence(q, p, alpha=0.4)),
        ("total_variation", losses.total_variation(q, p)),
    ):
        assert torch.equal(Objective(name, **options).distance(q, p), expected)


def test_factors():
    objective = Objective(temperature=3.0, cross_entropy=0.25, scale=0.5)
    assert objective.divergence_weight == 0.75 * 9 * 0.5
    assert objective.cross_entropy_weight == 0.25 * 0.5
