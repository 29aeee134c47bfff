"""Calls home: a thread of the child asks the parent something and waits."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, Literal

from dspex.runtime.bridge.child_channel import Channel
from dspex.runtime.bridge.protocol import (
    ErrorInfo,
    JSONObject,
    ModelCall,
    ModelDelta,
    ModelReply,
    Progress,
    ToChild,
    ToolCall,
    ToolReply,
    ToParent,
)
from dspex.runtime.bridge.values import Packed, pack, unpack

Reply = ModelReply | ModelDelta | ToolReply
# None: the run was cancelled. False: nobody reads any more, so the waiter shall.
Answer = Reply | None | Literal[False]


class RunCancelled(BaseException):
    """Nobody waits for this run any more; not for `except Exception` to catch."""


class ToolError(Exception):
    """A tool of the parent failed; `dspex_call` tells the parent which call it was."""

    def __init__(self, message: str, call: "int | None") -> None:
        super().__init__(message)
        self.dspex_call = call


class Calls:
    """The calls of this process that wait for an answer, whichever thread's.

    `handle` takes what a thread reads that is for somebody else.
    """

    def __init__(self, channel: Channel, handle: "Callable[[ToChild], None]") -> None:
        self._channel = channel
        self._handle = handle
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[int, queue.SimpleQueue[Answer]]] = {}
        self._cancelled: set[int] = set()

    def send(self, message: ToParent, *, what: str) -> None:
        """Send a message; raises as `Channel.send`."""
        self._channel.send(message, what=what)

    def settle(self, reply: Reply) -> None:
        """Give a reply of the parent to the thread that waits for it."""
        with self._lock:
            waiting = self._waiting.get(reply.id)
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

    def stream_model(
        self, run: int, name: str, request: JSONObject
    ) -> "Generator[str, None, ModelReply]":
        """Ask the parent's model; give its text in pieces, and return the answer."""
        with self._asked(
            run,
            lambda number: ModelCall(number, run, request, stream=True),
            f"a model call of {name}",
        ) as answers:
            while isinstance(reply := self._await(answers), ModelDelta):
                yield reply.text
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
        with self._asked(run, make, what) as answers:
            return self._await(answers)

    @contextlib.contextmanager
    def _asked(
        self, run: int, make: "Callable[[int], ModelCall | ToolCall]", what: str
    ) -> "Generator[queue.SimpleQueue[Answer], None, None]":
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        number = next(self._numbers)
        with self._lock:
            if run in self._cancelled:
                raise RunCancelled
            self._waiting[number] = (run, answers)
        try:
            self.send(make(number), what=what)
            yield answers
        finally:
            with self._lock:
                self._waiting.pop(number, None)
            self._let_another_read()

    def _await(self, answers: "queue.SimpleQueue[Answer]") -> Reply:
        # Not without bound: the parent answers every call or cancels the run, and
        # this process ends with it.
        channel = self._channel
        while True:
            if channel.try_reading():
                try:
                    while answers.empty():
                        self._handle(channel.read())
                finally:
                    channel.leave()
            answer = answers.get()
            if answer is None:
                raise RunCancelled
            if answer is not False:
                return answer

    def _let_another_read(self) -> None:
        if self._waiting and not self._channel.is_read:
            with self._lock:
                waiting = next(iter(self._waiting.values()), None)
            if waiting is not None:
                waiting[1].put(False)
