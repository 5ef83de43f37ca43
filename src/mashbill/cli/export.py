"""``mashbill export``: the student of a run as a folder of its own."""

from pathlib import Path
from typing import Annotated

import typer

from mashbill.cli.recipes import prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.cli.report import RunArgument


def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="The folder to write; made if it does not exist.", show_default=False)],
) -> Reply:
    """Write the student of a run, with its card, as a folder that other tools load."""
    prepare_libraries()
    from mashbill.train.export import export as write_student

    files = write_student(run, to)
    return Reply([f"exported to {to}", *(f"  {file.name}" for file in files)], {"folder": to, "files": files})
