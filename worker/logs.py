"""Logs on stderr: lines to read on a terminal, JSON when it is none."""

import contextlib
import logging
import sys
from typing import Final, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor

_LONGEST: Final = 2_000
LEVELS: Final = ("debug", "info", "warning", "error", "critical")


class _Stderr:
    """Whatever sys.stderr is when a line is written: a progress bar may wrap it."""

    def write(self, text: str) -> int:
        # A log that cannot be written does not stop the work.
        with contextlib.suppress(OSError, AttributeError):
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.flush()


def configure_logs(level: str) -> None:
    """Send dspex's structlog events of `level` and above to stderr."""
    # It is None when it was closed before we began.
    on_terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    last: Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, level.upper())
        ),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )


def _add_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Name the trace and the span, where there is one."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def complain(text: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    line = " ".join(text.split("\n"))
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]} ... ({len(line)} characters)"
    with contextlib.suppress(OSError, AttributeError):
        print(f"dspex: {line}", file=sys.stderr, flush=True)  # noqa: T201
