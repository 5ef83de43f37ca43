"""What is written when a store's last shard is there: the manifest, and the rows that got no answer.

Whoever finds every note writes both, so they follow from the shards alone, and are the same whoever writes them.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mashbill.durable import json_text, sha256_of, sweep, write_text
from mashbill.errors import CorruptionError
from mashbill.teachers.store.claims import Claims
from mashbill.teachers.store.files import Note, read_note, read_refused
from mashbill.teachers.store.plan import FILE, SHARDS, Plan

MANIFEST = "manifest.json"
DEAD_LETTERS = "dead_letters.jsonl"


def finish(folder: Path, plan: Plan) -> bool:
    """Write the manifest if every shard is there, and say whether that is so.

    Raises:
        CorruptionError: A note or a shard with refused rows cannot be read, or the file of a shard with a note is gone.
    """
    with closing(Claims(folder)) as claims, claims.alone():
        return _finish(folder, plan)


def _finish(folder: Path, plan: Plan) -> bool:
    found = {one.name: read_note(folder, plan, one) for one in plan.shards}
    notes = {name: note for name, note in found.items() if note is not None}
    if len(notes) < len(found):
        return False
    letters = None
    if any(note.n_refused for note in notes.values()):
        write_if_new(folder / DEAD_LETTERS, _dead_letters(folder, plan, notes))
        letters = sha256_of(folder / DEAD_LETTERS)
    else:  # rows that were asked about again have got their answers
        (folder / DEAD_LETTERS).unlink(missing_ok=True)
    write_if_new(folder / MANIFEST, json_text(manifest_of(plan, notes, letters)))
    for place, name in ((folder, FILE), (folder, MANIFEST), (folder, DEAD_LETTERS), (folder / SHARDS, "*")):
        sweep(place, name)  # where every shard is there, nobody writes one any more
    return True


def manifest_of(plan: Plan, notes: Mapping[str, Note], letters: str | None) -> dict[str, Any]:
    """Return the content of the manifest: the plan's hash, every note, and the hash of the dead letters, if any."""
    shards = {name: asdict(notes[name]) for name in sorted(notes)}
    return {"store": plan.digest, "dead_letters": letters, "shards": shards}


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return the manifest; None if there is none.

    Raises:
        CorruptionError: It is not what was written.
    """
    file, help = folder / MANIFEST, "delete it, and `mashbill capture` writes it again"
    try:
        text = file.read_text(encoding="utf-8")
        manifest = json.loads(text)
        is_right = json_text(manifest) == text and {"store", "dead_letters", "shards"} == set(manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CorruptionError(f"cannot read the manifest: {error}", where=str(file), help=help) from error
    if not (is_right and isinstance(manifest["shards"], dict)):
        raise CorruptionError("the manifest is not what was written", where=str(file), help=help)
    return manifest


def require_dead_letters(folder: Path, manifest: Mapping[str, Any]) -> None:
    """See that the rows that got no answer are listed as they were.

    Raises:
        CorruptionError: They are not.
    """
    file, wanted = folder / DEAD_LETTERS, manifest["dead_letters"]
    found = sha256_of(file) if file.is_file() else None
    if found != wanted:
        raise CorruptionError(
            f"{DEAD_LETTERS} {'is missing' if found is None else 'is not what was written'}",
            where=str(file),
            why="it lists every row of the store that the teacher could not answer",
            help=f"delete it and {MANIFEST}, and `mashbill capture` writes both again",
        )


def write_if_new(file: Path, text: str) -> None:
    """Write a text unless it is there already."""
    try:
        is_there = file.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        write_text(file, text)


def _dead_letters(folder: Path, plan: Plan, notes: Mapping[str, Note]) -> str:
    each = [read_refused(folder, one) for one in plan.shards if notes[one.name].n_refused]
    refused = [{"row_id": row_id, "reason": reason} for some in each for row_id, reason in some]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in refused)
