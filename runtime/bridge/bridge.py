"""DspyBridge: the actor that owns one process with the real dspy in it."""

import contextlib
import itertools
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
import trio

from dspex.runtime.actor import Actor, Refuse
from dspex.runtime.bridge.calls import DspyCall, DspyResult, ModelHandler
from dspex.runtime.bridge.errors import (
    BridgeError,
    BridgeUnavailableError,
    ProtocolError,
    RemoteError,
    WorkerDiedError,
    WorkerStartTimeoutError,
)
from dspex.runtime.bridge.frames import FrameReader
from dspex.runtime.bridge.protocol import (
    PROTOCOL_VERSION,
    Cancel,
    ErrorInfo,
    Failed,
    Hello,
    ModelCall,
    ModelReply,
    Result,
    ToParent,
    Unavailable,
    decode_in_parent,
    encode,
)
from dspex.runtime.bridge.values import unpack
from dspex.runtime.child_process import ChildProcess
from dspex.runtime.envelope import Deferred
from dspex.runtime.errors import ChildStartError

CHILD: Final = Path(__file__).with_name("child.py")
"""The child's program; it runs without dspex."""

_READ_BYTES: Final = 1 << 18
_OUTBOX_FRAMES: Final = 64
_MESSAGES_PER_RUN: Final = 256
_EXIT_SECONDS: Final = 1.0

log = structlog.get_logger("dspex")


