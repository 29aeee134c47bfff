"""Connection: the parent's end of the channel to a process that hosts dspy."""

import itertools
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import trio

from dspex.runtime.bridge.calls import JSONObject, StreamingModelHandler
from dspex.runtime.bridge.errors import ProtocolError
from dspex.runtime.bridge.frames import FrameReader
from dspex.runtime.bridge.protocol import (
    Cancel,
    Ended,
    ErrorInfo,
    Failed,
    Hello,
    ModelCall,
    ModelDelta,
    ModelReply,
    Ping,
    Pong,
    Progress,
    Result,
    ToolCall,
    ToolReply,
    ToParent,
    Unavailable,
    decode_in_parent,
    encode,
)
from dspex.runtime.bridge.run_in_flight import RunInFlight
from dspex.runtime.bridge.values import pack, unpack
from dspex.runtime.log import get_logger

_READ_BYTES: Final = 1 << 16
_CALLS_PER_RUN: Final = 1024

log = get_logger()

Spawn: TypeAlias = Callable[..., trio.CancelScope]
"""Starts a task that ends with the process: `Actor.spawn`."""


class Connection:
    """Sends runs to one process and tells of their outcomes.

    Its owner runs `read` and `write`. A run costs no task of its own: it is sent by
    whoever starts it, and its outcome is told by the task that reads. Only what it
    asks of the parent is done in tasks, which `spawn` starts.

    It knows nothing of the process itself: whoever owns that tells when it died.
    """

    def __init__(self, channel: socket.socket, *, name: str, spawn: Spawn) -> None:
        """Take the parent's end of the channel; `close` closes it."""
        self.name = name
        self.greeting: Hello | Unavailable | None = None
        self.greeted = trio.Event()
        self.ended = trio.Event()
        self._spawn = spawn
        self._socket = channel
        self._channel = trio.socket.from_stdlib_socket(channel)
        self._numbers = itertools.count(1)
        self._runs: dict[int, RunInFlight] = {}
        self._lingering: dict[int, trio.Event] = {}
        self._pings: dict[int, trio.Event] = {}
        # Bounded by what is in flight: a message for each run and each of its calls.
        self._outbox: deque[bytes] = deque()
        self._filled = trio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether a run is under way, or a cancelled one not dropped yet."""
        return bool(self._runs or self._lingering)

    def close(self) -> None:
        """Close the channel; the process takes that as its end."""
        self._channel.close()

    async def read(self) -> None:
        """Take what the process sends until it closes the channel.

        Raises:
            ProtocolError: it sent what the protocol does not allow.
        """
        reader = FrameReader()
        channel = self._socket
        buffer = memoryview(bytearray(_READ_BYTES))
        try:
            while True:
                # Wait first: a read that finds nothing is a system call too many.
                await trio.lowlevel.wait_readable(channel)
                try:
                    count = channel.recv_into(buffer)
                except BlockingIOError:
                    continue
                if not count:
                    break
                for body in reader.feed(buffer[:count]):
                    self._dispatch(decode_in_parent(body))
        except (ConnectionError, trio.ClosedResourceError):
            pass
        self.ended.set()

    async def write(self) -> None:
        """Send what lies in the outbox; one task, so that no frame is cut in half."""
        while True:
            await self._filled.wait()
            while self._outbox:
                view = memoryview(self._outbox[0])
                try:
                    while view:
                        view = view[await self._channel.send(view) :]
                except (OSError, trio.ClosedResourceError):
                    return  # whoever owns the process sees the same end
                self._outbox.popleft()
            self._filled = trio.Event()

    def _post(self, data: bytes) -> None:
        # Most frames fit into the socket's buffer: no other task needs to wake up.
        if not self._outbox:
            try:
                sent = self._socket.send(data)
            except OSError:  # full, or closed, which the writer will see
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._outbox.append(data)
        self._filled.set()

    def start(self, run: RunInFlight) -> None:
        """Send a run.

        Raises:
            FrameTooLargeError, UnsupportedValueError, ProtocolError: not sent.
        """
        run.number = next(self._numbers)
        data = encode(run.make(run.number), what=f"the inputs of {run.what}")
        self._runs[run.number] = run
        self._post(data)

    def cancel(self, run: RunInFlight) -> None:
        """Tell the process that nobody waits for a run; `settled` tells when it obeyed.

        A process that reads nothing finishes the run in vain, or is killed.
        """
        if self._runs.pop(run.number, None) is not None:
            run.end()
            self._lingering[run.number] = trio.Event()
            self._post(encode(Cancel(run.number), what="cancel"))

    async def ping(self) -> None:
        """Return when the process has answered; not bounded, the caller does that."""
        number = next(self._numbers)
        answered = self._pings[number] = trio.Event()
        try:
            self._post(encode(Ping(number), what="ping"))
            await answered.wait()
        finally:
            del self._pings[number]

    async def settled(self) -> None:
        """Return when no cancelled run is left in the process; not bounded."""
        while self._lingering:
            await next(iter(self._lingering.values())).wait()

    def _dispatch(self, message: ToParent) -> None:
        if isinstance(message, Hello | Unavailable):
            self.greeting = message
            self.greeted.set()
        elif isinstance(message, Pong):
            if (answered := self._pings.get(message.id)) is not None:
                answered.set()
        elif isinstance(message, ModelCall | ToolCall):
            # What a cancelled run still asks is dropped.
            if (run := self._runs.get(message.run)) is not None:
                self._take_call(run, message)
        elif (run := self._runs.get(message.id)) is not None:
            if isinstance(message, Ended):
                raise ProtocolError(f"run {message.id} ended without an answer")
            if isinstance(message, Progress) or run.events is not None:
                self._take_event(run, message)
            else:
                self._finish(run, message)
        elif not isinstance(message, Progress):
            if (ended := self._lingering.pop(message.id, None)) is not None:
                ended.set()
            else:
                log.warning("dspy_unknown_run", process=self.name, run=message.id)

    def _finish(self, run: RunInFlight, message: Result | Failed) -> None:
        if self._runs.pop(run.number, None) is not None:
            run.end()
            run.done(run.outcome(message))

    def _take_call(self, run: RunInFlight, call: ModelCall | ToolCall) -> None:
        if len(run.calls) >= _CALLS_PER_RUN:
            raise ProtocolError(f"a run has over {_CALLS_PER_RUN} calls under way")
        if call.id in run.calls:
            raise ProtocolError(f"call {call.id} is under way already")
        answer = (
            self._answer_model if isinstance(call, ModelCall) else self._answer_tool
        )
        run.calls[call.id] = run.context.run(self._spawn, answer, run, call)

    async def _answer_model(self, run: RunInFlight, call: ModelCall) -> None:
        try:
            model = run.handlers.model
            if call.stream and isinstance(model, StreamingModelHandler):
                response = await model.stream(
                    call.request, partial(self._post_delta, call.id)
                )
            else:
                response = await model(call.request)
            reply = ModelReply(call.id, response=response)
            data = encode(reply, what="the answer of a model")
        except Exception as error:  # noqa: BLE001 - the hosted dspy gets it
            run.failed(call.id, error)
            reply = ModelReply(call.id, error=_describe(error, call.id))
            data = encode(reply, what="a model's error")
        finally:
            run.calls.pop(call.id, None)
        self._post(data)

    def _post_delta(self, call: int, text: str) -> None:
        if text:
            self._post(encode(ModelDelta(call, text), what="a piece of an answer"))

    async def _answer_tool(self, run: RunInFlight, call: ToolCall) -> None:
        what = f"the result of tool {call.name!r}"
        try:
            tool = run.handlers.tool or _no_tool
            value = await tool(call.name, unpack(call.arguments))
            data = encode(ToolReply(call.id, pack(value, what)), what=what)
        except Exception as error:  # noqa: BLE001 - the hosted dspy gets it
            run.failed(call.id, error)
            reply = ToolReply(call.id, error=_describe(error, call.id))
            data = encode(reply, what="a tool's error")
        finally:
            run.calls.pop(call.id, None)
        self._post(data)

    def _take_event(
        self, run: RunInFlight, message: Progress | Result | Failed
    ) -> None:
        if run.events is None:
            run.events = deque()
            run.teller = run.context.run(self._spawn, self._tell, run, run.events)
        if run.take_delta(message):
            return
        if len(run.events) >= _CALLS_PER_RUN:
            raise ProtocolError(f"a run has over {_CALLS_PER_RUN} events to tell")
        run.events.append(message)

    async def _tell(
        self, run: RunInFlight, events: deque[Progress | Result | Failed]
    ) -> None:
        """Tell what a run tells, in order, its outcome last."""
        while events:
            message = events[0]
            if not isinstance(message, Progress):
                run.teller = None
                self._finish(run, message)
                return
            await self._tell_progress(run, message)
            events.popleft()
        run.events = run.teller = None

    async def _tell_progress(self, run: RunInFlight, message: Progress) -> None:
        if run.handlers.progress is None:
            return
        try:
            await run.handlers.progress(unpack(message.event))
        except Exception as error:  # noqa: BLE001 - the work goes on unwatched
            log.warning("progress_handler_failed", process=self.name, error=repr(error))


async def _no_tool(name: str, arguments: JSONObject) -> object:
    raise LookupError(f"the call of tool {name!r} has no handler to go to")


def _describe(error: Exception, call: int) -> ErrorInfo:
    text = str(error).encode(errors="backslashreplace").decode()
    kinds = [cls.__name__ for cls in type(error).__mro__]
    return ErrorInfo(kinds=kinds, message=text[:20_000], call=call)
