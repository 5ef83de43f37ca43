"""Workers on one machine that fill stores together, each a process with teachers of its own.

They speak to nobody: which shard is whose is settled by claims, and a worker that dies leaves its shard to the others.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import torch

from mashbill import errors, plugins
from mashbill.errors import MashbillError
from mashbill.progress import Progress
from mashbill.teachers.placing import free_in_memory
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.capturing import Work
from mashbill.train import recipe
from mashbill.train.filling import Task, askable_teachers, fill
from mashbill.train.loading import Loaded
from mashbill.train.local_models import model_path
from mashbill.train.students import build_student

ROOM = 2**30
"""Bytes that a worker takes beside its teacher's weights."""


def usual_workers(loaded: Loaded, tasks: Sequence[Task], work: Work) -> int:
    """Return how many workers there should be: as many as cores and memory bear and as have something to do.

    One, where a teacher is not on this machine's processor, or in an engine: those are shared by all who ask.
    """
    specs = [loaded.recipe.teachers[task.number] for task in tasks]
    shared = (one.endpoint is not None or one.engine != "transformers" for one in specs)
    if any(shared) or any(one.device != "cpu" or one.device_map is not None for one in specs):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    largest = max((_weight_bytes(loaded, one) for one in specs), default=0)
    # Twice the file: weights kept in 16 bits are opened in 32.
    free = free_in_memory()
    by_memory = cores if free is None else free // (ROOM + 2 * largest)
    n_shards = sum(len(task.left(work)) for task in tasks)
    return max(1, min(cores // loaded.recipe.capture.threads, by_memory, n_shards))


def require_one_who_asks(loaded: Loaded, n_workers: int | None) -> None:
    """Refuse several workers at one endpoint, whose limits hold within a process.

    Raises:
        MashbillError: There are several, and a teacher is an endpoint.
    """
    asked = [one.id for one in loaded.recipe.teachers if one.endpoint is not None and one.store is not None]
    if asked and n_workers is not None and n_workers > 1:
        raise MashbillError(
            f"--workers {n_workers}: teacher `{asked[0]}` is an endpoint, which one process asks",
            why="each would have `concurrency` requests under way, and a budget and a Retry-After of its own",
            help="leave out --workers, and set `concurrency` to the requests that the endpoint bears",
        )


def fill_together(
    loaded: Loaded,
    tasks: Sequence[Task],
    teachers: Mapping[int, Teacher],
    work: Work,
    *,
    n_workers: int,
    progress: Progress,
    say: Callable[[str], object] = lambda _: None,
) -> None:
    """Fill stores with this process and ``n_workers - 1`` others.

    Raises:
        MashbillError: What stopped this process or one of the others; all others end too, and what is there is kept.
    """
    helpers = _Helpers(loaded, tasks, work, n=n_workers - 1, say=say)
    try:
        fill(tasks, teachers, work, progress=progress, go_on=helpers.are_well)
        helpers.wait()
    finally:
        helpers.end()


class _Helpers:
    """The other processes, and what the first of them that failed has said."""

    def __init__(
        self, loaded: Loaded, tasks: Sequence[Task], work: Work, *, n: int, say: Callable[[str], object]
    ) -> None:
        self._say = say
        self._each: list[tuple[SpawnProcess, Connection]] = []
        self._error: MashbillError | None = None
        context = multiprocessing.get_context("spawn")
        for _ in range(n):
            mine, theirs = context.Pipe(duplex=False)
            one = context.Process(target=_help, args=(loaded, tuple(tasks), work, plugins.added(), theirs), daemon=True)
            one.start()
            theirs.close()
            self._each.append((one, mine))

    def are_well(self) -> bool:
        """Say whether none has failed. One that is done, or was killed, has not: the others do its work."""
        for one, pipe in self._each:
            if not pipe.closed and pipe.poll():
                self._hear(one, pipe)
        return self._error is None

    def wait(self) -> None:
        """Wait until all are done.

        Raises:
            MashbillError: What one of them failed with.
        """
        for one, pipe in self._each:
            if not pipe.closed:
                self._hear(one, pipe)
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End those that are still at work; shards that are there are whole."""
        for one, _ in self._each:
            one.terminate()
            one.join()

    def _hear(self, one: SpawnProcess, pipe: Connection) -> None:
        try:
            kind, facts = pipe.recv()
            self._error = self._error or getattr(errors, kind, MashbillError)(**facts)
        except EOFError:
            one.join()
            if one.exitcode is not None and one.exitcode < 0:
                self._say(f"a worker was killed by signal {-one.exitcode}, perhaps for memory; the others do its work")
        finally:
            pipe.close()


def _help(loaded: Loaded, tasks: tuple[Task, ...], work: Work, modules: Sequence[str], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process is told, and ends it
    torch.set_num_threads(loaded.recipe.capture.threads)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a helper is started by somebody"
    try:
        for module in modules:
            plugins.add_module(module)
        student = build_student(loaded.recipe.student, loaded.path.parent, loaded.recipe.train.seed)
        fill(tasks, askable_teachers(loaded, student), work, go_on=parent.is_alive)
    except MashbillError as error:
        facts = error.facts() if "what" in error.facts() else {"what": str(error)}
        pipe.send((type(error).__name__ if "what" in error.facts() else "MashbillError", facts))
        raise SystemExit(1) from error
    except Exception as error:
        pipe.send(("MashbillError", {"what": f"a worker failed: {type(error).__name__}: {error}"}))
        raise SystemExit(1) from error


def _weight_bytes(loaded: Loaded, spec: recipe.Teacher) -> int:
    folder = None if spec.model is None else model_path(spec, loaded.path.parent, is_download_allowed=False)
    if folder is None:
        return 0
    files = [file for ending in ("*.safetensors", "*.gguf") for file in folder.glob(ending)]
    return sum(file.stat().st_size for file in files)
