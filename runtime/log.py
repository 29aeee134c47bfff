"""The logger of dspex: structlog as the host has set it up, stderr where it has not.

structlog's own default prints to stdout, where the results of a program belong. Until
the host calls `structlog.configure`, warnings and errors go to stderr, and what is less
goes nowhere.
"""

import sys
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

_QUIET = frozenset({"debug", "info"})


class _Target:
    """Writes rendered events with the host's logger, or to stderr."""

    def __getattr__(self, level: str) -> Any:  # Any: a method of any logger
        if structlog.is_configured():
            return getattr(structlog.get_config()["logger_factory"]("dspex"), level)
        if level in _QUIET:
            return _drop
        return getattr(structlog.PrintLogger(sys.stderr), level)


def _drop(*_: object, **__: object) -> None:
    pass


def get_logger() -> FilteringBoundLogger:
    """Give the logger of dspex; events are told apart by their names and fields."""
    logger: FilteringBoundLogger = structlog.wrap_logger(_Target())
    return logger
