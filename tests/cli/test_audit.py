"""The command audit: what it finds, what it says, and how it refuses."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from report.audited import conforming, results
from report.markup import Page

from mashbill.audit.axioms import AXIOMS
from mashbill.cli import audit as command_of_audit

RULES = """
from dataclasses import dataclass
import torch

TABLE = {"a": 1}

@dataclass(frozen=True)
class Surer:
    beta: float = 1.0

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"beta={self.beta!r} must be positive")

    def __call__(self, evidence):
        return torch.log_softmax(-self.beta * evidence.statistics.gini, dim=0)

class Needy:
    def __init__(self, table):
        self.table = table

    def __call__(self, evidence):
        return torch.log_softmax(-evidence.statistics.gini, dim=0)

class Silent:
    pass

class Inner:
    rule = staticmethod(lambda evidence: torch.log_softmax(-evidence.statistics.gini, dim=0))

def surer(evidence, *, beta=1.0):
    return torch.log_softmax(-beta * evidence.statistics.gini, dim=0)

def made(*, beta=1.0):
    return Surer(beta)

def typo(evidence):
    return torch.log_softmax(-evidence.statistics.ginny, dim=0)

def wrong_shape(evidence):
    return torch.zeros(3)

def wrong_type(evidence):
    return "half each"

def whole_numbers(evidence):
    return torch.zeros(evidence.statistics.gini.shape, dtype=torch.long)

