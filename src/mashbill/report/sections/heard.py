"""How much of each teacher was heard: silent positions, tokens that it does not share, text alone."""

from mashbill.report import text
from mashbill.report.records import RunFiles
from mashbill.report.schema import TeacherHeard
from mashbill.report.text import Shown, Table

NOTES = {
    "mapped": "reads in tokens of its own: mass on tokens that the student lacks counts as mass of unknown place",
    "samples": "text only: its distributions are counts of samples, and how sure it is is not known",
    "tail": "lists with a tail, softened: what the tail weighs then is known as an interval alone, which bounds what a "
    "linear pool is off by at a temperature above 1, and not what a log-linear pool is",
}


def table(files: RunFiles) -> Table | None:
    """Return a line for each teacher that was not heard in full, or None if all were."""
    told = {name: heard for name, heard in files.run.heard.items() if heard.is_partial}
    if not told:
        return None
    head = (
        "Teacher",
        "Positions answered",
        "Mass kept",
        "Mass on shared tokens",
        "Samples each",
        "Softened tail",
    )
    rows = tuple(_row(name, heard) for name, heard in told.items())
    return Table("How much of each teacher was heard", head, rows, teachers_in="text")


def notes(files: RunFiles) -> list[str]:
    """Return a sentence for each teacher that was heard in another way than most."""
    return [
        f"{name}: {_note(kind, heard)}."
        for name, heard in files.run.heard.items()
        for kind in NOTES
        if getattr(heard, kind) is not None
    ]


def _row(name: str, heard: TeacherHeard) -> tuple[Shown, ...]:
    samples = Shown(text.NOTHING)
    if heard.samples is not None:
        samples = Shown(f"{heard.samples:.1f}", f"{text.percent(heard.single, 0)} have one")
    tail = Shown(text.NOTHING)
    if heard.tail is not None:
        tail = Shown(f"{text.percent(heard.tail[0])} to {text.percent(heard.tail[1])}")
    mapped = Shown(text.NOTHING if heard.mapped is None else text.percent(heard.mapped))
    return (
        Shown(name),
        Shown(text.percent(heard.answered)),
        Shown(text.percent(heard.kept)),
        mapped,
        samples,
        tail,
    )


def _note(kind: str, heard: TeacherHeard) -> str:
    if kind == "samples" and heard.error is not None:
        return (
            f"{NOTES[kind]}; they are off by at most {heard.error:.2f} on average, in l1, where 2 is the most there is"
        )
    return NOTES[kind]
