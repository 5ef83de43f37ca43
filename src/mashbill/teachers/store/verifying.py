"""Whether a store is what was written: every byte hashed again, every row proved, nothing missing, nothing too much."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mashbill.errors import CorruptionError
from mashbill.progress import Progress, Silent
from mashbill.teachers.store.files import Note, path_of, read_note, read_shard
from mashbill.teachers.store.finishing import MANIFEST, read_manifest, require_dead_letters
from mashbill.teachers.store.plan import SHARDS, Plan


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


def verify(folder: Path, *, progress: Progress | None = None) -> Health:
    """Read everything in a store.

    Raises:
        MashbillError: There is no store.
        CorruptionError: Its plan is not what was written, so that nothing else can be proved.
    """
    plan, shown = Plan.read(folder), progress or Silent()
    shown.start(len(plan.shards), f"verifying {folder.name}")
    problems, missing, notes = list(_strangers(folder, plan)), [], {}
    n_rows = n_positions = n_bytes = 0
    for shard in plan.shards:
        try:
            note = read_note(folder, plan, shard)
            if note is None and not path_of(folder, shard).exists():
                missing.append(shard.name)
            else:
                answered = read_shard(folder, plan, shard)
                assert note is not None, "what has none cannot be read"
                notes[shard.name] = note
                n_rows, n_positions = n_rows + len(answered.row_ids), n_positions + len(answered.positions)
                n_bytes += note.n_bytes
        except CorruptionError as problem:
            problems.append(problem)
        shown.advance()
    shown.done()
    problems += _manifest_problems(folder, plan, notes, is_whole=not missing)
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


def _manifest_problems(
    folder: Path, plan: Plan, notes: dict[str, Note], *, is_whole: bool
) -> Sequence[CorruptionError]:
    file = folder / MANIFEST
    try:
        manifest = read_manifest(folder)
        if manifest is not None:
            require_dead_letters(folder, manifest)
    except CorruptionError as problem:
        return [problem]
    if manifest is None:
        help = "run `mashbill capture` again: it has nothing to ask, and writes it"
        return [CorruptionError("the manifest is missing", where=str(file), help=help)] if is_whole else []
    if manifest["store"] != plan.digest:
        return [CorruptionError("the manifest is that of another store", where=str(file), help="delete it")]
    shards = manifest["shards"]
    differing = [name for name, note in notes.items() if shards.get(name) != asdict(note)]
    rows = {one.name: one.rows for one in plan.shards}
    return [
        CorruptionError(
            f"shard {name} is not the one that the manifest names",
            where=str(folder / SHARDS / f"{name}.parquet"),
            why=f"it holds {rows[name]}; its note was changed, or both, or {MANIFEST}",
            help="delete the shard, its note and the manifest, and capture again",
        )
        for name in differing
    ]
