"""Calls home: a thread of the child asks the parent something and waits."""

import itertools
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

from dspex.runtime.bridge.protocol import (
    ErrorInfo,
    JSONObject,
    ModelCall,
    ModelReply,
    Progress,
    ToolCall,
    ToolReply,
    ToParent,
    encode,
)
from dspex.runtime.bridge.values import Packed, pack, unpack

Reply = ModelReply | ToolReply


class RunCancelled(BaseException):
    """Nobody waits for this run any more; not for `except Exception` to catch."""


class ToolError(Exception):
    """A tool of the parent failed; `dspex_call` tells the parent which call it was."""

    def __init__(self, message: str, call: "int | None") -> None:
        super().__init__(message)
        self.dspex_call = call


class Calls:
    """The child's end of the channel, shared by its threads."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._write = threading.Lock()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[int, queue.SimpleQueue[Reply | None]]] = {}
        self._cancelled: set[int] = set()

    def send(self, message: ToParent, *, what: str) -> None:
        """Send a message; any thread may.

        Raises:
            FrameTooLargeError: it is over the limit; nothing was sent.
        """
        data = encode(message, what=what)
        with self._write:
            self._channel.sendall(data)

    def settle(self, reply: Reply) -> None:
        """Give a reply of the parent to the thread that waits for it."""
        with self._lock:
            waiting = self._waiting.pop(reply.id, None)
        if waiting is not None:  # the run may have been cancelled meanwhile
            waiting[1].put(reply)

    def cancel(self, run: int) -> None:
        """Let the run's calls, the ones that wait and any later one, raise."""
        with self._lock:
            self._cancelled.add(run)
            waiting = [reply for owner, reply in self._waiting.values() if owner == run]
        for reply in waiting:
            reply.put(None)

    def end(self, run: int) -> bool:
        """Forget a run that has ended; tell whether it was cancelled."""
        with self._lock:
            cancelled = run in self._cancelled
            self._cancelled.discard(run)
        return cancelled

    def check(self, run: int) -> None:
        """Raise RunCancelled if the run was cancelled."""
        if run in self._cancelled:
            raise RunCancelled

    def model(self, run: int, name: str, request: JSONObject) -> ModelReply:
        """Ask the parent's model."""
        reply = self._ask(
            run,
            lambda number: ModelCall(number, run, request),
            f"a model call of {name}",
        )
        assert isinstance(reply, ModelReply)
        return reply

    def tool(
        self,
        run: int,
        name: str,
        arguments: "dict[str, Any]",  # Any: whatever the model said
    ) -> Any:  # Any: whatever the tool gives
        """Call a tool of the parent.

        Raises:
            ToolError: it failed.
        """
        what = f"a call of tool {name!r}"
        packed = {
            key: pack(value, f"argument {key!r} of {what}")
            for key, value in arguments.items()
        }
        reply = self._ask(run, lambda number: ToolCall(number, run, name, packed), what)
        assert isinstance(reply, ToolReply)
        if reply.error is not None:
            error: ErrorInfo = reply.error
            raise ToolError(f"{error.kinds[0]}: {error.message}", error.call)
        return unpack(reply.value)

    def progress(self, run: int, event: Packed) -> None:
        """Tell the parent that something happened."""
        self.check(run)
        self.send(Progress(run, event), what="a progress event")

    def _ask(
        self, run: int, make: "Callable[[int], ModelCall | ToolCall]", what: str
    ) -> Reply:
        answers: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        number = next(self._numbers)
        with self._lock:
            if run in self._cancelled:
                raise RunCancelled
            self._waiting[number] = (run, answers)
        try:
            self.send(make(number), what=what)
            # Not without bound: the parent answers every call or cancels the run,
            # and this process ends with it.
            answer = answers.get()
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if answer is None:
            raise RunCancelled
        return answer
