"""The demo's data, made from installed packages alone.

In domain: the translated interface texts of Django's catalogues, in 48 languages. A message and all its translations
are on one side of the split, so that no test text is a translation of a training text. Under shift: paragraphs of the
Universal Declaration of Human Rights, of another genre and length.

    python -m mashbill_langid.data [DIR]        # default: runs/langid-input
"""

import hashlib
import json
import lzma
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import django
import polib

from mashbill_langid.codes import STUDENT_LABELS, canonical

PLACEHOLDER = re.compile(r"%\([^)]*\)[-#0 +]*\d*(?:\.\d+)?[a-z]|%[a-z%]|\{[^}]*\}|<[^>]+>|&\w+;")
"""Format fields, HTML tags and entities: they say nothing about the language."""

OTHER_SCRIPTS = frozenset({"sr_Latn"})
"""Catalogues in a script that the detectors do not count to the language."""

TASKS = frozenset({"admin", "auth"})
"""Catalogues that are tasks of their own; Django's core is ``core``, all smaller ones are ``contrib``."""

FAMILIES = {
    "LATIN": "latin", "CYRILLIC": "cyrillic", "ARABIC": "rtl", "HEBREW": "rtl",
    "CJK": "cjk", "HIRAGANA": "cjk", "KATAKANA": "cjk", "HANGUL": "cjk",
}  # fmt: skip
"""Families of scripts; all scripts not named here are ``other``."""
DENSE = frozenset({"zh", "ja", "ko"})
"""Languages that say in 10 characters what others say in 20, the least that is taken."""

MOST_OF_ONE_LANGUAGE = 450
"""Texts; regional variants would give some languages three times as many."""

SHORT = 40
"""Characters from which a text is long; half as many in scripts that need fewer."""


@dataclass(frozen=True)
class Row:
    """One text, its language, and where it stands."""

    id: str
    text: str
    label: str
    task: str
    script: str
    length: str


def prepare(
    directory: Path,
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_scorecard: int = 400,
    n_eval: int = 3_000,
    n_shifted: int = 3_000,
) -> dict[str, int]:
    """Write ``train``, ``scorecard``, ``dev``, ``eval_django`` and ``eval_udhr`` as JSON lines, and ``labels.txt``.

    The training file has no labels; the others are labelled. ``dev`` holds the in-domain rows that the scorecard left
    over: settings are chosen on it, so that the test files stay unseen. The same arguments give the same bytes.

    Args:
        directory: Where to; made if it is not there.
        seed: Of the split and of every sample.
        n_train: Training rows, if there are as many.
        n_scorecard: Labelled rows on which teachers are measured, each language of each task equally often as far
            as they go.
        n_eval: In-domain test rows, at most.
        n_shifted: Test rows under shift, at most.

    Returns:
        Rows written, by file name.
    """
    pools: dict[str, list[Row]] = defaultdict(list)
    for message, row in _django_rows(seed):
        pools[_side(message, seed)].append(row)
    measured = _balanced(_shuffled(pools["scorecard"], seed))
    files = {
        "train": _shuffled(pools["train"], seed)[:n_train],
        "scorecard": measured[:n_scorecard],
        "dev": measured[n_scorecard:],
        "eval_django": _shuffled(pools["eval"], seed)[:n_eval],
        "eval_udhr": _shuffled(_udhr_rows(), seed)[:n_shifted],
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        columns = [asdict(row) for row in rows]
        if name == "train":
            columns = [{key: value for key, value in one.items() if key != "label"} for one in columns]
        lines = [json.dumps(one, ensure_ascii=False) for one in columns]
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "labels.txt").write_text("\n".join(STUDENT_LABELS) + "\n", encoding="utf-8")
    return {name: len(rows) for name, rows in files.items()}


def script_of(text: str) -> str:
    """Return the family of the script that most letters belong to.

    >>> script_of("Привет"), script_of("שלום"), script_of("日本語"), script_of("Γειά"), script_of("42")
    ('cyrillic', 'rtl', 'cjk', 'other', 'other')
    """
    families = Counter(_family(character) for character in text if character.isalpha())
    return families.most_common(1)[0][0] if families else "other"


