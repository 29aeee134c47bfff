"""Logs on stderr: lines to read on a terminal, JSON when it is none."""

import logging
import sys
from typing import Final, TextIO, cast

import structlog
from structlog.typing import Processor

LEVELS: Final = ("debug", "info", "warning", "error", "critical")


class _Stderr:
    """Whatever sys.stderr is when a line is written: a progress bar may wrap it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logs(level: str) -> None:
    """Send dspex's structlog events of `level` and above to stderr."""
    on_terminal = sys.stderr.isatty()
    last: Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, level.upper())
        ),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )
