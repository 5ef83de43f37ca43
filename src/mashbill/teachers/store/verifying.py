"""Whether a store is what was written: every byte hashed again, every row proved, nothing missing, nothing too much."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mashbill.errors import CorruptionError, MashbillError
from mashbill.progress import Progress, Silent
from mashbill.teachers.store.files import Note, read_note, read_shard
from mashbill.teachers.store.finishing import MANIFEST, read_manifest, require_dead_letters
from mashbill.teachers.store.plan import FILE, SHARDS, Plan
from mashbill.teachers.store.sets import is_store, sets_in


@dataclass(frozen=True)
class Health:
    """What was found.

    Attributes:
        n_rows: Rows proved.
        n_positions: Positions proved.
        n_bytes: Bytes hashed.
        missing: Names of shards that were not captured yet.
        problems: One sentence or more for everything that is not what was written.
    """

    n_rows: int
    n_positions: int
    n_bytes: int
    missing: tuple[str, ...]
    problems: tuple[CorruptionError, ...]

    @property
    def is_whole(self) -> bool:
        """Whether everything is there and right."""
        return not self.missing and not self.problems


def verify_all(folder: Path, *, progress: Progress | None = None) -> tuple[dict[Path, Health], list[CorruptionError]]:
    """Read everything in a store, or in all stores of a folder; return what was found in each, and in the folder.

    Raises:
        MashbillError: There is no store.
    """
    if folder.is_file():
        raise MashbillError(f"`{folder}` is a file, not a store", help="give the folder of a store")
    inside, problems = ([folder], []) if is_store(folder) else sets_in(folder)
    found = {}
    for place in inside or ([] if problems else [folder]):
        try:
            found[place] = verify(place, progress=progress)
        except CorruptionError as problem:
            found[place] = Health(0, 0, 0, (), (problem,))
    return found, list(problems)


def verify(folder: Path, *, progress: Progress | None = None) -> Health:
    """Read everything in a store.

    Raises:
        MashbillError: There is no store.
        CorruptionError: Its plan is not what was written, so that nothing else can be proved.
    """
    if is_store(folder) and not (folder / FILE).exists():
        raise CorruptionError(
            f"{FILE} is missing",
            where=str(folder / FILE),
            why="nothing else says whose answers these are, and to which rows",
            help="restore it, or delete the folder and capture its rows again",
        )
    plan, shown = Plan.read(folder), progress or Silent()
    shown.start(len(plan.shards), f"verifying {folder.name}")
    problems, missing, notes = list(_strangers(folder, plan)), [], {}
    n_rows = n_positions = n_bytes = 0
    for shard in plan.shards:
        try:
            note = read_note(folder, plan, shard)
            if note is None:
                missing.append(shard.name)
            else:
                answered = read_shard(folder, plan, shard)
                notes[shard.name] = note
                n_rows, n_positions = n_rows + len(answered.row_ids), n_positions + len(answered.positions)
                n_bytes += note.n_bytes
        except CorruptionError as problem:
            problems.append(problem)
        shown.advance()
    shown.done()
    of_manifest, missing = _against_manifest(folder, plan, notes, missing)
    problems += of_manifest
    return Health(n_rows, n_positions, n_bytes, tuple(missing), tuple(problems))


def _strangers(folder: Path, plan: Plan) -> Sequence[CorruptionError]:
    """Name files that the plan does not: a shard under a wrong name is not where it is looked for."""
    known = {f"{one.name}{ending}" for one in plan.shards for ending in (".parquet", ".json")}
    found = sorted(one.name for one in (folder / SHARDS).iterdir()) if (folder / SHARDS).is_dir() else []
    return [
        CorruptionError(f"`{name}` is no file of this store", where=str(folder / SHARDS / name), help="delete it")
        for name in found
        # Hidden ones are being written, or were when somebody was killed.
        if name not in known and not name.startswith(".")
    ]


def _against_manifest(
    folder: Path, plan: Plan, notes: dict[str, Note], missing: list[str]
) -> tuple[Sequence[CorruptionError], list[str]]:
    """Return what is wrong with the manifest or what it names, and the shards that were never there."""
    file = folder / MANIFEST
    try:
        manifest = read_manifest(folder)
        if manifest is not None:
            require_dead_letters(folder, manifest)
    except CorruptionError as problem:
        return [problem], missing
    if manifest is None:
        help = "run `mashbill capture` again: it has nothing to ask, and writes it"
        return ([] if missing else [CorruptionError("the manifest is missing", where=str(file), help=help)]), missing
    if manifest["store"] != plan.digest:
        return [CorruptionError("the manifest is that of another store", where=str(file), help="delete it")], missing
    shards = manifest["shards"]
    differing = [name for name, note in notes.items() if shards.get(name) != asdict(note)]
    rows = {one.name: one.rows for one in plan.shards}
    return [
        CorruptionError(
            f"shard {name} is missing",
            where=str(folder / SHARDS / f"{name}.parquet"),
            why=f"it holds {rows[name]}; {MANIFEST} says that it was there",
            help="run `mashbill capture` again: it asks for these rows",
        )
        for name in missing
    ] + [
        CorruptionError(
            f"shard {name} is not the one that the manifest names",
            where=str(folder / SHARDS / f"{name}.parquet"),
            why=f"it holds {rows[name]}; its note was changed, or both, or {MANIFEST}",
            help="delete the shard, its note and the manifest, and capture again",
        )
        for name in differing
    ], []
