"""Job: a run that a pool was asked for, wherever it is on its way."""

from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import trio

from dspex.runtime.bridge.calls import DspyResult, as_it_is
from dspex.runtime.bridge.protocol import Optimize, Run
from dspex.runtime.bridge.run_in_flight import Handlers
from dspex.runtime.envelope import Deferred


@dataclass(frozen=True, slots=True)
class Job:
    """A run on its way: what to send for it, and `answer`, which is its caller."""

    make: Callable[[int], Run | Optimize]
    what: str
    handlers: Handlers
    timeout: float
    # Any: a result of `run` or of `optimize`; `shape` gives the same.
    answer: Deferred[Any]
    session: str | None = None
    is_brief: bool = False
    shape: Callable[[DspyResult], Any] = as_it_is
    context: Context = field(default_factory=copy_context)
    queued_at: float = field(default_factory=trio.current_time)
