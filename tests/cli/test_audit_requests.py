"""The command audit at its edges: code that leaves or prints, arguments that are missing, texts that mislead."""

import json
import sys
from pathlib import Path

import pytest
from report.audited import WITNESS, results

from mashbill.audit.verdicts import CheckResult
from mashbill.cli import audit as command_of_audit
from mashbill.cli.audit_requests import MOST_TEACHERS, require_page
from mashbill.errors import MashbillError

RULES = r"""
import sys
import torch

def surer(evidence, *, beta=1.0):
    return torch.log_softmax(-beta * evidence.statistics.gini, dim=0)

class Leaver:
    def __init__(self):
        sys.exit(0)

class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.beta = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, evidence):
        return torch.log_softmax(-self.beta * evidence.statistics.gini, dim=0)

class Tempered:
    def __call__(self, evidence, temperature=1.0):
        return torch.log_softmax(-evidence.statistics.gini / temperature, dim=0)

class Needy:
    def __call__(self, evidence, beta):
        return surer(evidence, beta=beta)

def placed(evidence, beta):
    return surer(evidence, beta=beta)

def named(evidence, *, beta):
    return surer(evidence, beta=beta)

def variadic(*args):
    return surer(*args)

def pool(logprobs, log_weights):
    return torch.logsumexp(logprobs + log_weights.unsqueeze(-1), dim=0)

def three(evidence):
    a, b, c = -evidence.statistics.gini
    return torch.log_softmax(torch.stack([a, b, c]), dim=0)

def by_name(evidence):
    known = {"a": 0.2, "b": 0.8}
    w = torch.tensor([known[name] for name in evidence.teachers], dtype=torch.float64)
    assert set(evidence.tasks) <= {"mail"} and set(evidence.contexts) <= {"home"}
    return torch.log(w).reshape(-1, 1, 1).expand_as(evidence.statistics.gini)

def infinite(evidence):
    return torch.full_like(evidence.statistics.gini, float("inf"))

def prints(evidence):
    print("HELLO")
    return surer(evidence)

def hostile(evidence):
    raise ValueError("\x1b[31mred \x00 \u202egnp \x9b1m")

print("LOADED")
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules of somebody's own in the working folder and below it."""
    (tmp_path / "edge_rules.py").write_text(RULES)
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside.py").write_text("SCALE = 2.0\n")
    (tmp_path / "sub" / "json.py").write_text("from beside import SCALE\n" + RULES)  # called as a library is
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("edge_rules", "leaving_module", "beside"):
        sys.modules.pop(name, None)
    return tmp_path


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The command around an audit that finds one of everything; what it was asked is kept."""
    asked: list[dict] = []

    def checked(opened, **options):
        asked.append({"opened": opened, **options})
        return [r for r in results(opened.target.name) if options["axioms"] is None or r.axiom in options["axioms"]]

    monkeypatch.setattr(command_of_audit, "checked", checked)
    return asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["leaving_module:x"], "cannot import `leaving_module`: SystemExit: 0"),
        (["leaving_module.py:x"], "cannot import `leaving_module.py`: SystemExit: 0"),
        (["edge_rules:Leaver"], "`edge_rules:Leaver` cannot be made: SystemExit: 0"),
        (
            ["edge_rules:surer", "--plugin", "leaving_module"],
            "cannot import plug-in module `leaving_module`: SystemExit",
        ),
        (["edge_rules:surer", "--axioms", "pool.regret"], "pool.regret is asked of pools"),
        (["edge_rules:pool", "--axioms", "token.III.1,pool.regret", "--kind", "weights"], "needs `log_weights`"),
        (["edge_rules:pool", "--axioms", "token.III.1"], "token.III.1 is asked of weight rules"),
        (["edge_rules:placed"], "`edge_rules:placed` needs `beta`\n   = help: give it with --set beta=VALUE"),
        (["edge_rules:named"], "`edge_rules:named` needs `beta`\n   = help: give it with --set beta=VALUE"),
        (["edge_rules:Needy"], "give `beta` a default, or make it an option of the class"),
        (["edge_rules:variadic"], "operator=variadic takes *args, which could be anything; give --kind"),
        (["edge_rules:surer", "--set", "evidence=3"], "`evidence` of `edge_rules:surer` is what it is asked"),
        (["edge_rules:surer", "--set", "evidenc=3"], "has no option `evidenc`\n  --> --set\n   = options: `beta`"),
        (["edge_rules:pool", "--set", "log_weights=3"], "is what it is asked, and no option"),
        (["edge_rule.py:surer"], "there is no file `edge_rule.py` — did you mean `edge_rules.py`?"),
        (["./edge_rules:surer"], "write `./edge_rules.py:surer`"),
        (["edge_rules:surer", "--html", "sub"], "`sub` is a folder\n  --> --html"),
        (["edge_rules:surer", "--html", "edge_rules.py/a.html"], "is a file, not a folder\n  --> --html"),
        (["edge_rules:surer", "--known", "pool.regret=no"], "`pool.regret` is expected to fail, and is not asked"),
        (
            ["edge_rules:surer", "--axioms", "token.III.1", "--known", "token.III.5=no"],
            "is not asked of these operators",
        ),
        (["edge_rules:surer", "--teachers", "0"], "must be from 1 to"),
        (["edge_rules:surer", "--teachers", str(MOST_TEACHERS + 1)], "must be from 1 to"),
        (["edge_rules:surer", "--teachers", "a,a"], "`a` stands there twice"),
        (["edge_rules:surer", "--tasks", "a,,b"], "has a name that is empty"),
        (["edge_rules:pool", "--teachers", "3"], "a pool knows no teachers, tasks or contexts by name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_of_the_user_is_one_clear_text(command, rules, stubbed, words, message):
    outcome = command("audit", *words)
    assert outcome.code == 2, outcome.out
    assert message in outcome.err
    assert " at 0x" not in outcome.err
    assert stubbed == []


def test_a_page_makes_no_folder_beside_those_of_the_system(command, rules):
    place = Path(rules.anchor) / "surely_no_such_folder" / "audit.html"
    with pytest.raises(MashbillError, match="there is no folder `/surely_no_such_folder`"):
        require_page(place)
    assert not place.parent.exists()
    require_page(rules / "new" / "audit.html")
    assert not (rules / "new").exists()


@pytest.mark.parametrize("word", ["edge_rules.py:surer", "./edge_rules.py:surer", "sub/json.py:surer"])
def test_a_file_is_loaded_by_its_path(command, rules, stubbed, word):
    assert command("audit", word).code == 1
    operator = stubbed[0]["opened"].target.operator
    assert Path(operator.__code__.co_filename) == (rules / word.partition(":")[0]).resolve()
    assert sys.modules["json"] is json
    assert str(rules / "sub") not in sys.path[: len(sys.path) - 1], "what lies beside it is found last"


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("edge_rules:Module", ()),
        ("edge_rules:Tempered", ()),
        ("edge_rules:placed", ("--set", "beta=2.0")),
        ("edge_rules:named", ("--set", "beta=2.0")),
    ],
)
def test_what_is_required_alone_tells_a_rule(command, rules, word, options):
    outcome = command("audit", word, *options, "--axioms", "token.III.1,contract.answer")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "2 survived" in outcome.out


def test_a_rule_is_asked_about_the_names_it_was_made_for(command, rules, folder):
    few = ("--axioms", "token.III.1,contract.answer")
    alone = command("audit", "edge_rules:three", *few)
    assert alone.code == 1
    assert "name them: --teachers 3" in alone.out
    assert command("audit", "edge_rules:three", *few, "--teachers", "3").code == 0
    names = ("--teachers", "a, b", "--tasks", "mail", "--contexts", "home")
    assert command("audit", "edge_rules:by_name", *few, *names).code == 0
    refused = command("audit", folder / "recipe.yaml", "--teachers", "3")
    assert refused.code == 2
    assert "is a recipe, which names its own teachers" in refused.err


def test_nothing_that_applies_is_not_conforming(command, rules):
    outcome = command("audit", "edge_rules:surer", "--kind", "sequence")
    assert outcome.code == 2
    assert "nothing that was asked applies to `edge_rules:surer`" in outcome.err
    assert "the rule reads no labels" in outcome.err


def test_a_known_failure_that_passes_is_told(command, rules):
    words = ("edge_rules:surer", "--axioms", "token.III.1,token.III.5")
    fails, passes = ("--known", "token.III.5=no order"), ("--known", "token.III.1=sums are off")
    assert command("audit", *words, *fails).code == 0
    outcome = command("audit", *words, *fails, *passes)
    assert outcome.code == 1
    assert "known failure does not fail: token.III.1" in outcome.out
    value = json.loads(command("audit", *words, *fails, *passes, "--json").out)
    assert (value["conforming"], value["passed_though_known"]) == (True, ["token.III.1"])


def test_json_is_strict_and_nothing_that_an_operator_prints_is_in_it(command, rules):
    def refuse(token):
        raise AssertionError(token)

    axioms = ("--axioms", "token.III.1,contract.finite")
    outcome = command("audit", "edge_rules:infinite", "edge_rules:prints", *axioms, "--json")
    value = json.loads(outcome.out, parse_constant=refuse)
    assert value["operators"][0]["results"][0]["witness"]["violation"] == "inf"
    assert "HELLO" in outcome.err
    assert "LOADED" in outcome.err


def test_an_error_is_strict_json_and_legible(capsys):
    from mashbill.cli.reply import show_error

    show_error(MashbillError("\x1b[2Jgone"), as_json=False)
    assert "\\x1b[2Jgone" in capsys.readouterr().err
    show_error(MashbillError("\x1b[2Jgone"), as_json=True)
    assert json.loads(capsys.readouterr().out)["error"]["what"] == "\x1b[2Jgone"


def test_what_an_operator_says_commands_no_terminal_and_no_page(command, rules):
    words = ("audit", "edge_rules:hostile", "--axioms", "contract.answer", "--html", "audit.html")
    outcome = command(*words)
    reason = json.loads(command(*words, "--json").out)["operators"][0]["results"][0]["reason"]
    page = (rules / "audit.html").read_text(encoding="utf-8")
    for text in (outcome.out, reason, page):
        assert r"\x1b[31mred \x00 \u202egnp \x9b1m" in text
        assert not {"\x1b", "\x00", "\u202e", "\x9b"} & set(text)


def test_the_page_has_no_numbers_that_json_has_not(tmp_path):
    from dataclasses import replace

    from mashbill.report.audit_page import write_audit

    witness = replace(WITNESS, inputs={"values": [float("inf"), float("nan")]})
    found = CheckResult("own:rule", "token.III.5", "falsified", "reason", witness=witness)
    page = write_audit([found], output=tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "[&#34;inf&#34;, &#34;nan&#34;]" in page


def test_a_recipe_without_an_order_is_told_which_key_states_one(command, folder):
    few = ("--axioms", "token.III.5")
    outcome = command("audit", folder / "recipe.yaml", *few)
    assert outcome.code == 1
    assert "help: the recipe states no safety order: add `order: scorecard` under `weighting`" in outcome.out
    advised = command("audit", folder / "recipe.yaml", *few, "--set", "weighting.order=scorecard")
    assert advised.code == 0, advised.out
    assert "help:" not in advised.out
    pairs = command("audit", folder / "recipe.yaml", *few, "--set", "weighting.order=[[safety_desk, workshop]]")
    assert "the order that is stated is not the certified one" in pairs.out
