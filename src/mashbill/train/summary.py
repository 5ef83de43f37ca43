"""What a run found, in careful words: a line for each evaluation set, and one below it for each comparison."""

from collections.abc import Mapping
from typing import Any


def summary_lines(result: Mapping[str, Any], comparison: Mapping[str, Any] | None = None) -> list[str]:
    """Return, for each evaluation set, the student's line and indented lines that set it beside each teacher and arm.

    Better and worse are said only of paired differences whose interval leaves out zero; everything else is "no clear
    difference".

    Args:
        result: Content of ``result.json``.
        comparison: Content of ``comparison.json``, if there is one.
    """
    lines = []
    for entry in result["entries"]:
        if entry["who"] != "student" or entry["by"] != "all":
            continue
        name = entry["set"]
        facts = [
            _against_word(line, line["second"], result["primary"]) for line in result["paired"] if line["set"] == name
        ]
        if comparison is not None:
            facts += [
                _against_arm_word(line, comparison)
                for line in comparison["against_main"]
                if line["set"] == name and line["by"] == "all"
            ]
        lines += [f"{name}: student {_primary_words(entry, result['primary'])}", *(f"  {fact}" for fact in facts)]
    return lines


def _primary_words(entry: Mapping[str, Any], primary: str) -> str:
    value = entry[primary]
    if value is None:
        return "has no perplexity"
    ends = "" if value["low"] is None or value["high"] is None else f" [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{primary} {value['value']:.4g}{ends}"


def _against_word(line: Mapping[str, Any], second: str, primary: str) -> str:
    who = f"teacher {second.removeprefix('teacher:')}" if second.startswith("teacher:") else "the pooled target"
    measure = "accuracy" if primary == "accuracy" else "loss"
    return _words(line[measure], measure, who, is_clear=None)


def _against_arm_word(line: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    measure = "accuracy" if comparison["primary"] == "accuracy" else "loss"
    found = line[measure]
    words = _words(found["difference"], measure, f"arm {line['arm']}", is_clear=found["is_clear"])
    return f"{words} over {len(comparison['seeds'])} seed(s)"


def _words(found: Mapping[str, Any], measure: str, who: str, *, is_clear: bool | None) -> str:
    low, high, value = found["low"], found["high"], found["value"]
    if is_clear is None:
        is_clear = low is not None and high is not None and (low > 0 or high < 0)
    unit = f"{100 * value:+.2f} points" if measure == "accuracy" else f"{value:+.4f} nats"
    if not is_clear:
        return f"no clear difference from {who} ({unit})"
    is_better = value > 0 if measure == "accuracy" else value < 0
    return f"{'better' if is_better else 'worse'} than {who} ({unit})"
