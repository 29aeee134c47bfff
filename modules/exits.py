"""Exits: what a user's code raises that would end more than the code itself.

`sys.exit()` in a forward, a metric or a tool must not end the process that hosts them.
"""

from typing import cast

import trio

from dspex.modules.errors import CodeExitError


class TryAgain(BaseException):
    """Raised by a failed check: run the forward again, with what is remembered.

    No Exception, so that a forward's own `except Exception` does not stop it.
    """


# What has to pass: errors, and the ways in which Python, trio and dspex stop code.
_PASSING = (Exception, KeyboardInterrupt, GeneratorExit, trio.Cancelled, TryAgain)


def find_exit(error: BaseException) -> BaseException | None:
    """Give what in an error is no Exception and nobody's order to stop, if anything."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for inner in group.exceptions:
            if (found := find_exit(inner)) is not None:
                return found
        return None
    return None if isinstance(error, _PASSING) else error


def refuse_exit(what: str, error: BaseException) -> None:
    """Raise an error in the place of an exit; do nothing about anything else.

    Raises:
        CodeExitError: `error`, out of `what`, is an exit.
    """
    found = find_exit(error)
    if found is not None:
        raise CodeExitError(what, found) from error
