"""The command: finds out what was asked, answers once, and turns every failure into one clear text.

Nothing here or in a command's module imports torch; a command that needs it imports it when it runs.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import mashbill
from mashbill.cli import audit, capture, distill, doctor, export, import_, init, report, scorecard, validate, verify
from mashbill.cli.reply import Reply, show, show_error
from mashbill.errors import MashbillError

EVERYWHERE = "Everywhere: --json prints one JSON object on standard output, --debug shows tracebacks."

app = typer.Typer(
    name="mashbill",
    help="Distil several teachers into one student, with weights that are checked, bounded and ordered by safety.",
    epilog=EVERYWHERE,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    init.init,
    doctor.doctor,
    validate.validate,
    scorecard.scorecard,
    capture.capture,
    verify.verify,
    import_.import_,
    distill.distill,
    report.report,
    export.export,
    audit.audit,
)
for _command in COMMANDS:
    app.command(_command.__name__.rstrip("_"), epilog=EVERYWHERE)(_command)


def _version(is_wanted: bool) -> bool:
    if is_wanted:
        print(mashbill.__version__)
        raise typer.Exit
    return is_wanted


@app.callback()
def _global(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Declare for the help text what :func:`main` has taken out of the arguments already."""
    del as_json, debug, version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: What stands after the command's name; ``sys.argv`` if None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in given, "--debug" in given
    rest = [argument for argument in given if argument not in ("--json", "--debug")] or ["--help"]
    try:
        result = app(rest, prog_name="mashbill", standalone_mode=False)
        if isinstance(result, Reply):
            show(result, as_json=as_json)
            return result.exit_code
        code = result if isinstance(result, int) else 0  # after --help, or the code of an exit
        return _interrupted(given, as_json=as_json) if code == StoppedError.exit_code else code
    except KeyboardInterrupt:
        return _interrupted(given, as_json=as_json)
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = _as_known(error)
        show_error(known, as_json=as_json)
        return known.exit_code


def _interrupted(given: Sequence[str], *, as_json: bool) -> int:
    helps = {
        "distill": "the same command continues from the last checkpoint",
        "capture": "the same command goes on where this one stopped; every shard that is there is whole",
        "import": "the same command goes on where this one stopped; every shard that is there is whole",
    }
    help = next((text for command, text in helps.items() if command in given), "")
    show_error(StoppedError("interrupted", help=help), as_json=as_json)
    return StoppedError.exit_code


def _as_known(error: Exception) -> MashbillError:
    """Return the error as one of ours: a wrong command line, no access to a file, or a defect of the program."""
    if isinstance(error, MashbillError):
        return error
    told = getattr(error, "format_message", None)  # typer's own errors, whose class differs between its versions
    if told is not None:
        return MashbillError(str(told()), help="mashbill --help lists commands and options")
    if "No space left on device" in str(error):  # each library wraps it in an error of its own
        return MashbillError("no space is left on the disk", help="free some and give the same command again")
    if isinstance(error, OSError) and error.filename is not None:
        return MashbillError(f"{error.strerror}: {error.filename2 or error.filename}")
    return _InternalError(f"internal error: {type(error).__name__}: {error}", help="run it again with --debug")


class StoppedError(MashbillError):
    """Somebody asked to stop."""

    exit_code = 130


class _InternalError(MashbillError):
    """A defect of the program."""

    exit_code = 1
