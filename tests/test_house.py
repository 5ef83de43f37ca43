"""The rules of the house: what no single module can check about itself."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import jaxtyping
import pytest
import torch

import mashbill
from mashbill import numerics
from mashbill.distributions import TopK, soften

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".jsonl",
    ".html",
    ".css",
    ".js",
    ".cfg",
    ".ini",
    "",
}
MAX_LINES = 300

# Written in pieces so that this file does not contain what it forbids.
BANNED_TEXT = {
    "an address of a package registry": r"py" + r"pi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs",
    "an issue number": r"\bissue" + r" #?\d|\(#\d+\)",
    "a path of somebody's machine": r"/ho" + r"me/\w|/Us" + r"ers/\w|/wo" + r"rk/\w|[A-Z]:\\Users|/ro" + r"ot/\w",
}
BANNED_CODE = {
    "pickle can run code when it is read": r"^\s*(import|from) (pickle|cloudpickle|dill|shelve|marshal)\b",
    "torch.load reads pickles": r"\btorch\.load\(",
    "yaml.load builds objects; use a safe loader": r"\byaml\.(unsafe_|full_)?load\((?!.*Loader=\w*Safe)",
    "no text is ever code": r"(?<![\w.])(eval|exec)\(",
    "code from a model folder never runs": r"trust_remote_code\s*=\s*True",
}


def tracked_text_files() -> list[Path]:
    """Return the tracked files that hold text; outside a clone there is nothing to look at."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git clone")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.is_file() and file.suffix in TEXT_SUFFIXES and file.name != "LICENSE"]


def offences(files: list[Path], patterns: dict[str, str]) -> list[str]:
    """Return ``file:line: reason`` for every line that matches a pattern."""
    found = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            found += [f"{file}:{number}: {why}" for why, pattern in patterns.items() if re.search(pattern, line)]
    return found


def test_wrong_shapes_raise_under_the_test_hook() -> None:
    ids, three, four = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3), torch.zeros(2, 4)
    TopK(ids=ids, logprobs=three, log_tail=torch.zeros(2), n_entries=9)
    with pytest.raises(jaxtyping.TypeCheckError):
        TopK(ids=ids, logprobs=four, log_tail=torch.zeros(2), n_entries=9)


def test_wrong_types_raise_under_the_test_hook() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        numerics.entropy_ceiling("three")  # pyright: ignore[reportArgumentType]  # the wrong type is the test


def test_a_whole_number_is_a_number_under_the_test_hook() -> None:
    logprobs = torch.log_softmax(torch.arange(3.0), dim=-1)
    assert torch.equal(soften.power(logprobs, temperature=2), soften.power(logprobs, temperature=2.0))


def test_golden_values_are_there(golden) -> None:
    assert golden("F05")["expected"] == pytest.approx([0.6, 0.25, 0.15], abs=golden("F05")["tol"])


def test_no_source_file_outgrows_a_reader() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert {str(file): n for file, n in lengths.items() if n > MAX_LINES} == {}


def test_no_code_from_data() -> None:
    assert offences(SOURCES, BANNED_CODE) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "    from dill import loads",
        "x = torch.load(path)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "value = eval(text)",
        "f(path, trust_remote_code=True)",
    ],
)
def test_the_code_check_sees(line: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(line + "\n", encoding="utf-8")
    assert len(offences([file], BANNED_CODE)) == 1


def test_the_code_check_lets_good_code_pass(tmp_path: Path) -> None:
    file = tmp_path / "good.py"
    lines = ["model.eval()", "yaml.load(text, Loader=StrictSafeLoader)", "trust_remote_code=False", "retrieval(x)"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert offences([file], BANNED_CODE) == []


def test_no_words_of_one_machine_or_one_day() -> None:
    assert offences(tracked_text_files(), BANNED_TEXT) == []


@pytest.mark.parametrize("line", ["see iss" + "ue #12", "open /ho" + "me/ann/run", "from py" + "pi.org"])
def test_the_word_check_sees(line: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.md"
    file.write_text(line + "\n", encoding="utf-8")
    assert len(offences([file], BANNED_TEXT)) == 1


@pytest.mark.parametrize(
    "module",
    [
        "mashbill",
        "mashbill.errors",
        "mashbill.plugins",
        "mashbill.train.recipe",
        "mashbill.train.loading",
        "mashbill.train.data",
        "mashbill.weights.scorecard",
        "mashbill.cli.app",
    ],
)
def test_import_stays_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def pins(name: str) -> dict[str, str]:
    """Return ``{package: version}`` of one requirements file, names as registries normalise them."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([\w.-]+)(?:\[\w,]+)?==(\S+)", line.strip()) for line in lines]
    return {normal(match[1]): match[2] for match in found if match}


def normal(name: str) -> str:
    """Return a package name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_an_exact_pin() -> None:
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert re.match(r"#|-[rc] \S+\.txt$|[\w.\[\]-]+==\S+$|$", line), f"{file.name}: {line}"


def test_every_dependency_of_the_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {normal(re.split(r"[\[<>=~! ]", dependency)[0]) for dependency in project["dependencies"]}
    assert needed - set(pins("core.txt")) - set(pins("torch.txt")) == set()


def test_the_example_asks_for_what_the_demonstration_installs() -> None:
    project = tomllib.loads((ROOT / "examples" / "langid" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = dict(dependency.split("==") for dependency in project["dependencies"] if "==" in dependency)
    assert asked == {package: pins("demo.txt").get(package) for package in asked}


def test_the_lock_agrees_with_the_pins() -> None:
    locked = pins("lock.txt")
    for name in ("core.txt", "demo.txt", "dev.txt"):
        assert {package: locked.get(package) for package in pins(name)} == pins(name)


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == mashbill.__version__


@pytest.mark.parametrize("kind", ["weights", "teachers", "students"])
def test_every_entry_point_of_the_package_loads(kind: str) -> None:
    own = [point for point in entry_points(group=f"mashbill.{kind}") if point.value.startswith("mashbill.")]
    assert all(callable(point.load()) for point in own)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "VIOLATIONS.md"])
def test_links_between_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for part in ("Apache License", "Version 2.0, January 2004", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"):
        assert part in text
