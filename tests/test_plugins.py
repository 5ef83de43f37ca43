"""Names resolve through installed packages and given modules, and nothing is imported before it is used."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from mashbill import plugins
from mashbill.errors import MashbillError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(plugins, "_given", {})
    monkeypatch.setattr(plugins, "_added", [])
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_own_plug_ins_are_known_by_name():
    assert {"uniform", "static", "route", "entropy_softmax", "performance"} <= set(plugins.names("weights"))
    assert "keywords" in plugins.names("teachers")
    assert "hashed_ngram" in plugins.names("students")


def test_a_name_resolves_to_its_class():
    assert plugins.resolve("teachers", "keywords").__name__ == "KeywordTeacher"


def test_an_unknown_name_is_answered_with_the_nearest_and_all_others():
    with pytest.raises(
        MashbillError, match=r"(?s)no weights plug-in named `unifrom` — did you mean `uniform`.*installed: .*static"
    ):
        plugins.resolve("weights", "unifrom")


def test_a_given_module_adds_names_and_wins_over_installed_ones(module):
    name = module("given_rules", "MASHBILL_PLUGINS = {'weights': {'mine': dict, 'uniform': list}}")
    plugins.add_module(name)
    assert plugins.resolve("weights", "mine") is dict
    assert plugins.resolve("weights", "uniform") is list
    assert "mine" in plugins.names("weights")
    assert plugins.added() == (name,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing_at_all", "ModuleNotFoundError"),
        ("raise ValueError('half done')", "ValueError: half done"),
        ("x = (", "SyntaxError"),
        ("", "offers no plug-ins"),
        ("MASHBILL_PLUGINS = []", "offers no plug-ins"),
        ("MASHBILL_PLUGINS = {'weigths': {}}", "under 'weigths' that is no plug-in"),
        ("MASHBILL_PLUGINS = {'weights': {'a': 1}}", "under 'weights' that is no plug-in"),
    ],
)
def test_a_module_that_is_no_plug_in_is_refused(module, text, message):
    with pytest.raises(MashbillError, match=message):
        plugins.add_module(module("wrong_plugin", text))


def test_other_packages_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("MASHBILL_NO_PLUGINS", "1")
    for kind in ("weights", "teachers", "students"):
        for point in plugins._installed(kind):
            assert point.value.startswith("mashbill.")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("weights", name) for name in ("uniform", "static", "route", "entropy_softmax", "inverse_variance", "performance")]
    + [("weights", name) for name in ("inverse_loss", "ranked_safety", "partition_of_unity")]
    + [("teachers", "keywords"), ("students", "hashed_ngram")],
)
def test_options_read_from_source_are_those_of_the_signature(kind, name):
    assert plugins.options(kind, name) == plugins.accepted(plugins.resolve(kind, name))


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    point = EntryPoint(name="odd", value="no_such_package:Thing", group="mashbill.teachers")
    monkeypatch.setattr(plugins, "_entry_points", lambda _group: (point,))
    with pytest.raises(MashbillError, match=r"cannot import the plug-in `odd`: ModuleNotFoundError"):
        plugins.resolve("teachers", "odd")


def test_options_of_a_given_plug_in_are_those_of_its_signature(module):
    text = "def rule(*, gain, bias=0): ...\ndef free(**options): ...\n"
    plugins.add_module(module("signed_rules", text + "MASHBILL_PLUGINS = {'weights': {'rule': rule, 'free': free}}"))
    assert plugins.options("weights", "rule") == ["gain", "bias"]
    assert plugins.options("weights", "free") is None


def test_looking_at_names_and_options_imports_no_torch():
    code = (
        "import sys; from mashbill import plugins\n"
        "plugins.names('weights'); plugins.options('weights', 'uniform'); plugins.options('students', 'hashed_ngram')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