@cache
def _family(letter: str) -> str:
    return FAMILIES.get(unicodedata.name(letter, "?").split()[0], "other")


def length_of(text: str, script: str) -> str:
    """Return ``short`` or ``long``, by what that script makes of a text.

    >>> length_of("Einstellungen", "latin"), length_of("这个字段的长度不能超过一百个字符请重新输入", "cjk")
    ('short', 'long')
    """
    return "short" if len(text) < (SHORT // 2 if script == "cjk" else SHORT) else "long"


def cleaned(text: str) -> str:
    """Return the text without format fields and tags, its white space made one.

    >>> cleaned("Select %(name)s <b>to</b>  change")
    'Select to change'
    """
    return " ".join(PLACEHOLDER.sub(" ", text).split())


def _row(text: str, label: str, task: str) -> Row:
    number = hashlib.sha256(text.encode()).hexdigest()[:10]
    script = script_of(text)
    return Row(f"{task}-{number}", text, label, task, script, length_of(text, script))


def _django_rows(seed: int) -> Iterator[tuple[str, Row]]:
    """Yield message and row; a text that two languages share is nobody's, and no language has too many."""
    found: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for language, task, message, text in _translations():
        if len(text) >= (10 if language in DENSE else 20):
            found[language].setdefault(text, (message, task))
    owners = Counter(text for texts in found.values() for text in texts)
    for language in STUDENT_LABELS:
        own = [text for text in found[language] if owners[text] == 1]
        for text in _shuffled(own, seed)[:MOST_OF_ONE_LANGUAGE]:
            message, task = found[language][text]
            yield message, _row(text, language, task)


@cache
def _translations() -> list[tuple[str, str, str, str]]:
    """Return language, task, message and cleaned text from every catalogue; English is the messages themselves."""
    found = []
    for path in sorted(Path(django.__file__).parent.glob("**/locale/*/LC_MESSAGES/django*.po")):
        locale, package = path.parts[-3], path.parts[-5]
        language = canonical(locale)
        if language not in STUDENT_LABELS or locale in OTHER_SCRIPTS:
            continue
        task = "core" if package == "conf" else package if package in TASKS else "contrib"
        for entry in polib.pofile(str(path)):
            if locale == "en":
                found.append((language, task, entry.msgid, cleaned(entry.msgid)))
            elif entry.translated():
                texts = [entry.msgstr, *entry.msgstr_plural.values()]
                found += [(language, task, entry.msgid, cleaned(text)) for text in texts if text != entry.msgid]
    return found


def _udhr_rows() -> Iterator[Row]:
    packed = Path(__file__).parent / "udhr" / "udhr.jsonl.xz"
    seen = set()
    for line in lzma.decompress(packed.read_bytes()).decode("utf-8").splitlines():
        language, _, text = json.loads(line)
        if len(text) >= (10 if language in DENSE else 20) and text not in seen:
            seen.add(text)
            yield _row(text, language, "declaration")


def _side(message: str, seed: int) -> str:
    share = _hash(message, seed) / 2**64
    return "eval" if share < 0.22 else "scorecard" if share < 0.33 else "train"


def _shuffled(things: Iterable[Any], seed: int) -> list[Any]:
    return sorted(things, key=lambda thing: _hash(getattr(thing, "text", thing), seed))


def _balanced(rows: list[Row]) -> list[Row]:
    """Order rows so that every start of the list has each language of each task equally often, as far as they go."""
    turn: Counter[tuple[str, str]] = Counter()
    turns = []
    for place, row in enumerate(rows):
        turn[row.task, row.label] += 1
        turns.append((turn[row.task, row.label], place, row))
    return [row for _, _, row in sorted(turns, key=lambda one: one[:2])]


def _hash(text: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8], "big")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/langid-input"))
