"""What a run measured of the things that guarantees bound. Reads JSON files of a run directory; opens no model.

Weights in ``examples.json`` are those of a few rows, rounded to six digits; those in ``records.jsonl`` are means over
rows. Both lie inside a range that holds, and neither proves one.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mashbill.errors import CorruptionError, DataError


@dataclass(frozen=True)
class Measured:
    """One measured number.

    Attributes:
        name: What it is, e.g. ``"least weight"``.
        value: The number.
        unit: ``"probability"`` or ``"nats"``.
        source: The file, and what of it.
    """

    name: str
    value: float
    unit: str
    source: str


def measured(run_dir: Path) -> dict[str, Measured]:
    """Return by name what a run measured; what its files do not hold is left out.

    ``least weight``, ``largest weight``, ``largest deviation`` (of one position's weights from uniform, l1),
    ``mean deviation`` (of a record's mean weights), ``disagreement`` (largest in the records, linear pool),
    ``divergence`` (the last record's, of the recipe's kind), ``kl to TEACHER``, and for each evaluation set
    ``regret on SET`` (log-loss of the pool above that of the best teacher), ``gap on SET`` (of the student above the
    pool), ``critical share on SET``.

    Raises:
        DataError: This is no run directory.
        CorruptionError: A file cannot be read.
    """
    if not (run_dir / "run.json").is_file():
        raise DataError(
            f"run_dir={str(run_dir)!r} has no run.json",
            where=str(run_dir),
            help="give the directory that the recipe names under `output`, after `mashbill distill`",
        )
    found: list[Measured] = []
    for name, read in (("examples.json", _examples), ("records.jsonl", _records), ("result.json", _result)):
        path = run_dir / name
        if path.is_file():
            try:
                found += read(path.read_text(encoding="utf-8"))
            except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
                raise CorruptionError(
                    f"{name} cannot be read", where=str(path), why=f"{type(error).__name__}: {error}"
                ) from None
    return _merged(found)


def _merged(found: list[Measured]) -> dict[str, Measured]:
    """Keep of each name the value nearest to breaking a bound."""
    kept: dict[str, Measured] = {}
    for one in found:
        old = kept.get(one.name)
        if old is None or (one.value < old.value if one.name == "least weight" else one.value > old.value):
            kept[one.name] = one
    return kept


def _weights(rows: list[Mapping[str, float]], source: str, deviation: str) -> Iterator[Measured]:
    values = [[float(w) for w in row.values()] for row in rows if row]
    if values:
        yield Measured("least weight", min(min(row) for row in values), "probability", source)
        yield Measured("largest weight", max(max(row) for row in values), "probability", source)
        apart = max(math.fsum(abs(w - 1 / len(row)) for w in row) for row in values)
        yield Measured(deviation, apart, "probability", source)


def _examples(text: str) -> Iterator[Measured]:
    rows = [row for example in json.loads(text) for row in example["weights"]]
    yield from _weights(rows, f"examples.json, {len(rows)} positions", "largest deviation")


def _records(text: str) -> Iterator[Measured]:
    # A run that was killed may leave half a last line.
    lines = [line for line in text.split("\n")[:-1] if line.strip()]
    steps = [record for record in map(json.loads, lines) if "weights" in record]
    if not steps:
        return
    rows = []
    for step in steps:
        weights = step["weights"]
        rows += [weights.get("all", {}), *weights.get("task", {}).values(), *weights.get("context", {}).values()]
    yield from _weights(rows, f"records.jsonl, means of {len(steps)} steps", "mean deviation")
    last = steps[-1]
    source = f"records.jsonl, step {last['step']}"
    apart = [float(step["disagreement"]) for step in steps if step.get("disagreement") is not None]
    if apart:
        yield Measured("disagreement", max(apart), "nats", f"records.jsonl, largest of {len(apart)} steps")
    if last.get("divergence") is not None:
        yield Measured("divergence", float(last["divergence"]), "nats", source)
    for teacher, distance in last.get("kl_to_teacher", {}).items():
        yield Measured(f"kl to {teacher}", float(distance), "nats", source)


def _result(text: str) -> Iterator[Measured]:
    entries = [entry for entry in json.loads(text)["entries"] if entry["by"] == "all"]
    for name in dict.fromkeys(entry["set"] for entry in entries):
        losses = {
            entry["who"]: float(entry["loss"]["value"])
            for entry in entries
            if entry["set"] == name and entry.get("loss") is not None
        }
        teachers = [loss for who, loss in losses.items() if who.startswith("teacher:")]
        source = f"result.json, {name}"
        if "pool" in losses and teachers:
            yield Measured(f"regret on {name}", losses["pool"] - min(teachers), "nats", source)
        if "pool" in losses and "student" in losses:
            yield Measured(f"gap on {name}", losses["student"] - losses["pool"], "nats", source)
        for entry in entries:
            if entry["set"] == name and entry["who"] == "student" and entry.get("n_critical") and entry["n"]:
                share = entry["n_critical"] / entry["n"]
                yield Measured(f"critical share on {name}", share, "probability", source)
