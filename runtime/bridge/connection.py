"""Connection: the parent's end of the channel to a process that hosts dspy."""

import itertools
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from dspex.runtime.bridge.calls import (
    DspyResult,
    JSONObject,
    ModelHandler,
    ProgressHandler,
    ToolHandler,
)
from dspex.runtime.bridge.errors import ProtocolError, RemoteError
from dspex.runtime.bridge.frames import FrameReader
from dspex.runtime.bridge.protocol import (
    Cancel,
    Ended,
    ErrorInfo,
    Failed,
    Hello,
    ModelCall,
    ModelReply,
    Optimize,
    Ping,
    Pong,
    Progress,
    Result,
    Run,
    ToolCall,
    ToolReply,
    ToParent,
    Unavailable,
    decode_in_parent,
    encode,
)
from dspex.runtime.bridge.values import pack, unpack
from dspex.runtime.log import get_logger

_READ_BYTES: Final = 1 << 18
_OUTBOX_FRAMES: Final = 64
_MESSAGES_PER_RUN: Final = 1024

log = get_logger()


@dataclass(frozen=True, slots=True)
class Handlers:
    """What answers the calls that a run makes home."""

    model: ModelHandler
    tool: ToolHandler | None = None
    progress: ProgressHandler | None = None


class Connection:
    """Sends runs to one process and follows them; its owner runs `read` and `write`.

    It knows nothing of the process itself: whoever owns that tells when it died, by
    cancelling the tasks that wait here.
    """

    def __init__(self, channel: socket.socket, *, name: str) -> None:
        """Take the parent's end of the channel; `close` closes it."""
        self.name = name
        self.greeting: Hello | Unavailable | None = None
        self.greeted = trio.Event()
        self.ended = trio.Event()
        self._socket = channel
        self._channel = trio.socket.from_stdlib_socket(channel)
        self._numbers = itertools.count(1)
        self._runs: dict[int, _Inbox] = {}
        self._lingering: dict[int, trio.Event] = {}
        self._pings: dict[int, trio.Event] = {}
        self._outbox, self._to_send = trio.open_memory_channel[bytes](_OUTBOX_FRAMES)
        self._writing = 0

    def close(self) -> None:
        """Close the channel; the process takes that as its end."""
        self._channel.close()

    async def read(self) -> None:
        """Take what the process sends until it closes the channel.

        Raises:
            ProtocolError: it sent what the protocol does not allow.
        """
        reader = FrameReader()
        try:
            while data := await self._channel.recv(_READ_BYTES):
                for body in reader.feed(data):
                    self._dispatch(decode_in_parent(body))
        except ConnectionError:
            pass
        self.ended.set()

    async def write(self) -> None:
        """Send what lies in the outbox; one task, so that no frame is cut in half."""
        async for data in self._to_send:
            view = memoryview(data)
            try:
                while view:
                    view = view[await self._channel.send(view) :]
            except (OSError, trio.ClosedResourceError):
                return  # whoever owns the process sees the same end
            self._writing -= 1

    async def _send(self, data: bytes) -> None:
        # Most frames fit into the socket's buffer: no other task needs to wake up.
        if not self._writing:
            try:
                sent = self._socket.send(data)
            except OSError:  # full, or closed, which the writer will see
                sent = 0
            if sent < len(data):
                # Without a checkpoint: half a frame must not be left alone.
                self._outbox.send_nowait(data[sent:])
                self._writing += 1
            return
        self._writing += 1
        try:
            await self._outbox.send(data)
        except BaseException:
            self._writing -= 1
            raise

    async def run(
        self, make: Callable[[int], Run | Optimize], what: str, handlers: Handlers
    ) -> DspyResult:
        """Send a run and follow it to its end.

        If cancelled, the process is told; `settled` waits until it has obeyed.

        Raises:
            RemoteError: it raised.
            FrameTooLargeError, UnsupportedValueError, ProtocolError: not sent.
        """
        number = next(self._numbers)
        data = encode(make(number), what=f"the inputs of {what}")
        inbox = self._runs[number] = _Inbox()
        outcome: DspyResult | RemoteError | None = None
        try:
            await self._send(data)
            outcome = await self._follow(inbox, handlers)
        finally:
            del self._runs[number]
            if outcome is None:
                self._cancel(number)
        if isinstance(outcome, RemoteError):
            raise outcome
        return outcome

    async def ping(self) -> None:
        """Return when the process has answered; not bounded, the caller does that."""
        number = next(self._numbers)
        answered = self._pings[number] = trio.Event()
        try:
            await self._send(encode(Ping(number), what="ping"))
            await answered.wait()
        finally:
            del self._pings[number]

    async def settled(self) -> None:
        """Return when no cancelled run is left in the process; not bounded."""
        while self._lingering:
            await next(iter(self._lingering.values())).wait()

    def _cancel(self, number: int) -> None:
        self._lingering[number] = trio.Event()
        try:
            self._outbox.send_nowait(encode(Cancel(number), what="cancel"))
            self._writing += 1
        except trio.WouldBlock:
            # The process reads nothing. It finishes the run in vain, or is killed.
            log.warning("dspy_process_stuck", process=self.name, run=number)

    def _dispatch(self, message: ToParent) -> None:
        if isinstance(message, Hello | Unavailable):
            self.greeting = message
            self.greeted.set()
            return
        if isinstance(message, Pong):
            if (answered := self._pings.get(message.id)) is not None:
                answered.set()
            return
        number = (
            message.run if isinstance(message, ModelCall | ToolCall) else message.id
        )
        run = self._runs.get(number)
        if run is not None:
            if isinstance(message, Ended):
                raise ProtocolError(f"run {number} ended without an answer")
            run.put(message)
        elif isinstance(message, Ended | Result | Failed):
            if (ended := self._lingering.pop(number, None)) is not None:
                ended.set()
            else:
                log.warning("dspy_unknown_run", process=self.name, run=number)
        # What a cancelled run still asks or tells is dropped.

    async def _follow(
        self, inbox: "_Inbox", handlers: Handlers
    ) -> DspyResult | RemoteError:
        message = await inbox.get()
        if isinstance(message, Result | Failed):
            return _outcome(message, {})
        failures: dict[int, Exception] = {}
        async with trio.open_nursery() as nursery:
            while True:
                if isinstance(message, ModelCall):
                    nursery.start_soon(self._answer_model, message, handlers, failures)
                elif isinstance(message, ToolCall):
                    nursery.start_soon(self._answer_tool, message, handlers, failures)
                elif isinstance(message, Progress):
                    await self._tell_progress(message, handlers)
                else:
                    nursery.cancel_scope.cancel()
                    return _outcome(message, failures)
                message = await inbox.get()
        raise AssertionError("unreachable")

    async def _tell_progress(self, message: Progress, handlers: Handlers) -> None:
        if handlers.progress is None:
            return
        try:
            await handlers.progress(unpack(message.event))
        except Exception as error:  # noqa: BLE001 - the work goes on unwatched
            log.warning("progress_handler_failed", process=self.name, error=repr(error))

    async def _answer_model(
        self, call: ModelCall, handlers: Handlers, failures: dict[int, Exception]
    ) -> None:
        try:
            response = await handlers.model(call.request)
            reply = ModelReply(call.id, response=response)
            data = encode(reply, what="the answer of a model")
        except Exception as error:  # noqa: BLE001 - the hosted dspy gets it
            failures[call.id] = error
            reply = ModelReply(call.id, error=_describe(error, call.id))
            data = encode(reply, what="a model's error")
        await self._send(data)

    async def _answer_tool(
        self, call: ToolCall, handlers: Handlers, failures: dict[int, Exception]
    ) -> None:
        what = f"the result of tool {call.name!r}"
        try:
            tool = handlers.tool or _no_tool
            value = await tool(call.name, unpack(call.arguments))
            data = encode(ToolReply(call.id, pack(value, what)), what=what)
        except Exception as error:  # noqa: BLE001 - the hosted dspy gets it
            failures[call.id] = error
            reply = ToolReply(call.id, error=_describe(error, call.id))
            data = encode(reply, what="a tool's error")
        await self._send(data)


