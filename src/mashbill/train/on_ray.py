"""Stores filled by the actors of a Ray cluster, through Ray Data (extra ``ray``).

Ray decides who does which shard, and gives it to another actor when one dies. That is all it does: a shard is asked
about and written as everywhere, so the store has the bytes of one local worker. When an actor dies after it has written
a shard and before it has said so, another is sent to that shard and finds it there. Actors and the driver share the
disk with the stores, and the packages that are installed.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from mashbill import errors, plugins
from mashbill.errors import MashbillError
from mashbill.progress import Progress
from mashbill.teachers.store.capturing import Ask, Work, capture_shard
from mashbill.train.filling import Task, ask_of, askable_teachers
from mashbill.train.loading import Loaded
from mashbill.train.students import build_student

BLOCKS = 16
"""Pieces of work an actor gets on the average: what one actor has and another waits for is small."""


def require_ray() -> None:
    """Refuse to go on without the package.

    Raises:
        MashbillError: It is not installed.
    """
    if find_spec("ray") is None:
        raise MashbillError("a cluster needs the package `ray`", help="pip install 'mashbill[ray]'")


def fill_on_ray(
    loaded: Loaded,
    tasks: Sequence[Task],
    work: Work,
    progress: Progress,
    *,
    n_actors: int,
    remote: Mapping[str, Any] | None = None,
) -> None:
    """Fill stores whose questions are laid down with ``n_actors`` actors, each with teachers of its own.

    Uses the cluster that this process is connected to, or the one that ``RAY_ADDRESS`` names, or else starts one here.

    Args:
        loaded: The recipe.
        tasks: The stores.
        work: Which shards are to be done.
        progress: Shown the pace of the work.
        n_actors: How many actors there are; one that dies is replaced.
        remote: What an actor asks of the cluster, as ``ray.remote`` takes it, instead of what the recipe implies.

    Raises:
        MashbillError: What stopped an actor. What is there is kept.
    """
    require_ray()
    import ray.data  # pyright: ignore[reportMissingImports]  # an extra

    items = [{"task": n, "shard": one.number} for n, task in enumerate(tasks) for one in task.left(work)]
    progress.start(
        sum(one.n_positions for task in tasks for one in task.left(work)), f"capturing with {n_actors} actors"
    )
    with _connected(ray):
        ray.data.DataContext.get_current().enable_progress_bars = False
        done = ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS * n_actors)).map_batches(
            Actor,
            fn_constructor_args=(loaded, tuple(tasks), plugins.added()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=n_actors),
            **(needs_of(loaded, tasks) if remote is None else remote),
        )
        for row in done.iter_rows():
            if row["error"]:
                kind, facts = json.loads(row["error"])
                raise getattr(errors, kind, MashbillError)(**facts)
            progress.advance(row["n_positions"])
    progress.done()


def needs_of(loaded: Loaded, tasks: Sequence[Task]) -> dict[str, float]:
    """Return what an actor asks of the cluster: the recipe's threads, and a GPU if a teacher is to run on one."""
    specs = [loaded.recipe.teachers[task.number] for task in tasks]
    needs = {"num_cpus": float(loaded.recipe.capture.threads)}
    if any(one.device.startswith("cuda") or one.device_map is not None or one.engine == "vllm" for one in specs):
        needs["num_gpus"] = 1.0
    return needs


class Actor:
    """One worker of the cluster: opens the teachers once, and then does the shards that it is given.

    Args:
        loaded: The recipe.
        tasks: The stores.
        modules: Plug-ins that the driver has been given.
    """

    def __init__(self, loaded: Loaded, tasks: Sequence[Task], modules: Sequence[str]) -> None:
        self._tasks, self._error = tasks, ""
        self._asks: dict[int, Ask] = {}
        torch.set_num_threads(loaded.recipe.capture.threads)
        try:
            for module in modules:
                plugins.add_module(module)
            student = build_student(loaded.recipe.student, loaded.path.parent, loaded.recipe.train.seed)
            self._teachers = askable_teachers(loaded, student)
        except MashbillError as error:  # an actor that does not start is started again and again
            self._error = _told(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do some shards, and return how many positions each had, and what stopped it, if anything did."""
        each = [self._do(int(task), int(shard)) for task, shard in zip(batch["task"], batch["shard"], strict=True)]
        return {"n_positions": np.array([n for n, _ in each]), "error": np.array([text for _, text in each])}

    def _do(self, number: int, shard_number: int) -> tuple[int, str]:
        task = self._tasks[number]
        shard = task.plan.shards[shard_number]
        if self._error:
            return 0, self._error
        try:
            if number not in self._asks:
                self._asks[number] = ask_of(task, self._teachers[task.number])
            capture_shard(task.folder, task.plan, shard, self._asks[number])
        except MashbillError as error:
            return 0, _told(error)
        return shard.n_positions, ""


def _told(error: MashbillError) -> str:
    facts = error.facts()
    kind = type(error).__name__ if "what" in facts else "MashbillError"
    return json.dumps([kind, facts if "what" in facts else {"what": str(error)}])


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Be connected to a cluster for a while; one that was started here ends here."""
    was = ray.is_initialized()
    for handler in logging.getLogger("ray.data").handlers:  # its own file keeps all of it
        if handler.name == "console":
            handler.setLevel(logging.ERROR)
    if not was:
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        yield
    finally:
        if not was:
            ray.shutdown()
