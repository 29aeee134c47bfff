"""A call: one run of a module, and what it shares with the calls inside it.

The current call is found by a context variable, so that a user's `forward` does not
have to hand it on. Tasks that a forward starts in its own nursery inherit it. Nothing
of a call is kept on a module: concurrent calls of one module share nothing.

What a forward did and finished (model calls, tool calls) is kept in the outermost
call's memory. When a check fails, the forward runs again from its start, and what is
in the memory is not done again: see `checks.py`.
"""

import os
from collections.abc import Awaitable, Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import msgspec

from dspex.modules.prediction import NO_USAGE, Prediction, add_usage
from dspex.providers.lm import LM
from dspex.providers.messages import Choice, Usage

T = TypeVar("T")

# The number of what is asked of whom, and how many equal ones came before it in this
# pass.
Key: TypeAlias = tuple[int, int]


class Effects(Protocol):
    """What makes a run's calls once: the engine's journal, for one."""

    async def perform(self, fingerprint: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, unless it has been made; give its result."""
        ...


@dataclass(frozen=True, slots=True)
class Feedback:
    """An answer that a check did not accept, and what it said."""

    choice: Choice
    message: str
    outputs: Mapping[str, Any]  # Any: as the signature declares


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call of a predictor."""

    prediction: Prediction
    choice: Choice


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One call of a predictor in a run: what it got and gave."""

    predictor: object
    inputs: Mapping[str, Any]  # Any: as the signature declares
    prediction: Prediction
    key: Key
    choice: Choice


# Structs, for one of each is made for each call: a dataclass takes five times as long.
class Memory(msgspec.Struct, eq=False):
    """What the outermost call did so far, over all passes of its forward."""

    finished: dict[tuple[Key, int], object] = {}
    feedback: dict[Key, list[Feedback]] = {}
    # How often a check of a predictor's answer has failed, by its place.
    failures: dict[tuple[Key, int], int] = {}
    # What was asked so far: a request is hashed once, its number often.
    numbers: dict[Hashable, int] = {}
    # Of this pass only.
    seen: dict[int, int] = {}
    checked: dict[Key, int] = {}
    trace: list[TraceStep] = []
    suggestions: list[str] = []

    def start_pass(self) -> None:
        """Forget what belongs to one pass; keep what was done."""
        self.seen.clear()
        self.checked.clear()
        self.trace.clear()
        self.suggestions.clear()

    def key(self, asked: Hashable) -> Key:
        """Give the key of the next request that is equal to this one.

        The request itself will do: to hash it costs less than its fingerprint.
        """
        number = self.numbers.setdefault(asked, len(self.numbers))
        occurrence = self.seen.get(number, 0)
        self.seen[number] = occurrence + 1
        return (number, occurrence)


def _trace_id() -> str:
    return os.urandom(16).hex()


class Call(msgspec.Struct, eq=False):
    """What one run of a module knows: its model, its trace id, what it took so far."""

    lm: LM | None = None
    effects: Effects | None = None
    trace_id: str = msgspec.field(default_factory=_trace_id)
    parent: "Call | None" = None
    memory: Memory = msgspec.field(default_factory=Memory)
    usage: Usage = NO_USAGE

    def add_usage(self, usage: Usage, *, remembered: bool = False) -> None:
        """Count what a model call took, in this call and in those around it.

        The outermost call has counted a remembered one when it was made.
        """
        call = self
        while call.parent is not None:
            call.usage = add_usage(call.usage, usage)
            call = call.parent
        if not remembered:
            call.usage = add_usage(call.usage, usage)

    async def perform(self, fingerprint: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work once in this run: a tool call, by its name and arguments."""
        effect = (self.memory.key(fingerprint), 0)
        if effect in self.memory.finished:
            return cast(T, self.memory.finished[effect])
        if self.effects is None:
            result = await work()
        else:
            result = await self.effects.perform(fingerprint, work)
        self.memory.finished[effect] = result
        return result


_CURRENT: ContextVar[Call | None] = ContextVar("dspex_call", default=None)
_TRACES: ContextVar[list[TraceStep] | None] = ContextVar("dspex_trace", default=None)


def current_call() -> Call | None:
    """Give the call this code runs in; None outside of any."""
    return _CURRENT.get()


def begin_call(
    *, lm: LM | None = None, effects: Effects | None = None
) -> tuple[Call, Token[Call | None]]:
    """Begin a call inside the current one; what is None is inherited.

    `end_call(token)` must follow: a context manager would take as long again.
    """
    parent = _CURRENT.get()
    if parent is None:
        call = Call(lm=lm, effects=effects)
    else:
        call = Call(
            lm=lm or parent.lm,
            effects=effects or parent.effects,
            trace_id=parent.trace_id,
            parent=parent,
            memory=parent.memory,
        )
    return call, _CURRENT.set(call)


def end_call(token: Token[Call | None]) -> None:
    """Go back to the call that was current before `begin_call`."""
    _CURRENT.reset(token)


@contextmanager
def outermost() -> Generator[None]:
    """Run a block as if no call were around it: calls inside begin a run of their own.

    The trace that is being recorded gets their steps, too.
    """
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def record_trace() -> Generator[list[TraceStep]]:
    """Record the predictor calls of the runs inside the block, in order.

    A run adds its steps when its forward has ended well; those that a failed check
    made undone are not among them.
    """
    steps: list[TraceStep] = []
    token = _TRACES.set(steps)
    try:
        yield steps
    finally:
        _TRACES.reset(token)


def keep_trace(call: Call) -> None:
    """Add the steps of an outermost call to the trace that is being recorded."""
    steps = _TRACES.get()
    if steps is not None:
        steps.extend(call.memory.trace)
