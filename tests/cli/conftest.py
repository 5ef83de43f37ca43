"""A working recipe in a fresh folder, and the command in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mashbill.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path, command: Command) -> Path:
    """A folder with the recipe that ``init`` writes, and the first rows of its data."""
    assert command("init", tmp_path / "mine").code == 0
    for file in (tmp_path / "mine" / "data").iterdir():
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:20]), encoding="utf-8")
    return tmp_path / "mine"
