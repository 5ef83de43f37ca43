"""``mashbill capture``: ask teachers once, and keep what they say."""

from typing import TYPE_CHECKING, Annotated

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, RecipeArgument, SetOption, open_recipe, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.errors import MashbillError
from mashbill.train.checks import check, check_plugins

if TYPE_CHECKING:
    from mashbill.train.capture import Captured


def capture(
    recipe: RecipeArgument,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each opens the teachers for itself.")] = 1,
    shards: Annotated[
        str, typer.Option(metavar="RANK/WORLD", help="Do only this machine's share, as in 0/8; all must do theirs.")
    ] = "0/1",
    plugin: PluginOption = None,
    set_: SetOption = None,
) -> Reply:
    """Ask every teacher that has a `store` about all rows, and keep its answers there."""
    rank, world = _share(shards)
    loaded = open_recipe(recipe, plugin, set_)
    check(loaded, is_captured=False)
    prepare_libraries()
    check_plugins(loaded)
    from mashbill.teachers.store.capturing import Work
    from mashbill.train.capture import capture_recipe

    done = capture_recipe(loaded, work=Work(rank, world), workers=workers, progress=for_stderr())
    return Reply([line for one in done for line in _lines(one)], {"stores": [_facts(one) for one in done]})


def _share(text: str) -> tuple[int, int]:
    rank, _, world = text.partition("/")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise MashbillError(
            f"--shards {text} is no share",
            why="RANK counts machines from 0, WORLD is how many there are",
            help="--shards 0/8",
        )
    return int(rank), int(world)


def _lines(one: "Captured") -> list[str]:
    plan, facts = one.plan, _facts(one)
    lost = "unknown, since the teacher's own entropy is" if one.lost is None else f"{one.lost:.2e} nats"
    state = "" if one.is_complete else "  (not complete: other machines have the rest)"
    return [
        f"{one.teacher}, {one.rows}: {plan.n_rows:,} rows, {plan.n_positions:,} positions in {one.folder}{state}",
        f"  {facts['bytes_per_position']:.0f} bytes a position, {one.bytes_per_entry:.2f} an entry before compression; "
        f"{100 * one.kept_mass:.2f} % of the mass kept; KL lost {lost}; "
        f"log-probabilities within {plan.layout.error_bound:.1e} nats",
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
        "bytes_per_position": one.n_bytes / max(1, plan.n_positions),
        "bytes_per_entry": one.bytes_per_entry,
        "kept_mass": one.kept_mass,
        "kl_lost": one.lost,
        "error_bound": plan.layout.error_bound,
        "is_complete": one.is_complete,
    }
