"""What each command does when all is well, and how the command line itself behaves."""

import json
import os
import subprocess
import sys

import pytest

import mashbill
from mashbill.cli import app as command_line
from mashbill.cli import doctor, init
from mashbill.cli.progress import Bar, Lines
from mashbill.cli.recipes import prepare_libraries
from mashbill.train import checks
from mashbill.train.checks import check
from mashbill.train.loading import load_recipe

NAMES = ("init", "doctor", "validate", "scorecard", "distill", "report", "export")


def test_help_names_every_command_and_needs_no_torch():
    code = (
        "import sys\nfrom mashbill.cli.app import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit(code or len({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in NAMES)


def test_validate_and_init_need_no_torch(folder):
    code = (
        "import sys\nfrom mashbill.cli.app import main\n"
        "code = main(['validate', sys.argv[1]]) or main(['init', sys.argv[2]])\n"
        "sys.exit(code or 100 * ('torch' in sys.modules))"
    )
    paths = [str(folder / "recipe.yaml"), str(folder / "other")]
    assert subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, check=False).returncode == 0


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "mashbill", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, mashbill.__version__)


def test_no_command_is_a_question_for_help(command):
    assert "Usage: mashbill" in command().out


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(command, name):
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validat"], "No such command 'validat'"),
        (["validate"], "Missing argument 'recipe'"),
        (["validate", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["init", "x", "--recipe", "mine"], "'mine' is not one of"),
        (["distill", "a.yaml", "--resume", "maybe"], "'maybe' is not one of"),
        (["export", "run"], "Missing option '--to'"),
    ],
)
def test_a_wrong_command_line_is_one_error(command, arguments, message):
    outcome = command(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "mashbill --help" in outcome.err
    assert json.loads(command(*arguments, "--json").out)["error"]["exit_code"] == 2


@pytest.mark.parametrize("name", init.NAMES)
def test_init_writes_a_recipe_whose_shape_is_right(command, tmp_path, name):
    outcome = command("init", tmp_path / "new", "--recipe", name)
    assert outcome.code == 0
    assert "next: " in outcome.out
    loaded = load_recipe(tmp_path / "new" / "recipe.yaml")
    assert loaded.text.startswith("# ")
    if name in init.WITH_DATA:
        assert check(loaded).is_complete


def test_init_never_overwrites(command, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eval.jsonl").write_text("mine")
    outcome = command("init", tmp_path)
    assert outcome.code == 2
    assert "eval.jsonl` exists already" in outcome.err
    assert (tmp_path / "data" / "eval.jsonl").read_text() == "mine"
    assert not (tmp_path / "recipe.yaml").exists()
    assert "is a file, not a folder" in command("init", tmp_path / "data" / "eval.jsonl").err


def test_validate_says_what_the_run_would_do(command, folder):
    outcome = command("validate", folder / "recipe.yaml")
    assert outcome.code == 0
    for part in (
        "recipe.yaml: ok",
        "3: office, workshop, safety_desk",
        "train 20, held_out 20",
        "(mail, chat)",
        "steps",
    ):
        assert part in outcome.out
    value = json.loads(command("--json", "validate", folder / "recipe.yaml").out)
    assert value["ok"] is True
    assert value["n_steps"] == 30
    assert value["rows"] == {"data.train": 20, "data.eval.held_out": 20, "data.scorecard": 20}


def test_validate_warns_of_what_is_allowed_but_odd(command, folder, monkeypatch):
    outcome = command("validate", folder / "recipe.yaml", "--set", "train.max_steps=3")
    assert outcome.code == 0
    assert "warning: the learning rate never reaches its height: 10 warm-up steps" in outcome.out
    monkeypatch.setattr(checks, "_free_bytes", lambda _folder: 5)
    assert "and 0.0 GB are free" in command("validate", folder / "recipe.yaml").out


def test_values_from_the_command_line_count(command, folder):
    outcome = command(
        "validate", folder / "recipe.yaml", "--set", "train.max_steps=12", "--set", "teachers[0].id=bureau"
    )
    assert "about 12" in outcome.out
    assert "bureau" in outcome.out


def test_a_plug_in_module_lies_in_the_working_folder(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "own_rules.py").write_text("def gain(*, by): ...\nMASHBILL_PLUGINS = {'weights': {'gain': gain}}\n")
    setting = ("--set", "weighting.token={rule: gain, by: 2}")
    assert command("validate", "recipe.yaml", "--plugin", "own_rules", *setting).code == 0
    wrong = command("validate", "recipe.yaml", "--plugin", "own_rules", "--set", "weighting.token={rule: gain, bye: 2}")
    assert "has no option `bye` — did you mean `by`" in wrong.err


def test_doctor_reports_and_judges(command, monkeypatch):
    monkeypatch.setattr(doctor, "_torch", lambda: {"version": "9.9", "cuda": None, "threads": 1, "devices": []})
    outcome = command("doctor")
    assert outcome.code == 0
    assert outcome.out.rstrip().endswith("ok")
    assert "torch      9.9, CUDA none; CPU only" in outcome.out
    assert "keywords" in outcome.out
    monkeypatch.setattr(doctor, "_torch", lambda: {"error": "libtorch.so is missing"})
    outcome = command("doctor", "--json")
    assert outcome.code == 2
    assert json.loads(outcome.out)["problems"] == ["torch cannot be imported: libtorch.so is missing"]


def test_doctor_asks_torch_in_a_process_of_its_own():
    assert set(doctor._torch()) == {"version", "cuda", "threads", "devices"}


def test_doctor_knows_an_old_version_when_it_sees_one():
    assert doctor._numbers("2.10.1+cpu") >= doctor._numbers("2.10")
    assert doctor._numbers("2.9.1") < doctor._numbers("2.10")


def test_an_internal_error_is_one_line_unless_asked_for_more(command, folder, monkeypatch):
    def fail(_survey):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("mashbill.cli.validate.describe", fail)
    outcome = command("validate", folder / "recipe.yaml")
    assert outcome.code == 1
    assert outcome.err.splitlines()[0] == "error: internal error: ZeroDivisionError: oops"
    assert "Traceback" not in outcome.err
    assert "Traceback" in command("validate", folder / "recipe.yaml", "--debug").err


def test_an_interruption_is_130(command, folder, monkeypatch):
    def stop(_survey):
        raise KeyboardInterrupt

    monkeypatch.setattr("mashbill.cli.validate.describe", stop)
    outcome = command("validate", folder / "recipe.yaml")
    assert (outcome.code, outcome.err) == (130, "error: interrupted\n")
    assert json.loads(command("validate", folder / "recipe.yaml", "--json").out)["error"]["exit_code"] == 130


def test_no_access_is_an_error_of_the_user(command, monkeypatch, tmp_path):
    def fail(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr(command_line.init, "_require_free", fail)
    outcome = command("init", tmp_path / "x")
    assert outcome.code == 2
    assert "Permission denied" in outcome.err


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_is_said(command, folder, monkeypatch, error):
    def fail(_survey):
        raise error

    monkeypatch.setattr("mashbill.cli.validate.describe", fail)
    outcome = command("validate", folder / "recipe.yaml")
    assert outcome.code == 2
    assert outcome.err.startswith("error: no space is left on the disk\n")


def test_a_folder_is_no_file_to_write(command, folder):
    before = set(folder.parent.rglob("*"))
    for arguments in (("scorecard", folder / "recipe.yaml"), ("report", folder)):
        outcome = command(*arguments, "--output", folder)
        assert outcome.code == 2
        assert f"error: `{folder}` is a folder" in outcome.err
    assert set(folder.parent.rglob("*")) == before


def test_lines_of_progress_come_at_intervals_and_at_the_end():
    said = []
    lines = Lines(said.append, seconds=1000)
    lines.start(3, "asking one")
    lines.advance()
    lines.advance(2, loss=0.25)
    assert said == []
    lines.done()
    assert said == ["asking one: 3/3  loss 0.25  0 s"]
    eager = Lines(said.append, seconds=0)
    eager.start(None, "reading")
    eager.advance()
    assert said[1:] == ["reading: 1  0 s"]


def test_lines_say_how_long_the_rest_takes(monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr("mashbill.cli.progress.time.monotonic", lambda: now[0])
    lines = Lines(said.append, seconds=0)
    lines.start(100, "capturing")
    for seconds, n in ((5, 10), (30, 10), (100, 80)):
        now[0] = float(seconds)
        lines.advance(n)
    assert said == [
        "capturing: 10/100  5 s  45 s left",
        "capturing: 20/100  30 s  2 min left",
        "capturing: 100/100  100 s",
    ]


def test_a_bar_takes_the_same_calls(capsys):
    bar = Bar()
    bar.start(2, "asking")
    bar.advance(loss=1.0)
    bar.advance()
    bar.done()
    assert "asking" in capsys.readouterr().err


def test_data_stays_off_the_network_and_pinned_teachers_may_be_had(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    prepare_libraries()
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["HF_DATASETS_OFFLINE"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_from_init_to_export(command, folder, tmp_path):
    recipe, run = folder / "recipe.yaml", folder / "runs" / "first"
    measured = json.loads(command("scorecard", recipe, "--output", tmp_path / "card.json", "--json").out)
    assert measured["teachers"] == ["office", "workshop", "safety_desk"]
    assert (tmp_path / "card.json").exists()
    outcome = command("distill", recipe, "--set", "train.max_steps=3", "--json")
    assert outcome.code == 0, outcome.err
    value = json.loads(outcome.out)
    assert (value["status"], value["steps"]) == ("finished", 3)
    assert {entry["who"] for entry in value["entries"]} >= {"student", "pool", "teacher:office"}
    assert (run / "report.html").exists()
    assert "report: " in command("report", run, "--output", tmp_path / "page.html").out
    assert "exported to" in command("export", run, "--to", tmp_path / "student").out
    assert (tmp_path / "student" / "model.safetensors").exists()
    again = command("distill", recipe, "--set", "train.max_steps=3", "--resume", "never")
    assert again.code == 2
    assert "already holds a run" in again.err


def test_a_rule_that_refuses_its_options_stops_before_any_work(command, folder):
    outcome = command("distill", folder / "recipe.yaml", "--set", "weighting.task={rule: static, weights: {office: 1}}")
    assert outcome.code == 2
    assert "--set weighting.task.weights: says nothing about teacher" in outcome.err
    outcome = command("distill", folder / "recipe.yaml", "--set", "weighting.task={rule: performance, temperature: 0}")
    assert outcome.code == 2
    assert "--set weighting.task: `performance`: temperature=0 must be finite and positive" in outcome.err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("arguments", [("report",), ("export", "--to", "there")])
def test_a_run_that_is_none_is_one_error(command, tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *rest = arguments
    outcome = command(name, tmp_path / "no-run", *rest)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "finish it" not in outcome.err  # there is nothing to finish
    assert list(tmp_path.iterdir()) == []