def sum_off(evidence):
    return surer(evidence) + 1e-3
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of somebody's own in the working folder."""
    (tmp_path / "own_rules.py").write_text(RULES)
    (tmp_path / "broken_module.py").write_text("import nothing_that_exists\n")
    (tmp_path / "raising_module.py").write_text("raise RuntimeError('oh dear')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_rules", None)
    return tmp_path


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The command around an audit that finds one of everything; what it was asked is kept."""
    asked: list[dict] = []

    def checked(opened, **options):
        asked.append({"opened": opened, **options})
        return results(opened.target.name, known=options["known"].get("token.III.5", ""))

    monkeypatch.setattr(command_of_audit, "checked", checked)
    return asked


def test_list_names_every_axiom_and_needs_no_torch(command):
    code = (
        "import sys\nfrom mashbill.cli.app import main\n"
        "sys.exit(main(sys.argv[1:]) or len({'torch', 'transformers', 'jinja2'} & set(sys.modules)))"
    )
    for words in (["audit", "--list"], ["audit", "--list", "--json"], ["audit", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0
    lines = command("audit", "--list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(AXIOMS)
    value = json.loads(command("audit", "--list", "--json").out)
    assert [axiom["id"] for axiom in value["axioms"]] == list(AXIOMS)
    assert all(axiom["statement"] and axiom["formula"] and axiom["source"] for axiom in value["axioms"])


def test_independence_is_a_table_and_json(command):
    outcome = command("audit", "--independence")
    assert outcome.code == 0
    assert "independent" in outcome.out
    value = json.loads(command("audit", "--independence", "--json").out)
    assert value["n_independent"] < value["n_axioms"] == 15


def test_every_verdict_is_told_apart(command, rules, stubbed):
    outcome = command("audit", "own_rules:Surer", "--set", "beta=2.5")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert lines[0] == "own_rules:Surer(beta=2.5)"
    said = {line.split()[0]: line for line in lines[2:]}
    assert "certified" in said["token.III.1"]
    assert "survived" in said["token.III.4"]
    assert "falsified" in said["token.III.5"]
    assert "gini (0.5, 0.1) gives (0.2, 0.8)" in said["token.III.5"]
    assert "  2 axioms     " in outcome.out, "two errors with one reason are one row"
    assert "not applicable: task.III.10, task.III.11: the rule reads no task" in outcome.out
    assert lines[-1] == "  1 certified, 1 falsified, 1 survived, 2 not applicable, 2 error: violated: 3"


def test_what_is_asked_reaches_the_audit(command, rules, stubbed):
    words = ("--axioms", "token.III.1, token.III.5", "--budget", "deep", "--seed", 3, "--known", "token.III.5=no order")
    words = (*words, "--kind", "weights")
    outcome = command("audit", "own_rules:Surer", "own_rules:surer", *words)
    assert [each["opened"].target.name for each in stubbed] == ["own_rules:Surer", "own_rules:surer"]
    assert stubbed[0]["axioms"] == ["token.III.1", "token.III.5"]
    assert (stubbed[0]["budget"], stubbed[0]["seed"], stubbed[0]["kind"]) == ("deep", 3, "weights")
    assert stubbed[0]["known"] == {"token.III.5": "no order"}
    assert "falsified (known)" in outcome.out
    assert "known: no order" in outcome.out
    assert "violated: 2, 1 known" in outcome.out


def test_json_is_whole_and_the_code_follows_the_verdicts(command, rules, stubbed, monkeypatch):
    outcome = command("audit", "own_rules:Surer", "--json")
    value = json.loads(outcome.out)
    assert outcome.code == 1
    assert (value["conforming"], value["budget"], value["seed"]) == (False, "quick", 0)
    operator = value["operators"][0]
    assert (operator["operator"], operator["kind"]) == ("own_rules:Surer", "operator")
    assert [result["verdict"] for result in operator["results"]] == [each.verdict for each in results()]
    assert operator["results"][2]["witness"]["replay"].count("\n") == 2
    monkeypatch.setattr(command_of_audit, "checked", lambda opened, **_: conforming(opened.target.name))
    calm = command("audit", "own_rules:Surer", "--json")
    assert calm.code == 0
    assert json.loads(calm.out)["conforming"] is True


def test_the_page_holds_every_operator(command, rules, stubbed):
    outcome = command("audit", "own_rules:Surer", "own_rules:surer", "--html", rules / "audit.html")
    assert f"page: {rules / 'audit.html'}" in outcome.out
    page = Page((rules / "audit.html").read_text(encoding="utf-8"))
    assert page.tables[0][0] == ["Axiom", "Surer", "surer"]


def test_a_terminal_gets_lines_that_fit(command, rules, stubbed, monkeypatch):
    monkeypatch.setattr("mashbill.cli.audit_text.sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    lines = command("audit", "own_rules:Surer").out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert max(len(line) for line in command("audit", "--list").out.splitlines()) <= 80


def test_a_recipe_is_audited_with_its_own_names(command, folder, stubbed):
    outcome = command("audit", folder / "recipe.yaml", "--json")
    opened = stubbed[0]["opened"]
    stage = opened.target.stage
    assert opened.kind == "recipe"
    assert stage.teachers == ("office", "workshop", "safety_desk")
    assert stage.tasks == ("mail", "chat")
    assert stage.contexts == ("factory", "home")
    assert stage.n_features == 0
    assert json.loads(outcome.out)["operators"][0]["operator"] == str(folder / "recipe.yaml")
    assert command("audit", folder / "recipe.yaml", "--set", "weighting.bounds=[0.4, 0.9]").code == 2


def test_a_run_is_audited_from_what_it_left(command, folder, stubbed):
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text((folder / "recipe.yaml").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({"tasks": ["mail", "chat"], "contexts": ["home"]}))  # its data may be gone
    record = {"step": 1, "weights": {"all": {"office": 0.9, "workshop": 0.1}}, "divergence": 1.0}
    (run / "records.jsonl").write_text(json.dumps(record) + "\n")
    outcome = command("audit", run, "--html", run / "audit.html")
    assert outcome.code == 1
    assert "least weight 0.1 (records.jsonl" in outcome.out
    assert "least weight 0.1" in Page((run / "audit.html").read_text(encoding="utf-8")).plain()
    opened = stubbed[0]["opened"]
    assert (opened.kind, opened.run) == ("run", run)
    assert (opened.target.stage.tasks, opened.target.stage.contexts) == (("mail", "chat"), ("home",))
    assert "cannot be changed with --set" in command("audit", run, "--set", "train.seed=1").err
    (run / "run.json").write_text("{")
    assert "run.json cannot be read" in command("audit", run).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to audit was named"),
        (["own_ruls:Surer"], "no module `own_ruls` — did you mean `own_rules`?"),
        (["own_rules:Sure"], "`own_rules` has no `Sure` — did you mean `Surer`?"),
        (["own_rules:Inner.rul"], "`own_rules.Inner` has no `rul` — did you mean `rule`?"),
        (["own_rules:"], "`own_rules:` names no operator"),
        (["own_rules:TABLE"], "is of type dict and cannot be called"),
        (["own_rules:Silent"], "gives a Silent, which cannot be called"),
        (["own_rules:Needy"], "needs `table`"),
        (["own_rules:Surer", "--set", "bta=1"], "has no option `bta` — did you mean `beta`?"),
        (["own_rules:surer", "--set", "bta=1"], "has no option `bta` — did you mean `beta`?"),
        (["own_rules:Surer", "--set", "beta=-1"], "beta=-1 must be positive"),
        (["own_rules:Surer", "--set", "beta=two"], "cannot be made: TypeError"),
        (["own_rules:Surer", "--set", "beta"], "needs `name=value`"),
        (["own_rules:Surer", "--set", "beta=!!python/name:os.system"], "--set beta"),
        (["mashbill.weight.gibbs:Gibbs"], "did you mean `mashbill.weights`?"),
        (["broken_module:x"], "cannot import `broken_module`: ModuleNotFoundError"),
        (["raising_module:x"], "cannot import `raising_module`: RuntimeError: oh dear"),
        (["gibs"], "no installed rule — did you mean `gibbs`?"),
        (["own_rules.py"], "write `own_rules.py:Name`"),
        (["recipe.yaml"], "no such file"),
        (["runs/first"], "there is no `runs/first`"),
        (["."], "a folder without a run in it"),
        (["own_rules:Surer", "--axioms", "token.III.33"], "did you mean `token.III.3`?"),
        (["own_rules:Surer", "--axioms", ","], "--axioms names none"),
        (["own_rules:Surer", "--known", "token.III.5"], "why `token.III.5` is expected to fail is not said"),
        (["own_rules:Surer", "--known", "order=no order"], "axiom='order' does not exist"),
        (["own_rules:Surer", "--budget", "huge"], "'huge' is not one of"),
        (["own_rules:Surer", "--html", "."], "`.` is a folder"),
        (["own_rules:Surer", "--plugin", "nowhere"], "cannot import plug-in module `nowhere`"),
        (["own_rules:Surer", "--list"], "--list is about the axioms"),
        (["--list", "--independence"], "two questions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_of_the_user_is_one_clear_text(command, rules, stubbed, words, message):
    outcome = command("audit", *words)
    assert outcome.code == 2, outcome.out
    assert message in outcome.err
    assert "internal error" not in outcome.err
    assert "Traceback" not in outcome.err
    assert stubbed == []


@pytest.mark.parametrize("named", ["own_rules:Surer", "own_rules:surer", "own_rules:made", "own_rules:Inner.rule"])
def test_classes_functions_and_factories_are_operators(command, rules, stubbed, named):
    options = () if "Inner" in named else ("--set", "beta=2.0")
    assert command("audit", named, *options).code == 1
    assert callable(stubbed[0]["opened"].target.operator)


def test_an_option_is_bound_to_a_function_and_its_needs_stay(rules):
    from mashbill.audit.loading import make_operator

    def rule(evidence, *, beta=1.0):
        return beta

    rule.needs = frozenset({"variance"})  # pyright: ignore[reportFunctionMemberAccess]
    bound = make_operator(rule, {"beta": 2.0}, "m:rule")
    assert bound(None) == 2.0
    assert bound.needs == frozenset({"variance"})  # pyright: ignore[reportFunctionMemberAccess]


# The real audit


def test_what_could_be_anything_has_to_be_named(command, rules):
    (rules / "own_rules.py").write_text(RULES + "\ndef step(a, b, c):\n    return a\n")
    sys.modules.pop("own_rules", None)
    outcome = command("audit", "own_rules:step")
    assert outcome.code == 2
    assert "requires 3 arguments; give --kind" in outcome.err
    pool_axioms = command("audit", "own_rules:surer", "--kind", "pool", "--axioms", "pool.normalised")
    assert pool_axioms.code == 1
    assert "error" in pool_axioms.out


@pytest.mark.parametrize("name", ["typo", "wrong_shape", "wrong_type", "whole_numbers"])
def test_an_operator_that_fails_is_a_finding_and_no_traceback(command, rules, name):
    outcome = command("audit", f"own_rules:{name}", "--axioms", "token.III.1,contract.shape,contract.answer")
    assert outcome.code == 1
    assert "Traceback" not in outcome.out + outcome.err
    assert "internal error" not in outcome.err


def test_a_broken_sum_is_found_and_replays(command, rules):
    outcome = command("audit", "own_rules:sum_off", "--axioms", "token.III.1", "--json")
    assert outcome.code == 1
    result = json.loads(outcome.out)["operators"][0]["results"][0]
    assert (result["axiom"], result["verdict"]) == ("token.III.1", "falsified")
    from mashbill.audit import replay
    from mashbill.audit.loading import load_operator

    assert replay(result["witness"]["inputs"], load_operator("own_rules:sum_off").operator) > 0


def test_the_composed_operator_of_a_recipe_conforms(command, folder):
    words = ("--set", "weighting.bounds=[0.1, 0.8]", "--axioms", "token.III.3,composition.box")
    outcome = command("audit", folder / "recipe.yaml", *words)
    assert outcome.code == 0, outcome.out
    assert "what follows" in outcome.out
    assert "inherited" in outcome.out


def test_a_quick_audit_of_a_small_operator_ends_soon(rules):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mashbill", "audit", "own_rules:Surer", "--known", "token.III.5=knows no order"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 60  # five seconds on an idle machine; a busy one is not the audit's fault
