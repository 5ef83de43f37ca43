"""``mashbill verify``: whether a store is what was written."""

from pathlib import Path
from typing import Annotated

import typer

from mashbill.cli.progress import for_stderr
from mashbill.cli.reply import Reply
from mashbill.errors import CorruptionError, MashbillError


def verify(store: Annotated[Path, typer.Argument(help="A store, or a folder of stores.", show_default=False)]) -> Reply:
    """Read every byte of a store, and say whether it is what was written."""
    from mashbill.teachers.store.plan import FILE
    from mashbill.teachers.store.verifying import verify as verify_store

    inside = sorted(one.parent for one in store.glob(f"*/{FILE}")) or [store]
    found = {place: verify_store(place, progress=for_stderr()) for place in inside}
    lines = []
    for place, health in found.items():
        lines.append(f"{place}: {health.n_rows:,} rows, {health.n_positions:,} positions, {health.n_bytes:,} bytes proved")
        lines += [problem.render() for problem in health.problems]
        if health.missing:
            lines.append(f"  not captured yet: {len(health.missing)} shard(s), the first {health.missing[0]}")
    values = {
        "stores": [
            {
                "folder": place,
                "rows": health.n_rows,
                "positions": health.n_positions,
                "bytes": health.n_bytes,
                "missing": list(health.missing),
                "problems": [problem.facts() for problem in health.problems],
            }
            for place, health in found.items()
        ]
    }
    is_damaged = any(health.problems for health in found.values())
    is_incomplete = any(health.missing for health in found.values())
    code = CorruptionError.exit_code if is_damaged else MashbillError.exit_code if is_incomplete else 0
    return Reply(lines, values, code)
