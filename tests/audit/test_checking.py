"""What is asked before any operator is, how its kind is told, and how its counter-examples read."""

import functools
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from mashbill.audit.asked import axioms_of, require_arguments, require_asked
from mashbill.audit.axioms import AXIOMS
from mashbill.audit.calling import called, inputs_of, kind_of, missing_options
from mashbill.audit.checking import check
from mashbill.audit.legible import legible, strict
from mashbill.audit.moods import Stage, make_world
from mashbill.audit.situations import Case
from mashbill.audit.telling import tell_case
from mashbill.weights.evidence import Declared, Evidence


def surer(evidence):
    return torch.log_softmax(-evidence.statistics.entropy, dim=0)


class Module(torch.nn.Module):
    """Requires evidence in its `forward` alone."""

    def forward(self, evidence, temperature=1.0):
        return surer(evidence) / temperature


@dataclass(frozen=True)
class Needy:
    """Requires what nobody gives."""

    def __call__(self, evidence, beta):
        return beta * surer(evidence)


# What is asked


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("token.III.1", None, 0), TypeError, "axioms='token.III.1' must be a list of ids"),
        ((None, ["token.III.1"], 0), TypeError, r"known=\['token.III.1'\] must map ids to reasons"),
        ((None, None, "a"), TypeError, "seed='a' must be a whole number"),
        ((None, None, True), TypeError, "seed=True must be a whole number"),
        ((None, None, -1), ValueError, "seed=-1 must be between 0"),
        ((None, None, 2**63), ValueError, "must be between 0"),
        (([3], None, 0), TypeError, "axiom=3 must be an id"),
        ((["token.III.33"], None, 0), ValueError, "did you mean `token.III.3`"),
        ((None, {"token.III.1": ""}, 0), ValueError, "must say in words why"),
    ],
)
def test_arguments_are_refused_with_one_sentence(arguments, error, message):
    with pytest.raises(error, match=message):
        require_arguments(*arguments)


