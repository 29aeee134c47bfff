"""Executing a command: logs, one line for an error, and the exit status."""

import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from dspex.runtime import DspexError
from dspex.worker.logs import LEVELS, configure_logs
from dspex.worker.run_command import NOTHING_DONE
from dspex.worker.signals import run_command

Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and log everything.")
]
LogLevel = Annotated[
    str, typer.Option("--log-level", help=f"Logs on stderr: {', '.join(LEVELS)}.")
]


def execute(main: Callable[[], Awaitable[int]], *, debug: bool, log_level: str) -> None:
    """Run a command under trio and end the process with its exit status."""
    if log_level not in LEVELS:
        raise typer.BadParameter(f"{log_level!r} is not one of {', '.join(LEVELS)}")
    configure_logs("debug" if debug else log_level)
    try:
        status = run_command(main)
    except (DspexError, BaseExceptionGroup) as error:
        if debug:
            traceback.print_exception(error)
        if not isinstance(error, DspexError):
            raise
        print(f"dspex: {error}", file=sys.stderr)  # noqa: T201
        status = NOTHING_DONE
    except BrokenPipeError:
        # Whoever read stdout has enough; nothing more can be said there.
        sys.stdout = None
        status = NOTHING_DONE
    raise typer.Exit(status)
