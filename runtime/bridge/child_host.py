"""The child's loop: runs in threads, several at a time, answers as they come."""

import contextvars
import importlib
import queue
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from dspex.runtime.bridge.child_calls import Calls, RunCancelled
from dspex.runtime.bridge.child_limits import start_cpu_clock
from dspex.runtime.bridge.child_modules import run_module
from dspex.runtime.bridge.child_optimizers import optimize
from dspex.runtime.bridge.errors import BridgeError
from dspex.runtime.bridge.frames import FrameReader
from dspex.runtime.bridge.protocol import (
    Cancel,
    Ended,
    ErrorInfo,
    Failed,
    Hello,
    ModelReply,
    Optimize,
    Pong,
    Run,
    ToolReply,
    decode_in_child,
)

_READ_BYTES = 1 << 18
_TEXT_LIMIT = 20_000


class Host:
    """What is in flight in this process."""

    def __init__(self, channel: socket.socket) -> None:
        self.calls = Calls(channel)
        self._threads = Threads()

    def handle(self, body: bytes) -> None:
        """Handle one message of the parent."""
        message = decode_in_child(body)
        if isinstance(message, (Run, Optimize)):
            self._threads.start(self._run, message)
        elif isinstance(message, (ModelReply, ToolReply)):
            self.calls.settle(message)
        elif isinstance(message, Cancel):
            self.calls.cancel(message.id)
        else:
            self.calls.send(Pong(message.id), what="pong")

    def _run(self, run: "Run | Optimize") -> None:
        calls = self.calls
        name = run.module if isinstance(run, Run) else run.optimizer
        what = f"the result of {name}"
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
            calls.send(Failed(run.id, describe(error)), what=what)
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
    dspy: Any = importlib.import_module("dspy")
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(disable_history=True)


def serve(channel: socket.socket, hello: Hello) -> None:
    """Say hello and handle messages until the parent closes the channel."""
    host = Host(channel)
    host.calls.send(hello, what="hello")
    reader = FrameReader()
    while data := channel.recv(_READ_BYTES):
        for body in reader.feed(data):
            host.handle(body)


def describe(error: BaseException) -> ErrorInfo:
    """Say an exception in plain data; the traceback is its text."""
    kinds = [
        cls.__qualname__ if cls.__module__ == "builtins" else _name(cls)
        for cls in type(error).__mro__
        if cls not in (object, BaseException, Exception, BridgeError)
    ]
    return ErrorInfo(
        kinds=kinds or [type(error).__qualname__],
        message=_text(error),
        traceback=_traceback(error),
        call=_call_of(error),
    )


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