def test_check_refuses_them_before_it_asks():
    code = """
import sys
import mashbill as mb
def rule(evidence):
    sys.exit("asked")
for options in ({"known": ["token.III.1"]}, {"seed": "a"}, {"seed": -1}, {"axioms": "token.III.1"}, {"stage": 3}):
    try:
        mb.audit.check(rule, **options)
    except (TypeError, ValueError) as error:
        print(type(error).__name__, str(error).partition("=")[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = ["TypeError known", "TypeError seed", "ValueError seed", "TypeError axioms", "TypeError stage"]
    assert done.stdout.splitlines() == expected


def test_to_ask_nothing_is_a_mistake():
    with pytest.raises(ValueError, match=r"axioms=\[\] asks nothing"):
        check(surer, axioms=[])
    with pytest.raises(ValueError, match=r"asks nothing of weight rules: pool.regret is asked of pools"):
        check(surer, axioms=["pool.regret"])
    with pytest.raises(ValueError, match=r"contract.gradient is asked of weight rules"):
        require_asked("recursion", ["contract.gradient"])
    with pytest.raises(ValueError, match=r"contract.state is asked of weight rules and pools"):
        require_asked("sequence", ["contract.state"])
    assert require_asked("weights", ["pool.regret", "token.III.1"]) == ("token.III.1",)
    assert require_asked("pool", None) == axioms_of("pool")


# Which kind, and what is missing


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (surer, "weights"),
        (lambda e: e, "weights"),
        (lambda evidence, beta: beta, "weights"),
        (lambda evidence, temperature: temperature, "weights"),
        (lambda evidence, temperature=1.0: temperature, "weights"),
        (lambda logprobs, log_weights, *, r=1.0: r, "pool"),
        (lambda logprobs, temperature: temperature, "softening"),
        (lambda logprobs, *, temperature: temperature, "softening"),
        (Module(), "weights"),
        (functools.partial(Module(), temperature=2.0), "weights"),
        (Needy(), "weights"),
    ],
)
def test_only_what_is_required_tells_the_kind(operator, kind):
    assert kind_of(operator) == kind


def test_an_annotation_tells_evidence_too():
    def rule(e: Evidence, beta: float):
        return beta

    assert kind_of(rule) == "weights"
    assert missing_options(rule, "weights") == ["beta"]


def test_what_could_be_anything_is_told_without_addresses():
    for operator, message in [
        (lambda *args: args, r"takes \*args, which could be anything; give kind="),
        (lambda a, b, c: a, "requires 3 arguments; give kind="),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            kind_of(operator)
        assert " at 0x" not in str(caught.value)
    assert called(Needy()) == "Needy()"
    assert called(functools.partial(surer)) == "surer"
    assert called(object()) == "object"


def test_what_nobody_gives_is_named():
    assert missing_options(Needy(), "weights") == ["beta"]
    assert missing_options(lambda evidence, *, beta, gamma: beta, "weights") == ["beta", "gamma"]
    assert missing_options(lambda logprobs, log_weights, *, r: r, "pool") == ["r"]
    assert missing_options(lambda logprobs, temperature, *, r: r, "softening") == ["r"]
    assert missing_options(Module(), "weights") == []
    with pytest.raises(ValueError, match=r"operator=Needy\(\) needs `beta`; give it with functools.partial"):
        check(Needy())
    assert inputs_of(lambda logprobs, log_weights, *, r=1.0: r) == ("logprobs", "log_weights")
    assert inputs_of(lambda logprobs, *, temperature: temperature) == ("logprobs", "temperature")
    assert inputs_of(lambda base, student, anchor: anchor) == ("base",)


def test_a_module_is_audited_like_a_function():
    (result,) = check(Module(), axioms=["token.III.1"])
    assert (result.operator, result.verdict) == ("Module", "survived")


def test_what_an_operator_says_is_spelt_out():
    def hostile(evidence):
        raise ValueError("\x1b[31mred\x00\u202e")

    (result,) = check(hostile, axioms=["contract.answer"])
    assert result.witness is not None
    for text in (result.reason, result.witness.told):
        assert r"\x1b[31mred\x00\u202e" in text
    assert legible("a\tb\nc\ud800é") == "a\tb\nc\\ud800é"


def test_strict_json_takes_every_number():
    value = {"a": [math.inf, -math.inf, math.nan, 1.5], "b": (1, True, None), 3: "x"}
    assert strict(value) == {"a": ["inf", "-inf", "nan", 1.5], "b": [1, True, None], "3": "x"}
    json.dumps(strict(value), allow_nan=False)


# How a counter-example reads

WORLD = make_world(Stage(), torch.Generator().manual_seed(3), n_teachers=2, n_rows=3, n_positions=1)


def told(rule, axiom, case=None):
    return tell_case(rule, AXIOMS[axiom], case or Case(WORLD))


def test_the_evidence_of_a_rule_that_does_not_say_what_it_reads_is_what_teachers_differ_in():
    entropy = WORLD.evidence().statistics.entropy
    text = told(lambda evidence: surer(evidence) + 1e-4, "token.III.1", Case(WORLD.rows([1])))
    assert text.startswith(f"entropy ({float(entropy[0, 1, 0]):.4g}, {float(entropy[1, 1, 0]):.4g}); margin (")
    assert text.endswith("sum 1.000100005")
    alike = replace(WORLD, logits=WORLD.logits[:1].expand(2, -1, -1, -1))
    assert "margin" not in told(surer, "token.III.2", Case(alike))


def test_the_sum_that_is_off_is_the_one_shown():
    def off_in_one_row(evidence):
        return surer(evidence) + torch.tensor([0.0, 0.0, 0.5]).reshape(1, 3, 1)

    assert told(off_in_one_row, "token.III.1").endswith(f"sum {math.exp(0.5):.10g}")


def test_an_order_names_who_is_safer_and_where():
    world = replace(WORLD, context=torch.tensor([0, 1, 1]), orders={"home": (), "field": ((1, 0),)})

    def first_counts_more(evidence):
        w = torch.tensor([[0.3, 0.6, 0.9], [0.7, 0.4, 0.1]], dtype=torch.float64)
        return w.log().unsqueeze(-1)

    text = told(first_counts_more, "token.III.5", Case(world))
    assert text.endswith("gives (0.9, 0.1); t1 is certified safer than t0 in context field")


def test_a_bound_names_the_limit():
    def sharp(evidence):
        return (
            torch.log_softmax(torch.tensor([0.0, -40.0], dtype=torch.float64), dim=0).reshape(2, 1, 1).expand(2, 3, 1)
        )

    assert "/ K = " in told(sharp, "token.III.3")
    assert "no bound is declared" in told(sharp, "token.III.3")

    @dataclass(frozen=True)
    class Promising:
        def __call__(self, evidence):
            return sharp(evidence)

        def declared(self, n_teachers):
            return Declared(lowest=0.4, highest=0.6, lipschitz=None, metric="", source="")

    for axiom in ("token.III.3", "contract.range"):
        assert told(Promising(), axiom).endswith("gives (1, 4.24835e-18); declared are 0.4 to 0.6")


def test_rows_and_permutations_show_the_second_answer():
    def mixing(evidence):
        return surer(evidence) * 0 + torch.log_softmax(
            evidence.statistics.entropy.mean(dim=(1, 2), keepdim=True) * 9, dim=0
        )

    text = told(mixing, "contract.rows", Case(WORLD, choice=(2,)))
    assert text.startswith("among 3 rows ")
    assert "; the same row alone gives (" in text
    first, second = (part.partition("gives ")[2] for part in text.split(";")[-2:])
    assert first != second

    def by_place(evidence):
        return torch.tensor([0.2, 0.8], dtype=torch.float64).log().reshape(2, 1, 1).expand(2, 3, 1)

    text = told(by_place, "contract.permutation", Case(WORLD, choice=(1, 0)))
    assert text.endswith("gives (0.2, 0.8); with the teachers in the order 1, 0 the same teachers get (0.8, 0.2)")


class Counting:
    """Remembers how often it was asked."""

    def __init__(self):
        self.n = 0

    def __call__(self, evidence):
        self.n += 1
        return torch.log_softmax(torch.tensor([0.0, float(self.n)]), dim=0).reshape(2, 1, 1)


def test_a_memory_shows_the_first_and_a_later_answer_of_one_situation():
    other = make_world(Stage(), torch.Generator().manual_seed(4), n_teachers=5, n_rows=2)
    text = told(Counting(), "contract.state", Case(WORLD, other))
    assert "(0.268941, 0.731059) first and (0.0474259, 0.952574) when it is asked again" in text
    assert "raises" not in text
    assert "Error" not in text


def test_a_call_that_changes_the_evidence_is_told():
    def rude(evidence):
        evidence.statistics.entropy.mul_(2)
        return surer(evidence)

    assert told(rude, "contract.state").endswith("and the call changes the evidence")


def test_an_answer_that_cannot_be_told_is_still_a_counter_example():
    assert "ValueError: boom" in told(lambda evidence: (_ for _ in ()).throw(ValueError("boom")), "contract.answer")
    assert "SystemExit" in told(lambda evidence: sys.exit(0), "contract.answer")
    assert "the inputs are in the witness" in told(lambda evidence: torch.zeros(3), "token.III.1")
    assert "gives shape (3,) in float32" in told(lambda evidence: torch.zeros(3), "contract.shape")


def test_two_situations_that_print_alike_are_told_by_what_sets_them_apart():
    near = replace(WORLD, student=WORLD.student + 1)
    text = told(surer, "composition.student", Case(WORLD, near))
    assert "; the same with another student gives (" in text
    assert text.endswith(", 0 apart")


@pytest.mark.parametrize("axiom", [id for id, axiom in AXIOMS.items() if axiom.kind in ("weights", "contract")])
def test_every_axiom_can_be_told(axiom):
    needs_choice = axiom in ("contract.rows", "contract.permutation")
    case = Case(WORLD, choice=(1, 0)) if needs_choice else Case(WORLD, make_world(Stage(), torch.Generator(), n_rows=3))
    if not needs_choice:
        case = replace(case, other=WORLD)
    assert "gives" in told(surer, axiom, case)
