"""Finished runs set side by side: what differs over seeds, and what over rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from mashbill.errors import CorruptionError, MashbillError
from mashbill.train import intervals

MAIN = "main"
Columns = dict[str, np.ndarray]
"""A student's totals by row: ``n`` positions, ``nll`` in nats, ``n_correct``."""


@dataclass(frozen=True)
class Run:
    """One finished run: which arm, which seed, and where its files are."""

    arm: str
    seed: int
    directory: Path


def gather_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Read the results of finished runs and set them side by side: the content of ``comparison.json``."""
    runs = sorted(runs, key=lambda run: run.arm != MAIN)
    results = {(run.arm, run.seed): read_json(run.directory / "result.json") for run in runs}
    arms: dict[str, dict[str, Any]] = {}
    for run in runs:
        arms.setdefault(run.arm, {})[str(run.seed)] = {
            "entries": [
                {**entry, "reliability": []}
                for entry in results[run.arm, run.seed]["entries"]
                if entry["who"] == "student" and entry["by"] in ("all", "task")
            ],
            "train_seconds": read_json(run.directory / "run.json").get("train_seconds"),
            "n_tokens": _n_tokens(run.directory),
        }
    first = results[runs[0].arm, runs[0].seed]
    return {
        "seeds": sorted({run.seed for run in runs}),
        "primary": first["primary"],
        "confidence": first["confidence"],
        "arms": arms,
        "over_seeds": list(_over_seeds(arms)),
        "against_main": list(_against_main(runs, confidence=first["confidence"])),
    }


def _over_seeds(arms: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield mean, least and greatest over seeds of every arm, set and task."""
    for arm, runs in arms.items():
        found: dict[tuple[str, str, str, str], list[float]] = {}
        for run in runs.values():
            for entry in run["entries"]:
                for measure in ("accuracy", "loss", "perplexity", "safety"):
                    if entry.get(measure):
                        key = (entry["set"], entry["by"], entry["name"], measure)
                        found.setdefault(key, []).append(entry[measure]["value"])
        for (name, by, group, measure), values in found.items():
            yield {
                "arm": arm,
                "set": name,
                "by": by,
                "name": group,
                "measure": measure,
                "n_seeds": len(values),
                "mean": float(np.mean(values)),
                "least": min(values),
                "greatest": max(values),
            }


def _against_main(runs: Sequence[Run], *, confidence: float) -> Iterator[dict[str, Any]]:
    """Yield main minus arm, paired by row and averaged over seeds, with the sign at each seed."""
    outcomes = {(run.arm, run.seed): _read_outcomes(run.directory / "outcomes.safetensors") for run in runs}
    seeds = sorted({run.seed for run in runs})
    for arm in dict.fromkeys(run.arm for run in runs if run.arm != MAIN):
        pairs = [(outcomes[MAIN, seed], outcomes[arm, seed]) for seed in seeds]
        for group in pairs[0][0]:
            # Labels do not change between arms, so the same rows and positions were marked in every run.
            main = [one[group] for one, _ in pairs]
            other = [two[group] for _, two in pairs]
            yield {"arm": arm, "set": group[0], "by": group[1], "name": group[2]} | {
                "accuracy": _difference(main, other, "n_correct", confidence),
                "loss": _difference(main, other, "nll", confidence),
            }


def _difference(main: Sequence[Columns], other: Sequence[Columns], column: str, confidence: float) -> dict[str, Any]:
    ours, theirs = [each[column] for each in main], [each[column] for each in other]
    interval = intervals.paired_proportion if column == "n_correct" else intervals.paired_difference
    found = interval(np.mean(ours, axis=0), np.mean(theirs, axis=0), main[0]["n"], confidence=confidence)
    signs = [int(np.sign(one.sum() - two.sum())) for one, two in zip(ours, theirs, strict=True)]
    is_clear = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return {
        "difference": vars(found).copy(),
        "signs": signs,
        "is_clear": is_clear and len(set(signs)) == 1,
    }


def _read_outcomes(path: Path) -> dict[tuple[str, str, str], Columns]:
    """Return the student's totals by row, for each whole set and each of its tasks."""
    found: dict[tuple[str, str, str], Columns] = {}
    with safe_open(str(path), framework="numpy") as file:
        for name, tasks in json.loads(file.metadata()["tasks"]).items():
            columns = {key: file.get_tensor(f"{name}/{key}") for key in ("n", "nll", "n_correct")}
            task = file.get_tensor(f"{name}/task")
            if not task.size:
                continue
            found[name, "all", "all"] = columns
            for place, group in enumerate(tasks):
                if (task == place).any():
                    found[name, "task", group] = {key: values[task == place] for key, values in columns.items()}
    return found


def _n_tokens(directory: Path) -> int | None:
    path = directory / "records.jsonl"
    counts = [json.loads(line).get("n_tokens") for line in path.read_text().splitlines()] if path.exists() else []
    return max((count for count in counts if count is not None), default=None)


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a run's JSON files.

    Raises:
        MashbillError: It is not there.
        CorruptionError: It is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MashbillError(
            "a run of the comparison has no result", where=str(path), help="run the comparison again: it goes on"
        ) from error
    except ValueError as error:
        raise CorruptionError(
            "a result cannot be read", where=str(path), help="remove that run and compare again"
        ) from error
