"""``mashbill capture``: ask teachers once, and keep what they say."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, RecipeArgument, SetOption, open_recipe, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.errors import MashbillError, TeacherError
from mashbill.train.checks import check, check_plugins

if TYPE_CHECKING:
    from mashbill.train.capture import Captured

MOST_REFUSED = 0.5
"""Share of a store's rows that a teacher may refuse before the command fails."""


def capture(  # noqa: PLR0917  # the command line's options, not a call's arguments
    recipe: RecipeArgument,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes, each with teachers of its own; by default as many as cores and memory bear."
        ),
    ] = None,
    ray: Annotated[
        int | None, typer.Option(min=1, help="Actors on a Ray cluster, instead of processes here (extra `ray`).")
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="Which of several machines this is, from 0.")] = 0,
    world: Annotated[int, typer.Option(min=1, help="How many machines there are; each does its share.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Ask about rows again that got no answer.")] = False,
    plugin: PluginOption = None,
    set_: SetOption = None,
) -> Reply:
    """Ask every teacher that has a `store` about all rows, and keep its answers there."""
    if rank >= world:
        raise MashbillError(
            f"--rank {rank} is no machine of --world {world}", help=f"--rank counts from 0 to {world - 1}"
        )
    loaded = open_recipe(recipe, plugin, set_)
    check(loaded, is_captured=False)
    prepare_libraries()
    check_plugins(loaded)
    from mashbill.teachers.store.capturing import Work
    from mashbill.train.capture import capture_recipe

    fill_with = None
    if ray is not None:
        from mashbill.train.on_ray import fill_on_ray, require_ray

        require_ray()
        fill_with = partial(fill_on_ray, n_actors=ray)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    done = capture_recipe(
        loaded,
        work=Work(rank, world),
        workers=workers,
        again=again,
        fill_with=fill_with,
        progress=for_stderr(),
        say=say,
    )
    problems = [_refusing(one) for one in done if one.n_refused > MOST_REFUSED * one.n_rows]
    lines = [line for one in done for line in _lines(one)] + [one.render() for one in problems]
    facts = {"stores": [_facts(one) for one in done], "problems": [one.facts() for one in problems]}
    return Reply(lines, facts, TeacherError.exit_code if problems else 0)


def _refusing(one: "Captured") -> TeacherError:
    return TeacherError(
        f"teacher `{one.teacher}` refused {one.n_refused:,} of {one.n_rows:,} rows of {one.rows}",
        where=str(one.folder / "dead_letters.jsonl"),
        why="a store of refusals teaches nothing",
        help="look at the reasons there; once the teacher is well: mashbill capture RECIPE --again",
    )


def _lines(one: "Captured") -> list[str]:
    plan, facts = one.plan, _facts(one)
    state = "" if one.is_complete else "  (not complete: other machines have the rest)"
    lines = [f"{one.teacher}, {one.rows}: {plan.n_rows:,} rows, {plan.n_positions:,} positions in {one.folder}{state}"]
    if one.kept_mass is None or one.bytes_per_entry is None:
        lines += [f"  no position of {one.n_positions:,} was answered"]
    else:
        lost = "unknown, as the full distribution is" if one.lost is None else f"{one.lost:.2e} nats"
        lines += [
            f"  {facts['bytes_per_position']:.0f} bytes a position, {one.bytes_per_entry:.2f} an entry before "
            f"compression; {100 * one.kept_mass:.2f} % of the mass kept, on {one.n_answered:,} positions that were "
            "answered",
            f"  KL lost to truncation {lost}, on {one.n_measured:,} positions; "
            f"log-probabilities within {plan.layout.error_bound:.1e} nats",
        ]
    if one.n_short:
        why = f"`capture.k` is {plan.layout.k}, or the teacher names no more"
        lines += [f"  {one.n_short:,} positions hold less than `capture.mass`: {why}"]
    if one.n_refused:
        lines += [
            f"  {one.n_refused:,} rows got no answer: see dead_letters.jsonl there; --again asks about them again"
        ]
    return lines + [
        f"  {n:,} answers to rows that are asked about no more are in {folder}: delete it if nobody wants them"
        for folder, n in one.others.items()
    ]


def _facts(one: "Captured") -> dict[str, object]:
    plan = one.plan
    return {
        "teacher": one.teacher,
        "rows": one.rows,
        "folder": one.folder,
        "n_rows": plan.n_rows,
        "n_positions": plan.n_positions,
        "bytes": one.n_bytes,
        "bytes_per_position": one.n_bytes / max(1, one.n_positions),
        "bytes_per_entry": one.bytes_per_entry,
        "n_answered": one.n_answered,
        "kept_mass": one.kept_mass,
        "n_short": one.n_short,
        "kl_lost": one.lost,
        "n_measured": one.n_measured,
        "n_refused": one.n_refused,
        "error_bound": plan.layout.error_bound,
        "is_complete": one.is_complete,
    }
