"""Three domains of text that come with installed packages: scripture, code, technical English.

Every document has a stable id; a hash of it decides once and for all whether it trains the teachers and the student,
measures the teachers (scorecard), or tests everybody (eval).
"""

import ast
import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

DOMAINS = ("scripture", "code", "technical")
PIECE = 3000  # characters; long files are cut at line ends into pieces of about this size


def documents(domain: str) -> Iterator[tuple[str, str]]:
    """Yield ``(id, text)`` of one domain, in a fixed order."""
    return {"scripture": _scripture, "code": _code, "technical": _technical}[domain]()


def split_of(document_id: str) -> str:
    """Return ``train`` (94 %), ``scorecard`` (2 %) or ``eval`` (4 %); a whole file goes to one of them."""
    bucket = int(hashlib.sha256(document_id.partition("#")[0].encode()).hexdigest(), 16) % 50
    return {0: "scorecard", 1: "eval", 2: "eval"}.get(bucket, "train")


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package `{name}` is not installed; run `python3 dev setup` first")
    return Path(next(iter(spec.submodule_search_locations)))


def _scripture() -> Iterator[tuple[str, str]]:
    chapters: dict[str, list[str]] = {}
    with (_package("bible") / "data" / "kjv.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            verse = json.loads(line)
            chapters.setdefault(f"{verse['book']} {verse['chapter']}", []).append(verse["text"])
    for name, verses in chapters.items():
        yield name, f"{name}\n" + "\n".join(verses)


def _code() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idle_test", "site-packages", "pydoc_data", "encodings", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if skipped & set(name.parts):
            continue
        yield from _pieces(str(name), path.read_text(encoding="utf-8", errors="ignore"))


def _technical() -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for package in ("numpy", "torch"):
        root = _package(package)
        for path in sorted(root.rglob("*.py")):
            if "tests" in path.parts:
                continue
            name = f"{package}/{path.relative_to(root)}"
            texts = [text for text in _docstrings(path) if len(text) >= 200 and text not in seen]
            seen.update(texts)
            if texts:
                yield from _pieces(name, "\n\n".join(texts))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _pieces(name: str, text: str) -> Iterator[tuple[str, str]]:
    piece: list[str] = []
    size = number = 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= PIECE:
            yield f"{name}#{number}", "".join(piece)
            piece, size, number = [], 0, number + 1
    if size >= 200:
        yield f"{name}#{number}", "".join(piece)
