"""Arms and seeds: the same distillation with parts of the recipe changed, set beside the main run.

An arm of the recipe's ``compare.arms`` names what it changes: each key is a dotted path and its value replaces all
that stands there, so ``weighting: {}`` takes every rule away and leaves uniform weights. Every arm, and the main
recipe, runs with every seed. Teachers are asked once: all runs read the same stored answers.

Two sources of chance are kept apart. Over *seeds*, an arm has a mean, a least and a greatest value. Over *rows*, the
difference to the main run is paired row by row, averaged over seeds, and given an interval. A difference is called one
only if its interval leaves out zero and every seed has the same sign.

Not covered: correction for the number of arms.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mashbill import durable, plugins
from mashbill.errors import MashbillError
from mashbill.progress import Progress, Silent, Titled
from mashbill.train.comparison import MAIN, Run, gather_runs
from mashbill.train.loading import Loaded


@dataclass(frozen=True)
class Job:
    """One run of the comparison.

    Attributes:
        arm: Name of the arm; ``"main"`` is the recipe as it is.
        seed: Seed of the student's first parameters and of the order of rows.
        loaded: The changed recipe.
        directory: Where it runs.
    """

    arm: str
    seed: int
    loaded: Loaded
    directory: Path


def compare(
    loaded: Loaded, *, accept_change: Sequence[str] = (), progress: Progress | None = None, workers: int = 1
) -> dict[str, Any]:
    """Run every arm with every seed, as far as that is not done yet, and write ``comparison.json``.

    Args:
        loaded: The main recipe, with its ``compare`` section.
        accept_change: Keys of the recipe that may differ from those a run began with.
        progress: Told of every run.
        workers: Runs at the same time, each in a process of its own.

    Returns:
        The content of ``comparison.json``.

    Raises:
        MashbillError: The recipe compares nothing, or ``workers`` is not positive.
    """
    if loaded.recipe.compare is None:
        raise MashbillError(
            "the recipe has no `compare` section",
            where=str(loaded.path),
            help="add `compare: {seeds: [0, 1, 2], arms: {uniform: {weighting: {}}}}`",
        )
    if workers < 1:
        raise MashbillError(f"workers={workers} must be at least 1")
    shown = progress or Silent()
    planned = plan(loaded)
    # The first run asks the teachers; those that follow, at the same time or not, find the answers stored.
    accepted = tuple(accept_change)
    _run_all(planned[:1], accepted, shown, workers=1)
    _run_all(planned[1:], accepted, shown, workers=workers)
    result = gather_runs([Run(job.arm, job.seed, job.directory) for job in planned])
    durable.write_json(loaded.resolve(loaded.recipe.output) / "comparison.json", result)
    return result


def plan(loaded: Loaded) -> list[Job]:
    """Return every run of the comparison, the main recipe first.

    The main recipe with its own seed runs in the recipe's output directory: it is the main run, and may be there
    already.

    Raises:
        MashbillError: An arm is called ``main``, changes what makes runs comparable, or is no valid recipe.
    """
    section = loaded.recipe.compare
    if section is None:
        return []
    output = loaded.resolve(loaded.recipe.output).absolute()
    jobs = []
    for arm, changes in {MAIN: {}, **section.arms}.items():
        _require_comparable(arm, changes, loaded)
        for seed in _seeds(loaded):
            is_main_run = arm == MAIN and seed == loaded.recipe.train.seed
            directory = output if is_main_run else output / "arms" / arm / f"seed-{seed}"
            jobs.append(
                Job(arm, seed, _with(loaded, arm, changes, seed, directory, is_main_run=is_main_run), directory)
            )
    return sorted(jobs, key=lambda job: job.directory != output)


def _with(
    loaded: Loaded, arm: str, changes: Mapping[str, Any], seed: int, directory: Path, *, is_main_run: bool
) -> Loaded:
    if is_main_run:
        return loaded
    changed = loaded.with_changes(changes, source=f"compare.arms.{arm}") if changes else loaded
    return changed.with_changes(
        {"train.seed": seed, "output": str(directory), "compare": None}, source=f"compare.arms.{arm}"
    )


def _require_comparable(arm: str, changes: Mapping[str, Any], loaded: Loaded) -> None:
    fixed = [key for key in changes if key.split(".")[0] in ("data", "output", "compare", "version")]
    if arm == MAIN and changes:
        raise MashbillError(
            "an arm cannot be called `main`", where=loaded.where("compare.arms.main"), help="give it another name"
        )
    if fixed:
        raise MashbillError(
            f"an arm cannot change `{fixed[0]}`",
            where=loaded.where(f"compare.arms.{arm}"),
            why="runs on other rows cannot be compared row by row",
            help="write a recipe of its own for it",
        )


def _seeds(loaded: Loaded) -> list[int]:
    section = loaded.recipe.compare
    return sorted(set(section.seeds)) if section and section.seeds else [loaded.recipe.train.seed]


def _run_all(jobs: Sequence[Job], accepted: tuple[str, ...], progress: Progress, *, workers: int) -> None:
    # Runs that have ended before are asked too: the engine looks whether recipe and data are still the same.
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _run(job, accepted, Titled(f"arm {job.arm}, seed {job.seed}", progress))
        return
    # A forked child would inherit the thread pools of torch in whatever state they are; a fresh process does not.
    context = multiprocessing.get_context("spawn")
    progress.start(len(jobs), f"running arms, {workers} at a time")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(plugins.added(),)) as pool:
        waiting, running = list(reversed(jobs)), set()
        while waiting or running:
            # No more than can run: what the pool has taken it starts, also after an error or an interruption.
            running |= {
                pool.submit(_run, waiting.pop(), accepted) for _ in range(min(workers - len(running), len(waiting)))
            }
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                progress.advance()
    progress.done()


def _start(modules: tuple[str, ...]) -> None:
    import torch  # the child process's own first import

    torch.set_num_threads(1)
    for module in modules:
        plugins.add_module(module)


def _run(job: Job, accepted: tuple[str, ...], progress: Progress | None = None) -> None:
    from mashbill.train.run import distill  # setting finished runs side by side needs no training engine

    arms = job.directory.parent.parent
    if arms.name == "arms":
        _share(arms.parent / "teachers", job.directory / "teachers")
    distill(job.loaded, accept_change=accepted, progress=progress)


def _share(place: Path, link: Path) -> None:
    """Let a run use the teachers' answers of the main run: they depend on rows and teachers, not on the arm."""
    place.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(os.path.relpath(place, link.parent), target_is_directory=True)