class DspyBridge(Actor):
    """Runs dspy modules in a process of its own, several at a time.

    The process lives as long as the actor: when either ends, so does the other, and
    every caller in flight hears of it. A supervisor starts the next one.
    """

    def __init__(
        self,
        *,
        python: str | None = None,
        search_path: Sequence[str | Path] = (),
        start_timeout: float = 60.0,
        max_in_flight: int = 64,
    ) -> None:
        """Say which interpreter hosts dspy (default: this one).

        `search_path` are folders from which `package.module:attribute` is imported.
        `start_timeout` seconds for the child to be ready: importing dspy takes about
        two. Over `max_in_flight` runs wait for their turn.
        """
        self._python = python or sys.executable
        self._search_path = [str(path) for path in search_path]
        self._start_timeout = start_timeout
        self._limit = trio.CapacityLimiter(max_in_flight)
        self._numbers = itertools.count(1)
        self._runs: dict[int, trio.MemorySendChannel[ToParent]] = {}
        self._greeting: Hello | Unavailable | None = None
        self._greeted = trio.Event()
        self._channel_ended = trio.Event()
        self._outbox, self._to_send = trio.open_memory_channel[bytes](_OUTBOX_FRAMES)

    async def init(self) -> None:
        """Start the child and wait until it is ready.

        Raises:
            BridgeUnavailableError: no such interpreter, no dspy, a wrong version.
            WorkerStartTimeoutError: it was not ready in time.
            WorkerDiedError: it ended before it was ready.
        """
        self._start_child()
        with trio.move_on_after(self._start_timeout):
            await self._greeted.wait()
        hello = self._greeting
        if hello is None:
            raise WorkerStartTimeoutError(
                self._child.pid, self._start_timeout, self._child.stderr_tail
            )
        if isinstance(hello, Unavailable):
            raise BridgeUnavailableError(hello.python, hello.problem, hello.remedy)
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the child speaks protocol {hello.protocol}, not {PROTOCOL_VERSION}"
            )
        log.info(
            "dspy_process_started",
            actor=self.name,
            pid=hello.pid,
            dspy=hello.dspy,
            python=hello.python,
        )

    async def run(
        self, call: DspyCall, on_model_call: ModelHandler
    ) -> Deferred[DspyResult]:
        """Run a hosted module once; the answer comes when it is done.

        Every model call it makes goes to `on_model_call`, in this process. When the
        caller stops waiting, its model calls are cancelled and the run makes no more.

        Raises:
            RemoteError: the module raised; a failed model call is its `__cause__`.
            UnsupportedValueError: a value that does not travel; nothing was sent.
            FrameTooLargeError: the inputs are over 64 MB; nothing was sent.
        """
        number = next(self._numbers)
        try:
            data = encode(call.to_run(number), what=f"the inputs of {call.module}")
        except BridgeError as error:
            raise Refuse(error) from error
        answer: Deferred[DspyResult] = self.deferred()
        self.spawn(self._run, number, data, on_model_call, answer)
        return answer

    async def pid(self) -> int:
        """Give the child's process id."""
        return self._child.pid

    # The child and its channel.

    def _start_child(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = trio.socket.from_stdlib_socket(ours)
        try:
            self._child = ChildProcess.start(
                [self._python, str(CHILD), str(theirs.fileno()), *self._search_path],
                name=self.name,
                pass_fds=(theirs.fileno(),),
            )
        except ChildStartError as error:
            self._channel.close()
            raise BridgeUnavailableError(
                self._python, "it cannot be executed", "give the path of a Python"
            ) from error
        finally:
            theirs.close()
        self.spawn(self._own_child)
        self.spawn(self._read)
        self.spawn(self._write)

    async def _own_child(self) -> None:
        await self._child.run()
        # Its last answers may still lie in the socket.
        with trio.move_on_after(_EXIT_SECONDS):
            await self._channel_ended.wait()
        status = self._child.returncode
        died = status is not None and status < 0
        raise WorkerDiedError(
            self._child.pid,
            signal=signal.Signals(-(status or 0)).name if died else None,
            status=None if died else status,
            last_lines=self._child.stderr_tail,
        )

    async def _read(self) -> None:
        reader = FrameReader()
        with self._channel:
            try:
                while data := await self._channel.recv(_READ_BYTES):
                    for body in reader.feed(data):
                        self._dispatch(decode_in_parent(body))
            except ConnectionError:
                pass
            self._channel_ended.set()
            # A child that closed its channel is of no more use, alive or not. Its
            # end is `_own_child`'s to tell.
            await trio.sleep(_EXIT_SECONDS)
            await self._child.stop()

    async def _write(self) -> None:
        # One task writes, so that a cancelled run cannot leave half a frame.
        async for data in self._to_send:
            view = memoryview(data)
            try:
                while view:
                    view = view[await self._channel.send(view) :]
            except (OSError, trio.ClosedResourceError):
                return  # `_read` and `_own_child` see the same end

    def _dispatch(self, message: ToParent) -> None:
        if isinstance(message, Hello | Unavailable):
            self._greeting = message
            self._greeted.set()
            return
        number = message.run if isinstance(message, ModelCall) else message.id
        run = self._runs.get(number)
        if run is None:
            # The run was cancelled; the child did not know yet.
            log.debug("dspy_answer_dropped", actor=self.name, run=number)
            return
        try:
            run.send_nowait(message)
        except trio.WouldBlock:
            raise ProtocolError(
                f"run {number} has over {_MESSAGES_PER_RUN} messages in the queue"
            ) from None

    # One run.

    async def _run(
        self,
        number: int,
        data: bytes,
        on_model_call: ModelHandler,
        answer: Deferred[DspyResult],
    ) -> None:
        inbox, messages = trio.open_memory_channel[ToParent](_MESSAGES_PER_RUN)
        with trio.CancelScope() as scope:
            answer.cancel_when_unwanted(scope)
            async with self._limit:
                self._runs[number] = inbox
                await self._outbox.send(data)
                try:
                    outcome = await self._follow(messages, on_model_call)
                except trio.Cancelled:
                    self._tell_cancelled(number)
                    raise
                finally:
                    del self._runs[number]
            if isinstance(outcome, DspyResult):
                answer.reply(outcome)
            else:
                answer.fail(outcome)

    async def _follow(
        self,
        messages: trio.MemoryReceiveChannel[ToParent],
        on_model_call: ModelHandler,
    ) -> DspyResult | RemoteError:
        failures: dict[int, Exception] = {}
        async with trio.open_nursery() as nursery:
            async for message in messages:
                if isinstance(message, ModelCall):
                    nursery.start_soon(
                        self._answer_model_call, message, on_model_call, failures
                    )
                    continue
                nursery.cancel_scope.cancel()
                if isinstance(message, Result):
                    return DspyResult(
                        unpack(message.outputs), message.usage, message.model_calls
                    )
                if isinstance(message, Failed):
                    return _remote_error(message.error, failures)
                raise ProtocolError(f"{type(message).__name__} is no answer to a run")
        raise AssertionError("the channel of a run is never closed")

    async def _answer_model_call(
        self,
        call: ModelCall,
        on_model_call: ModelHandler,
        failures: dict[int, Exception],
    ) -> None:
        try:
            response = await on_model_call(call.request)
            reply = ModelReply(call.id, response=response)
            data = encode(reply, what="the answer of a model")
        except Exception as error:  # noqa: BLE001 - the hosted dspy gets it
            failures[call.id] = error
            kinds = [cls.__name__ for cls in type(error).__mro__]
            info = ErrorInfo(kinds=kinds, message=str(error), call=call.id)
            data = encode(ModelReply(call.id, error=info), what="a model's error")
        await self._outbox.send(data)

    def _tell_cancelled(self, number: int) -> None:
        # With a full outbox the child is stuck; it then finishes the run in vain.
        with contextlib.suppress(trio.WouldBlock):
            self._outbox.send_nowait(encode(Cancel(number), what="cancel"))


def _remote_error(info: ErrorInfo, failures: dict[int, Exception]) -> RemoteError:
    error = RemoteError(info.kinds[0], info.message, info.traceback)
    if info.call is not None:
        error.__cause__ = failures.get(info.call)
    return error
