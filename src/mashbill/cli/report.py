"""``mashbill report``: the page of a run."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from mashbill.cli.recipes import require_no_folder
from mashbill.cli.reply import Reply

RunArgument = Annotated[Path, typer.Argument(help="The run's folder, the recipe's output.", show_default=False)]


def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option(help="Where to write; report.html in the run if left out.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> Reply:
    """Write the report of a run: one HTML file that needs no network."""
    require_no_folder(output)
    from mashbill.report.page import write_report

    page = write_report(run, output=output)
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    return Reply([f"report: {page}"], {"report": page})
