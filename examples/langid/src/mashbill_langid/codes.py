"""One name for each language, whatever a detector calls it.

The scheme is ISO 639-1 where there is a two-letter code. Different scripts and regions of one written language are one
language here: ``zh-Hans`` and ``zh-Hant`` are ``zh``, ``sr-ME`` is ``sr``, ``hi-Latn`` is ``hi``. Norwegian without
further word is Bokmål: ``no`` is ``nb``; Nynorsk stays ``nn``.
"""

from collections.abc import Iterable

RENAMED = {"iw": "he", "jw": "jv", "in": "id", "ji": "yi", "mo": "ro", "no": "nb", "fil": "tl", "ckb": "ku"}
"""Withdrawn or coarser codes that detectors still use, and what they are called here."""

NOT_A_LANGUAGE = frozenset({"un", "und", "xxx", "zxx", "mul"})
"""Codes that say "I do not know" or "this is no language"."""

_STUDENT = """
af ar az be bg ca cs da de el en es et eu fa fi fr gl he hr hu hy id is it ja ka ko lt lv mk ml ms nb nl pl pt ro ru sk
sl sq sr sv tr uk vi zh
"""
STUDENT_LABELS = tuple(_STUDENT.split())
"""The languages that the student learns."""


def canonical(code: str) -> str:
    """Return the one name for a detector's code.

    >>> canonical("iw"), canonical("zh-Hant"), canonical("NB")
    ('he', 'zh', 'nb')
    """
    base = code.lower().replace("_", "-").split("-")[0]
    return RENAMED.get(base, base)


def merged(pairs: Iterable[tuple[str, float]], *, least: float = 0.0) -> dict[str, float]:
    """Add up the mass of codes that mean one language; keep what is above ``least``.

    A detector's zero is an underflow or a rule of thumb about scripts, no knowledge: such languages are left unlisted.

    >>> merged([("zh-Hans", 0.5), ("zh-Hant", 0.25), ("de", 0.0)])
    {'zh': 0.75}
    """
    total: dict[str, float] = {}
    for code, value in pairs:
        name = canonical(code)
        if name not in NOT_A_LANGUAGE:
            total[name] = total.get(name, 0.0) + value
    return {name: value for name, value in total.items() if value > least}
