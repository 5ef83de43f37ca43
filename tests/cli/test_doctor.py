"""What ``mashbill doctor`` says of the C compiler and of the compiled loops."""

import json
import os
from pathlib import Path

import pytest

from mashbill.cli import doctor
from mashbill.losses import native


@pytest.fixture
def said(command, monkeypatch, tmp_path):
    """Return what asks the doctor in a new cache folder and gives its value and its lines."""
    monkeypatch.setattr(doctor, "_torch", lambda: {"version": "9.9", "cuda": None, "threads": 1, "devices": []})
    monkeypatch.setattr(native, "FLAGS", ("-O0",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._library.cache_clear()

    def ask():
        machine, person = command("doctor", "--json"), command("doctor")
        assert machine.code == person.code
        return json.loads(machine.out), person.out, person.code

    yield ask
    native._library.cache_clear()


def test_loops_that_are_there_are_said_to_be_where_they_are(said, tmp_path):
    if native.compiler() is None:
        pytest.skip("there is no C compiler: install one")
    value, lines, code = said()
    loops = value["compiled_loops"]
    assert code == 0
    assert Path(loops["library"]).is_file()
    assert Path(loops["library"]).parent == tmp_path / "cache" / "mashbill"
    assert os.access(loops["compiler"].split()[0], os.X_OK)
    assert loops["missing"] is None
    assert f"compiler   {loops['compiler']}\n" in lines
    assert f"loops      compiled, kept as {loops['library']}\n" in lines


def test_no_compiler_is_no_problem_and_is_said(said, monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent")
    value, lines, code = said()
    assert code == 0
    assert value["compiled_loops"]["compiler"] is value["compiled_loops"]["library"] is None
    assert "compiler   no C compiler\n" in lines
    assert "loops      not compiled: there is no C compiler '/nonexistent'; install one, or name another in CC" in lines
    assert "losses on a CPU have the same numbers without, and take longer" in lines
    assert "CC=/nonexistent\n" in lines


@pytest.mark.parametrize("switch", ["0", "False", "no", "OFF"])
def test_loops_that_are_switched_off_are_said_to_be(said, monkeypatch, switch):
    monkeypatch.setenv("MASHBILL_NATIVE", switch)
    value, lines, code = said()
    assert code == 0
    assert value["compiled_loops"]["missing"] == f"MASHBILL_NATIVE={switch} is set"
    assert f"loops      not compiled: MASHBILL_NATIVE={switch} is set; " in lines


def test_a_switch_that_says_neither_is_a_problem(said, monkeypatch):
    monkeypatch.setenv("MASHBILL_NATIVE", "maybe")
    value, lines, code = said()
    assert code == 2
    wrong = "MASHBILL_NATIVE='maybe' must be one of 0, false, no, off, or 1, true, yes, on"
    assert value["problems"] == [wrong]
    assert f"problem: {wrong}\n" in lines
