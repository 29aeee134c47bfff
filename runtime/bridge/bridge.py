"""DspyBridge: the actor that owns one process with the real dspy in it."""

import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import trio

from dspex.runtime.actor import Actor
from dspex.runtime.bridge.calls import (
    DspyCall,
    DspyResult,
    ModelHandler,
    Optimization,
    OptimizedProgram,
    ProgressHandler,
    ToolHandler,
    as_it_is,
)
from dspex.runtime.bridge.connection import Connection
from dspex.runtime.bridge.errors import (
    BridgeError,
    BridgeUnavailableError,
    ProtocolError,
    RemoteError,
    WorkerDiedError,
    WorkerStartTimeoutError,
)
from dspex.runtime.bridge.protocol import (
    PROTOCOL_VERSION,
    Hello,
    Optimize,
    Run,
    Unavailable,
)
from dspex.runtime.bridge.run_in_flight import Handlers, Outcome, RunInFlight
from dspex.runtime.child_process import ChildProcess
from dspex.runtime.envelope import Deferred
from dspex.runtime.errors import ChildStartError
from dspex.runtime.log import get_logger

CHILD: Final = Path(__file__).with_name("child.py")
"""The child's program; it runs without dspex."""

_EXIT_SECONDS: Final = 1.0

T = TypeVar("T")
log = get_logger()


class HostProcess(Protocol):
    """A process that hosts dspy, started in whatever way; as `ChildProcess`."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """None while it runs; then its exit status, or minus the signal number."""
        ...

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """Its last log lines."""
        ...

    def log_as(self, context: Context | None) -> None:
        """Log its next lines in a context."""
        ...

    async def run(self) -> None:
        """Log its stderr until it ends; when cancelled, stop it."""
        ...

    async def stop(self) -> int:
        """Stop it and everything it started."""
        ...


Launcher: TypeAlias = Callable[[str, socket.socket], Awaitable[HostProcess]]
"""Starts a process of that name that serves on the socket; the caller closes it."""


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
        launcher: Launcher | None = None,
    ) -> None:
        """Say which interpreter hosts dspy (default: this one).

        `search_path` are folders from which `package.module:attribute` is imported.
        `start_timeout` seconds for the child to be ready: importing dspy takes about
        two. Over `max_in_flight` runs wait for their turn. A `launcher` starts the
        process in another way; `python` and `search_path` are not used then.
        """
        self._launcher = launcher or _cold_launcher(python, search_path)
        self._start_timeout = start_timeout
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._waiting: deque[tuple[RunInFlight, Deferred[Any]]] = deque()

    async def init(self) -> None:
        """Start the child and wait until it is ready.

        Raises:
            BridgeUnavailableError: no such interpreter, no dspy, a wrong version.
            WorkerStartTimeoutError: it was not ready in time.
            WorkerDiedError: it ended before it was ready.
        """
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours, name=self.name, spawn=self.spawn)
        try:
            with theirs:
                self._process = await self._launcher(self.name, theirs)
        except BaseException:
            self._connection.close()
            raise
        self.spawn(self._own_process)
        self.spawn(self._read)
        self.spawn(self._connection.write)
        with trio.move_on_after(self._start_timeout):
            await self._connection.greeted.wait()
        hello = self._connection.greeting
        if hello is None:
            raise WorkerStartTimeoutError(
                self._process.pid, self._start_timeout, self._process.stderr_tail
            )
        check_greeting(hello)
        log.info("dspy_process_started", actor=self.name, pid=self._process.pid)

    @property
    def is_ending(self) -> bool:
        """Whether the process has closed its channel: it will take no more runs."""
        return self._connection.ended.is_set()

    async def run(
        self,
        call: DspyCall,
        on_model_call: ModelHandler,
        on_tool_call: ToolHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> Deferred[DspyResult]:
        """Run a hosted module once; the answer comes when it is done.

        Every model call it makes goes to `on_model_call`, in this process, and every
        call of one of its tools to `on_tool_call`. When the caller stops waiting,
        those are cancelled and the run makes no more of them.

        Raises:
            RemoteError: the module raised; a failed model call is its `__cause__`.
            UnsupportedValueError: a value that does not travel; nothing was sent.
            FrameTooLargeError: the inputs are over 64 MB; nothing was sent.
        """
        answer: Deferred[DspyResult] = self.deferred()
        handlers = Handlers(on_model_call, on_tool_call, on_progress)
        self._enqueue(call.to_run, call.module, handlers, answer, as_it_is)
        return answer

    async def optimize(
        self,
        optimization: Optimization,
        on_model_call: ModelHandler,
        on_progress: ProgressHandler | None = None,
    ) -> Deferred[OptimizedProgram]:
        """Run one of dspy's optimizers; its model calls are answered as in `run`.

        Raises:
            RemoteError: the optimizer, the program or the metric raised.
            UnsupportedValueError, FrameTooLargeError: nothing was sent.
        """
        answer: Deferred[OptimizedProgram] = self.deferred()
        handlers = Handlers(on_model_call, None, on_progress)

        make, name = optimization.to_optimize, optimization.optimizer
        self._enqueue(make, name, handlers, answer, OptimizedProgram.of)
        return answer

    def start_run(self, run: RunInFlight) -> None:
        """Send a run now, without a turn of this actor: for a pool that counts.

        Raises:
            UnsupportedValueError, FrameTooLargeError, ProtocolError: nothing was sent.
        """
        # What it prints belongs to the run that it has, if that is one.
        self._process.log_as(None if self._connection.is_busy else run.context)
        self._connection.start(run)

    def cancel_run(self, run: RunInFlight) -> None:
        """Stop a run, unless it is over; `settle` tells when the process obeyed."""
        self._connection.cancel(run)

    async def pid(self) -> int:
        """Give the child's process id."""
        return self._process.pid

    async def ping(self) -> Deferred[None]:
        """Answer when the child has answered, whatever else it does."""
        answer: Deferred[None] = self.deferred()
        self.spawn(self._reply_after, self._connection.ping, answer)
        return answer

    async def settle(self) -> Deferred[None]:
        """Answer when no cancelled run is left in the child."""
        answer: Deferred[None] = self.deferred()
        self.spawn(self._reply_after, self._connection.settled, answer)
        return answer

    async def _reply_after(
        self, work: Callable[[], Awaitable[None]], answer: Deferred[None]
    ) -> None:
        with trio.CancelScope() as scope:
            answer.cancel_when_unwanted(scope)
            await work()
            answer.reply(None)

    def _enqueue(
        self,
        make: Callable[[int], Run | Optimize],
        what: str,
        handlers: Handlers,
        answer: Deferred[T],
        shape: Callable[[DspyResult], T],
    ) -> None:
        def done(outcome: Outcome) -> None:
            self._in_flight -= 1
            if isinstance(outcome, RemoteError):
                answer.fail(outcome)
            else:
                answer.reply(shape(outcome))
            self._start_waiting()

        self._waiting.append((RunInFlight(make, what, handlers, done), answer))
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and self._in_flight < self._max_in_flight:
            run, answer = self._waiting.popleft()
            if not answer.is_wanted:
                continue
            try:
                self.start_run(run)
            except BridgeError as error:
                answer.fail(error)
            else:
                self._in_flight += 1
                answer.when_settled(partial(self._unwanted, run))

    def _unwanted(self, run: RunInFlight) -> None:
        if not run.is_over:
            self._connection.cancel(run)
            self._in_flight -= 1
            self._start_waiting()

    async def _own_process(self) -> None:
        process = self._process
        await process.run()
        # Its last answers may still lie in the socket.
        with trio.move_on_after(_EXIT_SECONDS):
            await self._connection.ended.wait()
        status = process.returncode
        killed = status is not None and status < 0
        raise WorkerDiedError(
            process.pid,
            signal=signal.Signals(-(status or 0)).name if killed else None,
            status=None if killed else status,
            last_lines=process.stderr_tail,
        )

    async def _read(self) -> None:
        try:
            await self._connection.read()
        finally:
            self._connection.close()
        # A process that closed its channel is of no more use, alive or not. Its end
        # is `_own_process`'s to tell.
        await trio.sleep(_EXIT_SECONDS)
        await self._process.stop()


