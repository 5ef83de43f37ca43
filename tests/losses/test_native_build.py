"""Building the compiled loops: whatever goes wrong, ``auto`` goes on without a word and ``native`` says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mashbill.losses import native

HERE = Path(__file__).resolve().parent
CODE = """
from mashbill.losses import native
native.FLAGS = ("-O0",)
print(native.why_not())
"""


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Begin as in a new process with an empty cache folder, and build fast."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "FLAGS", ("-O0",))
    native._library.cache_clear()
    yield tmp_path / "cache" / "mashbill"
    native._library.cache_clear()


@pytest.fixture
def compiler(fresh):
    """Ask for a compiler that works."""
    if (why := native.why_not()) is not None:
        pytest.skip(why)
    for path in fresh.iterdir():
        path.unlink()
    native._library.cache_clear()


def script(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_bytes(b"#!/bin/sh\n" + text.encode("latin-1"))
    path.chmod(0o755)
    return str(path)


def check_fallback(problem, why):
    """``auto`` gives what PyTorch gives, and ``native`` one error with the reason."""
    case = problem(kind="logits", dtype=torch.float32)
    (loss, gradient), (twin, expected) = case.solve(impl="auto"), case.solve(impl="chunked")
    assert torch.equal(loss.divergence, twin.divergence)
    assert torch.equal(gradient, expected)
    with pytest.raises(ValueError, match=f"impl='native' cannot run here: .*{why}.*; use impl='auto'"):
        case.solve(impl="native")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", ["/nonexistent", "no-such-compiler --with an-option", "."])
def test_no_compiler(problem, monkeypatch, name):
    monkeypatch.setenv("CC", name)
    check_fallback(problem, f"there is no C compiler '{name}'; install one, or name another in CC")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("switch", ["0", "false", "FALSE", "no", "off", " Off "])
def test_switched_off(problem, monkeypatch, switch):
    monkeypatch.setenv("MASHBILL_NATIVE", switch)
    check_fallback(problem, f"MASHBILL_NATIVE={switch.strip()} is set")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("switch", ["", "1", "true", "Yes", "ON"])
def test_switched_on(monkeypatch, switch):
    monkeypatch.setenv("MASHBILL_NATIVE", switch)
    assert native.is_available()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("impl", ["auto", "native"])
def test_a_switch_that_says_neither_is_an_error(problem, monkeypatch, impl):
    monkeypatch.setenv("MASHBILL_NATIVE", "maybe")
    case = problem(kind="logits", dtype=torch.float32)
    with pytest.raises(ValueError, match="MASHBILL_NATIVE='maybe' must be one of 0, false, no, off, or 1, true"):
        case.solve(impl=impl)
    case.solve(impl="chunked")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[ "$1" = --version ] && exit 0\necho "\xfcberlaufen: 7" >&2\nexit 1\n', "failed: .*berlaufen: 7"),
        ("exit 3\n", "--version.*exit status 3"),
        ("exit 0\n", "No such file"),
        ('[ "$1" = --version ] && exit 0\nexec sleep 30\n', "timed out"),
        (
            '[ "$1" = --version ] && exit 0\nwhile [ "$1" != -o ]; do shift; done\necho no library > "$2"\n',
            "invalid|short",
        ),
    ],
    ids=["fails in another alphabet", "fails at once", "makes nothing", "hangs", "makes nonsense"],
)
def test_a_compiler_that_fails(problem, monkeypatch, fresh, tmp_path, text, why):
    monkeypatch.setenv("CC", script(tmp_path, text))
    monkeypatch.setattr(native, "_PATIENCE_S", 0.3)
    check_fallback(problem, f"could not be built or loaded: .*({why})")
    assert not fresh.exists() or all(path.suffix == ".so" for path in fresh.iterdir())


@pytest.mark.usefixtures("compiler")
def test_another_library_under_our_name(problem, monkeypatch, tmp_path):
    other = tmp_path / "other.c"
    other.write_text("int nothing(void) { return 0; }\n", encoding="utf-8")
    monkeypatch.setattr(native, "SOURCE", other)
    check_fallback(problem, "could not be built or loaded: .*mashbill_")


@pytest.mark.usefixtures("fresh")
def test_a_missing_source(problem, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "SOURCE", tmp_path / "gone.c")
    check_fallback(problem, "gone.c|there is no C compiler")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("place", ["a file in the way", "no right to write"])
def test_a_cache_folder_that_cannot_be_written_to(problem, monkeypatch, tmp_path, place):
    folder = tmp_path / "shut"
    if place == "a file in the way":
        folder.write_text("", encoding="utf-8")
    else:
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("the superuser may write anywhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    check_fallback(problem, "could not be built or loaded")


@pytest.mark.usefixtures("compiler")
def test_no_home_folder(problem, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    # Without HOME, the password file says where home is; without an entry there, nothing does.
    assert native._cache().parts[-2:] == (".cache", "mashbill")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    check_fallback(problem, "there is no home folder")


@pytest.mark.usefixtures("compiler")
def test_what_is_built_is_kept_and_used_again(monkeypatch, fresh):
    assert native.is_available()
    (kept,) = fresh.iterdir()
    assert kept.name.startswith("native-")
    before = kept.stat()
    native._library.cache_clear()
    monkeypatch.setattr(native, "_built", lambda *_: pytest.fail("built again"))
    assert native.is_available()
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("n_bytes", [0, 100, 4096, -1])
def test_a_library_that_a_crash_left_half_written_is_built_again(fresh, n_bytes):
    # Loading the first part of a library ends the process by a bus error.
    assert native.is_available()
    (kept,) = fresh.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # it is mapped here, so that it cannot be shortened in place
    kept.write_bytes(whole[:n_bytes])
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "None"), run.stderr
    assert [path.read_bytes() for path in fresh.glob(f"{kept.name.rsplit('-', 1)[0]}-*.so")] == [whole]


@pytest.mark.usefixtures("compiler")
def test_source_flags_compiler_and_processor_each_have_a_library_of_their_own(monkeypatch, fresh, tmp_path):
    def count():
        native._library.cache_clear()
        assert native.is_available()
        return len(list(fresh.iterdir()))

    changed = tmp_path / "native.c"
    changed.write_bytes(native.SOURCE.read_bytes() + b"\n")
    assert count() == 1
    monkeypatch.setattr(native, "SOURCE", changed)
    assert count() == 2
    monkeypatch.setattr(native, "FLAGS", ("-O0", "-g0"))
    assert count() == 3
    monkeypatch.setattr(native, "_processor", lambda: b"another")
    assert count() == 4
    monkeypatch.setattr(native, "_version", lambda _: b"another")
    assert count() == 5
    assert count() == 5


@pytest.mark.usefixtures("compiler")
def test_a_compiler_may_be_named_with_options(monkeypatch, fresh):
    plain = os.environ.get("CC", "").strip() or "cc"
    monkeypatch.setenv("CC", f"{plain} -g0")
    assert native.is_available()
    assert len(list(fresh.iterdir())) == 1
    monkeypatch.setenv("CC", "  ")  # as good as not set
    assert native._library.cache_info().currsize == 1
    native.why_not()
    assert native._library.cache_info().currsize == 2
    monkeypatch.delenv("CC")
    native.why_not()
    assert native._library.cache_info().currsize == 2


@pytest.mark.usefixtures("compiler")
def test_processes_that_build_at_once_do_not_disturb_each_other(fresh):
    running = [
        subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for one in running:
        out, error = one.communicate(timeout=60)
        assert (out.strip(), error) == ("None", "")
    assert native.is_available()
    assert [path.suffix for path in fresh.iterdir()] == [".so"]


def test_a_failure_is_remembered_and_success_too(monkeypatch, fresh):
    monkeypatch.setenv("CC", "/nonexistent")
    first = native.why_not()
    monkeypatch.setattr(native.shutil, "which", lambda *_: pytest.fail("looked again"))
    assert native.why_not() == first is not None


@pytest.mark.usefixtures("fresh")
def test_asking_whether_it_runs_needs_no_torch():
    code = CODE + "import sys\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
