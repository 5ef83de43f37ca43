import pytest

from mashbill.losses import Objective


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "divergence='kl' must be one of forward_kl, reverse_kl, js"),
        ({"pool": "mean"}, "pool='mean' must be one of linear, log_linear"),
        ({"tail": "none"}, "tail='none' must be one of student, even"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be positive and finite"),
        ({"temperature": float("nan")}, "temperature=nan must be positive and finite"),
        ({"temperature": float("inf")}, "temperature=inf must be positive and finite"),
        ({"cross_entropy": 1.5}, r"cross_entropy=1\.5 is a share"),
        ({"beta": -0.5}, r"beta=-0\.5 must lie in \[0, 1\]"),
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


def test_factors():
    objective = Objective(temperature=3.0, cross_entropy=0.25, scale=0.5)
    assert objective.divergence_weight == 0.75 * 9 * 0.5
    assert objective.cross_entropy_weight == 0.25 * 0.5