def check_greeting(hello: Hello | Unavailable) -> None:
    """Check what a child says of itself first.

    Raises:
        BridgeUnavailableError: it cannot host dspy.
        ProtocolError: it speaks another version of the protocol.
    """
    if isinstance(hello, Unavailable):
        raise BridgeUnavailableError(hello.python, hello.problem, hello.remedy)
    if hello.protocol != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the child speaks protocol {hello.protocol}, not {PROTOCOL_VERSION}"
        )


def start_child(
    python: str | None,
    search_path: Sequence[str | Path],
    *,
    name: str,
    channel: socket.socket,
    mode: str,
) -> ChildProcess:
    """Start `child.py` under `python` (default: this interpreter).

    Raises:
        BridgeUnavailableError: there is no such interpreter.
    """
    program = python or sys.executable
    paths = [str(path) for path in search_path]
    try:
        return ChildProcess.start(
            [program, str(CHILD), mode, str(channel.fileno()), *paths],
            name=name,
            pass_fds=(channel.fileno(),),
        )
    except ChildStartError as error:
        raise BridgeUnavailableError(
            program, "it cannot be executed", "give the path of a Python"
        ) from error


def _cold_launcher(python: str | None, search_path: Sequence[str | Path]) -> "Launcher":
    async def launch(name: str, channel: socket.socket) -> HostProcess:
        return start_child(
            python, search_path, name=name, channel=channel, mode="serve"
        )

    return launch
