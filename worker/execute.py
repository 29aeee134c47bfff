"""Running a command: logs, signals, and errors as one line and an exit status."""

import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import typer

from dspex.runtime import DspexError
from dspex.worker.logs import LEVELS, complain, configure_logs
from dspex.worker.run_command import NOTHING_DONE
from dspex.worker.signals import run_command

# What a shell shows of a program that SIGPIPE ended.
_READER_GONE: Final = 141

Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and log at level debug.")
]
LogLevel = Annotated[
    str, typer.Option("--log-level", help=f"Logs on stderr: {', '.join(LEVELS)}.")
]
PoolMax = Annotated[
    int,
    typer.Option(
        "--pool-max", min=1, help="How many processes run python steps at a time."
    ),
]


def execute(main: Callable[[], Awaitable[int]], *, debug: bool, log_level: str) -> None:
    """Run a command under trio and end the process with its exit status."""
    if log_level not in LEVELS:
        raise typer.BadParameter(
            f"{log_level!r} is not one of {', '.join(LEVELS)}",
            param_hint="--log-level",
        )
    configure_logs("debug" if debug else log_level)
    raise typer.Exit(_status_of(main, debug=debug))


def _status_of(main: Callable[[], Awaitable[int]], *, debug: bool) -> int:
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        complain("stdout is closed, so no result could be told: open it")
        return NOTHING_DONE
    try:
        status = run_command(main)
        sys.stdout.flush()
    except DspexError as error:
        if debug:
            traceback.print_exception(error)
        complain(str(error))
        return NOTHING_DONE
    except OSError as error:
        # What is left in the buffer has nowhere to go at exit either.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        if isinstance(error, BrokenPipeError):
            return _READER_GONE
        if debug:
            traceback.print_exception(error)
        complain(f"the results could not be written: {error}")
        return NOTHING_DONE
    return status
