"""Spans and metrics of runs and steps, by OpenTelemetry.

A run is a span with its steps below, and the model calls below those; it belongs to the
trace of whoever asked for it. Without an SDK in the process it costs next to nothing.
"""

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import trio
from opentelemetry import context, metrics, trace
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dspex.runtime.engine import Run

PROGRAM: Final = "dspex.program"
RUN: Final = "dspex.run"
STEP: Final = "dspex.step"
BACKEND: Final = "dspex.backend"
STATUS: Final = "dspex.status"

_tracer = trace.get_tracer("dspex.worker")
_seconds = metrics.get_meter("dspex.worker").create_histogram(
    "dspex.run.duration",
    unit="s",
    description="Duration of a run, from its start in this process",
    explicit_bucket_boundaries_advisory=[0.01 * 2**n for n in range(16)],
)
_propagator = TraceContextTextMapPropagator()


def _span(name: str, attributes: dict[str, str]) -> AbstractContextManager[Span]:
    # Without an SDK even an empty span would take 10 us.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return nullcontext(trace.INVALID_SPAN)
    return _tracer.start_as_current_span(name, attributes=attributes)


class RunSpan:
    """What a run's span is told: how the run ended."""

    status = "failed"

    def ended(self, run: Run) -> Run:
        """Take note of how it ended, and give it back."""
        self.status = run.status
        return run


@contextmanager
def run_span(run: str, program: str) -> Generator[RunSpan]:
    """Make the block, which is a run, a span, and measure it."""
    began = trio.current_time()
    told = RunSpan()
    with _span(f"run {program}", {PROGRAM: program, RUN: run}) as span:
        try:
            yield told
        except trio.Cancelled:
            told.status = "cancelled"
            raise
        finally:
            span.set_attribute(STATUS, told.status)
            if told.status == "failed":
                span.set_status(Status(StatusCode.ERROR))
            took = trio.current_time() - began
            _seconds.record(took, {PROGRAM: program, STATUS: told.status})


def step_span(step: str, backend: str) -> AbstractContextManager[Span]:
    """Make the block, which is a step, a span."""
    return _span(f"step {step}", {STEP: step, BACKEND: backend})


def trace_of(headers: Mapping[str, str]) -> AbstractContextManager[None]:
    """Make what the block starts part of the caller's trace, if it named one."""
    return _trace_of(headers) if "traceparent" in headers else nullcontext()


@contextmanager
def _trace_of(headers: Mapping[str, str]) -> Generator[None]:
    token = context.attach(_propagator.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
