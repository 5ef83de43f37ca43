import math

import pytest
import torch

import mashbill as mb
from mashbill.weights import EntropySoftmax, InverseVariance, Static, Uniform, average

TOKEN, TASK, CONTEXT = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]


def static(weights) -> Static:
    return Static({f"t{k}": w for k, w in enumerate(weights)})


def test_golden(golden, random_evidence) -> None:
    weights = average(static(TOKEN), static(TASK), static(CONTEXT))(random_evidence(3)).exp()[:, 0, 0]
    assert weights.tolist() == pytest.approx(golden("F25")["expected"], abs=golden("F25")["tol"])


def test_a_box_and_an_order_common_to_all_rules_are_kept(random_evidence) -> None:
    order = mb.order.SafetyOrder(3, ((0, 1), (1, 2)))
    rules = [
        mb.conform(rule, bounds=(0.1, 0.6), order=order)
        for rule in (EntropySoftmax(beta=9.0), InverseVariance(), static([0.1, 0.2, 0.7]))
    ]
    weights = average(*rules, shares=(0.5, 0.3, 0.2))(random_evidence(3, 64, 8, seed=3)).exp()
    assert weights.sum(dim=0).sub(1).abs().max() <= 1e-12
    assert 0.1 - 1e-12 <= weights.min() <= weights.max() <= 0.6 + 1e-12
    assert (weights[:-1] - weights[1:]).min() >= -1e-12
    # The product of the same rules leaves the box: it is the mean that keeps it.
    assert (
        mb.product(token=rules[0], task=rules[1], context=rules[2])(random_evidence(3, 64, 8, seed=3)).exp().min() < 0.1
    )


def test_the_promise_holds(random_evidence) -> None:
    operator = average(EntropySoftmax(beta=3.0), static([0.2, 0.3, 0.5]))
    declared = operator.declared(3)
    weights = operator(random_evidence(3, 64, 8, seed=1)).exp()
    assert declared.lowest <= weights.min() <= weights.max() <= declared.highest
    assert operator.needs == {"entropy"}


def test_logs_up_to_a_constant_are_normalised_before_the_mean(random_evidence) -> None:
    def scores(evidence):
        return torch.tensor([5.0, 4.0], dtype=torch.float64).reshape(2, 1, 1).expand(2, 4, 1)

    operator = average(Uniform(), scores)
    weights = operator(random_evidence(2)).exp()
    expected = torch.tensor([5.0, 4.0], dtype=torch.float64).softmax(0) / 2 + 0.25
    torch.testing.assert_close(weights[:, 0, 0], expected)
    assert weights.min() >= operator.declared(2).lowest


@pytest.mark.parametrize(
    ("rules", "shares", "message"),
    [
        ((), None, "at least one rule"),
        ((Uniform(),), (0.5, 0.5), "one positive number for each of 1 rules"),
        ((Uniform(), Uniform()), (0.5, 0.6), "sum to 1"),
        ((Uniform(), Uniform()), (1.0, 0.0), "positive"),
    ],
)
def test_shares_are_checked(rules, shares, message) -> None:
    with pytest.raises(ValueError, match=message):
        average(*rules, shares=shares)


def inverse_entropy(evidence):
    """The rule of the main paper's Appendix A, as a user would write it: weights proportional to ``1/H``."""
    score = -evidence.statistics.entropy.log()
    return torch.log_softmax(score, dim=0)


def test_appendix_a_corrected(golden, appendix) -> None:
    log_weights = mb.product(token=inverse_entropy)(appendix())
    weights, target = golden("F03")["expected"]
    assert log_weights.exp().flatten().tolist() == pytest.approx(weights, abs=golden("F03")["tol"])
    assert pooled(log_weights) == pytest.approx(target, abs=golden("F03")["tol"])


def test_appendix_a_as_printed(golden, random_evidence) -> None:
    # From the entropies that the paper prints: 0.68 and 1.52, which no base of the logarithm gives together.
    printed = torch.tensor([0.68, 1.52], dtype=torch.float64)
    weights, target = golden("F04")["expected"]
    log_weights = static((1 / printed / (1 / printed).sum()).tolist())(random_evidence(2, 1, 1))
    assert log_weights.exp().flatten().tolist() == pytest.approx(weights, abs=golden("F04")["tol"])
    assert pooled(log_weights) == pytest.approx(target, abs=golden("F04")["tol"])


def test_uniform_weights_give_the_plain_target(golden, appendix) -> None:
    log_weights = mb.product()(appendix())
    assert (log_weights == -math.log(2)).all()
    assert pooled(log_weights) == pytest.approx(golden("F05")["expected"], abs=golden("F05")["tol"])


def pooled(log_weights) -> list[float]:
    teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    return mb.pools.linear(teachers, log_weights.reshape(2)).exp().tolist()
