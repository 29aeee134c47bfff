"""RunInFlight: one run in a process, from its message to its outcome."""

import math
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Final, TypeAlias

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

_MERGED_FROM: Final = 64

# Of the last ones one may end the run; each keeps all that its frames hold.
_FAILURES_KEPT: Final = 64

# A thousand such pieces are as much text as a model has ever written.
_MERGED_CHARACTERS: Final = 16_384


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

    def take_delta(self, message: Progress | Result | Failed) -> bool:
        """Add a piece of a field to the one before it, if many wait to be told.

        So whoever hears of them may be slower than they come.
        """
        events = self.events
        if events is None or len(events) < _MERGED_FROM:
            return False
        last = events[-1]
        if not isinstance(message, Progress) or not isinstance(last, Progress):
            return False
        old, new = last.event, message.event
        if any(it.get("event") != "delta" for it in (old, new)) or old["is_last"]:
            return False
        if any(old[it] != new[it] for it in ("predictor", "field")):
            return False
        if len(old["text"]) >= _MERGED_CHARACTERS:
            return False
        events[-1] = Progress(message.id, {**new, "text": old["text"] + new["text"]})
        return True

    def failed(self, call: int, error: Exception) -> None:
        """Take note of why a call failed, which may be why the run does."""
        self.failures[call] = error
        if len(self.failures) > _FAILURES_KEPT:
            del self.failures[next(iter(self.failures))]

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
