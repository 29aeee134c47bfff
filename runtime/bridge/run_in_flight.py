"""RunInFlight: one run in a process, from its message to its outcome."""

import math
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from dspex.runtime.bridge.calls import (
    DspyResult,
    ModelHandler,
    ProgressHandler,
    ToolHandler,
)
from dspex.runtime.bridge.errors import RemoteError
from dspex.runtime.bridge.protocol import Failed, Optimize, Progress, Result, Run
from dspex.runtime.bridge.values import unpack

Outcome: TypeAlias = DspyResult | RemoteError


@dataclass(frozen=True, slots=True)
class Handlers:
    """What answers the calls that a run makes home."""

    model: ModelHandler
    tool: ToolHandler | None = None
    progress: ProgressHandler | None = None


@dataclass(eq=False, slots=True)
class RunInFlight:
    """What is known of one run; `done` hears of its outcome, once, without a task.

    If its process dies, or the run is cancelled, `done` hears nothing: whoever owns
    the process, or cancels, knows. `context` is its caller's; the handlers run in it.
    `deadline` is for its owner to keep.
    """

    make: Callable[[int], Run | Optimize]
    what: str
    handlers: Handlers
    done: Callable[[Outcome], None]
    context: Context = field(default_factory=copy_context)
    deadline: float = math.inf
    number: int = 0
    is_over: bool = False
    # What the run asks of the parent, and what of that failed, by the call's number.
    calls: dict[int, trio.CancelScope] = field(
        default_factory=dict[int, trio.CancelScope]
    )
    failures: dict[int, Exception] = field(default_factory=dict[int, Exception])
    # What it tells, in order; None as long as it has told nothing.
    events: deque[Progress | Result | Failed] | None = None
    teller: trio.CancelScope | None = None

    def end(self) -> None:
        """Cancel what it still asks."""
        self.is_over = True
        for scope in self.calls.values():
            scope.cancel()
        if self.teller is not None:
            self.teller.cancel()

    def outcome(self, message: Result | Failed) -> Outcome:
        """Give what its last message says."""
        if isinstance(message, Result):
            return DspyResult(
                outputs=unpack(message.outputs),
                usage=message.usage,
                model_calls=message.model_calls,
                trace=tuple(unpack(entry) for entry in message.trace),
            )
        info = message.error
        error = RemoteError(info.kinds[0], info.message, info.traceback)
        if info.call is not None:
            error.__cause__ = self.failures.get(info.call)
        return error
