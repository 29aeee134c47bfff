"""The child's loop: runs in threads, several at a time, answers as they come."""

import contextvars
import queue
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from dspex.runtime.bridge.child_calls import Calls, RunCancelled
from dspex.runtime.bridge.child_channel import Channel
from dspex.runtime.bridge.child_dspy import load_dspy
from dspex.runtime.bridge.child_interpreter import make_interpreter
from dspex.runtime.bridge.child_limits import say_memory_limit, start_cpu_clock
from dspex.runtime.bridge.child_modules import run_module
from dspex.runtime.bridge.child_optimizers import optimize
from dspex.runtime.bridge.child_shortcuts import take_shortcuts
from dspex.runtime.bridge.errors import BridgeError
from dspex.runtime.bridge.protocol import (
    Cancel,
    Ended,
    ErrorInfo,
    Failed,
    Hello,
    ModelDelta,
    ModelReply,
    Optimize,
    Pong,
    Run,
    ToChild,
    ToolReply,
)

_TEXT_LIMIT = 20_000


class Host:
    """What is in flight in this process.

    Two threads take turns: one reads a run and does it, the other stands by and reads
    if that takes long. More than one run at a time need a thread each.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = Channel(channel)
        self._calls = Calls(self._channel, self._handle)
        self._threads = Threads()
        self._standing_by: set[int] = set()

    def serve(self, hello: Hello) -> NoReturn:
        """Say hello and do what the parent says, until it closes the channel."""
        self._channel.send(hello, what="hello")
        # Not in the main thread: that one could change dspy's settings for good.
        for stands_by in (False, True):
            work = threading.Thread(
                target=self._take_runs, args=(stands_by,), daemon=True
            )
            work.start()
        while True:  # the process ends when the channel does
            threading.Event().wait()

    def _take_runs(self, stands_by: bool) -> None:
        channel, me = self._channel, threading.get_ident()
        while True:
            if stands_by or not channel.try_reading():
                self._standing_by.add(me)
                channel.stand_by()
                self._standing_by.discard(me)
            stands_by = False
            run = self._next_run()
            channel.leave()
            contextvars.Context().run(self._run, run)

    def _next_run(self) -> "Run | Optimize":
        while True:
            message = self._channel.read()
            # Without anybody to stand by this thread must go on reading.
            if isinstance(message, (Run, Optimize)) and self._standing_by:
                return message
            self._handle(message)

    def _handle(self, message: ToChild) -> None:
        if isinstance(message, (ModelReply, ModelDelta, ToolReply)):
            self._calls.settle(message)
        elif isinstance(message, (Run, Optimize)):
            try:
                self._threads.start(self._run, message)
            except RuntimeError as error:  # no room for a thread's stack
                self._calls.send(Failed(message.id, describe(error)), what="no run")
        elif isinstance(message, Cancel):
            self._calls.cancel(message.id)
        else:
            self._channel.send(Pong(message.id), what="pong")

    def _run(self, run: "Run | Optimize") -> None:
        calls = self._calls
        name = run.module if isinstance(run, Run) else run.optimizer
        what = f"the result of {name}"
        failed: Failed | None = None
        try:
            start_cpu_clock()
            if isinstance(run, Run):
                result = run_module(run, calls)
            else:
                result = optimize(run, calls)
            calls.send(result, what=what)
        except RunCancelled:
            pass
        except BaseException as error:  # noqa: BLE001 - it is the parent's to raise
            failed = Failed(run.id, describe(error))
        if failed is not None:
            # Now what the exception held is freed: the next run may need that memory.
            calls.send(failed, what=what)
        if calls.end(run.id):
            calls.send(Ended(run.id), what="the end of a run")


class Threads:
    """Threads that are used again: a new one costs more than a small run."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[Any], None], Any]] = (
            queue.SimpleQueue()
        )
        self._idle = threading.Semaphore(0)

    # Any: whatever `work` takes.
    def start(self, work: "Callable[[Any], None]", argument: Any) -> None:
        """Run `work(argument)` in a thread, with no context variables set."""
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, daemon=True).start()
        self._work.put((work, argument))

    def _serve(self) -> None:
        while True:
            work, argument = self._work.get()
            contextvars.Context().run(work, argument)
            self._idle.release()


def prepare_dspy() -> None:
    """Turn dspy's own cache and history off; the parent has its own."""
    dspy: Any = load_dspy()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(disable_history=True, interpreter_factory=make_interpreter)
    take_shortcuts()


def serve(channel: socket.socket, hello: Hello) -> NoReturn:
    """Say hello and handle messages until the parent closes the channel."""
    Host(channel).serve(hello)


def describe(error: BaseException) -> ErrorInfo:
    """Say an exception in plain data; the traceback is its text."""
    kinds = [
        cls.__qualname__ if cls.__module__ == "builtins" else _name(cls)
        for cls in type(error).__mro__
        if cls not in (object, BaseException, Exception, BridgeError)
    ]
    return ErrorInfo(
        kinds=kinds or [type(error).__qualname__],
        message=_message(error),
        traceback=_traceback(error),
        call=_call_of(error),
    )


def _message(error: BaseException) -> str:
    limit = say_memory_limit() if isinstance(error, MemoryError) else ""
    return "; ".join(part for part in (_text(error), limit) if part)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return _clean(str(error)[:_TEXT_LIMIT])
    except Exception as problem:  # noqa: BLE001 - a user's __str__ may do anything
        return f"(its message cannot be made: {type(problem).__name__})"


def _traceback(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return _clean("".join(lines)[-_TEXT_LIMIT:])


def _clean(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _call_of(error: "BaseException | None") -> "int | None":
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        call = getattr(error, "dspex_call", None)
        if isinstance(call, int):
            return call
        error = error.__cause__ or error.__context__
    return None
