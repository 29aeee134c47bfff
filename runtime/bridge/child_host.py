"""The child's loop: runs in threads, several at a time, answers as they come."""

import contextvars
import importlib
import itertools
import queue
import socket
import threading
import traceback
from typing import Any

from dspex.runtime.bridge.child_engine import ParentEngine
from dspex.runtime.bridge.child_modules import run_module
from dspex.runtime.bridge.errors import BridgeError
from dspex.runtime.bridge.frames import FrameReader
from dspex.runtime.bridge.protocol import (
    Cancel,
    ErrorInfo,
    Failed,
    JSONObject,
    ModelCall,
    ModelReply,
    Pong,
    Result,
    Run,
    ToParent,
    decode_in_child,
    encode,
)

_READ_BYTES = 1 << 18
_TEXT_LIMIT = 20_000


class RunCancelled(BaseException):
    """Nobody waits for this run any more; not for `except Exception` to catch."""


class Host:
    """What is in flight in this process: runs, and model calls they wait for."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._write = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[int, queue.SimpleQueue[ModelReply | None]]] = {}
        self._cancelled: set[int] = set()
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def send(self, message: ToParent, *, what: str) -> None:
        """Send a message; any thread may.

        Raises:
            FrameTooLargeError: it is over the limit; nothing was sent.
        """
        data = encode(message, what=what)
        with self._write:
            self._channel.sendall(data)

    def handle(self, body: bytes) -> None:
        """Handle one message of the parent."""
        message = decode_in_child(body)
        if isinstance(message, Run):
            with self._lock:
                self._running.add(message.id)
            thread = threading.Thread(
                target=contextvars.Context().run,
                args=(self._run, message),
                name=f"run-{message.id}",
                daemon=True,
            )
            thread.start()
        elif isinstance(message, ModelReply):
            with self._lock:
                waiting = self._waiting.pop(message.id, None)
            if waiting is not None:  # the run may have been cancelled meanwhile
                waiting[1].put(message)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        else:
            self.send(Pong(message.id), what="pong")

    def _run(self, run: Run) -> None:
        what = f"the result of {run.module}"
        try:
            engine = ParentEngine(
                lambda request: self._ask(run, request),
                json_schema=run.json_schema,
                native_tools=run.native_tools,
            )
            outputs = run_module(run, engine)
            self.send(Result(run.id, outputs, engine.usage, engine.calls), what=what)
        except RunCancelled:
            pass
        except BaseException as error:  # noqa: BLE001 - it is the parent's to raise
            self.send(Failed(run.id, describe(error)), what=what)
        finally:
            with self._lock:
                self._running.discard(run.id)
                self._cancelled.discard(run.id)

    def _ask(self, run: Run, request: JSONObject) -> ModelReply:
        reply: queue.SimpleQueue[ModelReply | None] = queue.SimpleQueue()
        number = next(self._numbers)
        with self._lock:
            if run.id in self._cancelled:
                raise RunCancelled
            self._waiting[number] = (run.id, reply)
        try:
            what = f"a model call of {run.module}"
            self.send(ModelCall(number, run.id, request), what=what)
            # Not without bound: the parent answers every call or cancels the run,
            # and this process ends with it.
            answer = reply.get()
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if answer is None:
            raise RunCancelled
        return answer

    def _cancel(self, run: int) -> None:
        with self._lock:
            if run in self._running:
                self._cancelled.add(run)
            waiting = [reply for owner, reply in self._waiting.values() if owner == run]
        for reply in waiting:
            reply.put(None)


def serve(channel: socket.socket) -> None:
    """Handle messages until the parent closes the channel."""
    _prepare_dspy()
    host = Host(channel)
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
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return ErrorInfo(
        kinds=kinds or [type(error).__qualname__],
        message=_message(error),
        traceback=_clean(text[-_TEXT_LIMIT:]),
        call=_call_of(error),
    )


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return _clean(str(error)[:_TEXT_LIMIT])
    except Exception as problem:  # noqa: BLE001 - a user's __str__ may do anything
        return f"(its message cannot be made: {type(problem).__name__})"


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


def _prepare_dspy() -> None:
    dspy: Any = importlib.import_module("dspy")
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(disable_history=True)