class _Inbox:
    """The messages of one run, for the one task that follows it."""

    __slots__ = ("_messages", "_task")

    def __init__(self) -> None:
        self._messages: deque[ToParent] = deque()
        self._task: trio.lowlevel.Task | None = None

    def put(self, message: ToParent) -> None:
        """Add a message.

        Raises:
            ProtocolError: more wait than any run has reason to send.
        """
        if len(self._messages) >= _MESSAGES_PER_RUN:
            raise ProtocolError(
                f"a run has over {_MESSAGES_PER_RUN} messages in its queue"
            )
        self._messages.append(message)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def get(self) -> ToParent:
        """Take the next message, in order."""
        if not self._messages:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        return self._messages.popleft()

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


def _outcome(
    message: ToParent, failures: dict[int, Exception]
) -> DspyResult | RemoteError:
    if isinstance(message, Result):
        return DspyResult(
            outputs=unpack(message.outputs),
            usage=message.usage,
            model_calls=message.model_calls,
            trace=tuple(unpack(entry) for entry in message.trace),
        )
    if isinstance(message, Failed):
        info = message.error
        error = RemoteError(info.kinds[0], info.message, info.traceback)
        if info.call is not None:
            error.__cause__ = failures.get(info.call)
        return error
    raise AssertionError(f"{type(message).__name__} is no answer to a run")


async def _no_tool(name: str, arguments: JSONObject) -> object:
    raise LookupError(f"the call of tool {name!r} has no handler to go to")


def _describe(error: Exception, call: int) -> ErrorInfo:
    text = str(error).encode(errors="backslashreplace").decode()
    kinds = [cls.__name__ for cls in type(error).__mro__]
    return ErrorInfo(kinds=kinds, message=text[:20_000], call=call)
