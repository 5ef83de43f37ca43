"""Lineage: versions, hashes, times, and the recipe as it was run."""

from typing import NamedTuple

from mashbill.report import text
from mashbill.report.records import RunFiles


class Fact(NamedTuple):
    """A name, a value, and the whole value where the shown one is shortened."""

    name: str
    value: str
    whole: str = ""


def section(files: RunFiles) -> dict[str, object]:
    """Return groups of facts, and the recipe verbatim."""
    run = files.run
    versions = [
        Fact(name, value)
        for name, value in (
            ("mashbill", run.mashbill),
            ("torch", run.torch),
            ("transformers", run.transformers),
            ("Python", run.python),
            ("platform", run.platform),
            ("device", run.device),
        )
        if value
    ]
    times = [
        Fact("started", _moment(run.started) or text.NOTHING),
        Fact("finished", _moment(run.finished) or "not finished"),
        Fact("status", run.status),
        Fact("taken up again", text.plural(run.resumes, "time")),
        Fact("training", text.duration(run.train_seconds)),
        Fact("one step", text.duration(run.step_seconds)),
        Fact("asking teachers", text.duration(run.teacher_seconds)),
        Fact("peak memory", f"{text.count(run.peak_memory_mb)} MB" if run.peak_memory_mb is not None else text.NOTHING),
        Fact("seed", str(run.seed) if run.seed is not None else text.NOTHING),
    ]
    data = [
        Fact(name, f"{text.plural(file.rows, 'row')} · {shorten(file.sha256)}", file.sha256)
        for name, file in run.data.items()
    ]
    data += [
        Fact(f"refused by {teacher}", ", ".join(f"{text.plural(n, 'row')} of {name}" for name, n in each.items()))
        for teacher, each in run.refused.items()
    ]
    teachers = [
        Fact(
            each.id,
            " · ".join(part for part in (each.kind, each.source, package, shorten(each.sha256)) if part),
            "; ".join(f"{key}: {value}" for key, value in ({"sha256": each.sha256} | each.others).items() if value),
        )
        for each in run.teachers
        for package in (" ".join(part for part in (each.package, each.version) if part),)
    ]
    student = [
        Fact("kind", run.student.kind or text.NOTHING),
        Fact("parameters", text.count(run.student.n_parameters)),
        Fact("origin", run.student.source or text.NOTHING),
        Fact("recipe", shorten(run.recipe_sha256) or text.NOTHING, run.recipe_sha256),
    ]
    groups = [
        ("Time and place", times),
        ("Versions", versions),
        ("Student", student),
        ("Teachers", teachers),
        ("Data", data),
    ]
    return {"groups": [group for group in groups if group[1]], "recipe": files.recipe}


def _moment(stamp: str | None) -> str:
    return (stamp or "").replace("T", " ").replace("+00:00", " UTC")


def shorten(digest: str) -> str:
    """Return the first twelve characters of a hash.

    >>> shorten("0123456789abcdef")
    '0123456789ab…'
    """
    return digest if len(digest) <= 12 else digest[:12] + "…"
