"""ForkServer: the actor that owns a process which forks ready dspy processes."""

import array
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Sequence
from contextvars import Context
from pathlib import Path
from typing import Final

import trio

from dspex.runtime.actor import Actor
from dspex.runtime.bridge.bridge import check_greeting, start_child
from dspex.runtime.bridge.errors import (
    ForkFailedError,
    WorkerDiedError,
    WorkerStartTimeoutError,
)
from dspex.runtime.bridge.protocol import (
    RIGHTS_BYTES,
    Fork,
    Forked,
    ForkFailed,
    FromForkServer,
    Hello,
    Limits,
    Reaped,
    Unavailable,
    decode_from_fork_server,
    descriptors,
    encode_fork,
)
from dspex.runtime.child_process import ChildProcess, live_members
from dspex.runtime.envelope import Deferred
from dspex.runtime.errors import ChildNotGoneError
from dspex.runtime.line_log import LineLog
from dspex.runtime.log import get_logger

_MESSAGE_BYTES: Final = 1 << 16
_EXIT_SECONDS: Final = 1.0
_GONE_SECONDS: Final = 5.0

log = get_logger()


class ForkedProcess:
    """A process that the fork-server forked; used like a `ChildProcess`."""

    def __init__(self, name: str, pid: int, pidfd: int, stderr: int) -> None:
        self.name = name
        self.pid = pid
        self._pidfd = pidfd
        self._log = LineLog(stderr, child=name, pid=pid)
        self._status: int | None = None
        self._reaped = trio.Event()

    @property
    def returncode(self) -> int | None:
        """None while it runs; then its exit status, or minus the signal number."""
        return self._status

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """Its last log lines, oldest first."""
        return self._log.tail

    def log_as(self, context: Context | None) -> None:
        """Log its next lines in a context; see `LineLog.log_as`."""
        self._log.log_as(context)

    def reaped(self, status: int | None) -> None:
        """Take note of its end, told by the fork-server; None: nobody will tell."""
        self._status = status
        self._reaped.set()

    async def run(self) -> None:
        """Log its stderr until it ends; when cancelled, stop it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._log.run)
                await self._wait()
                nursery.cancel_scope.deadline = trio.current_time() + _EXIT_SECONDS / 2
        finally:
            with trio.CancelScope(shield=True):
                await self.stop()
            os.close(self._pidfd)

    async def stop(self, grace_seconds: float = 1.0) -> int:
        """Stop it and everything it started: SIGTERM, the grace, SIGKILL.

        Raises:
            ChildNotGoneError: it survived SIGKILL.
        """
        if self._status is None:
            try:
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)
                with trio.move_on_after(grace_seconds):
                    await self._wait()
            finally:
                self._signal(signal.SIGKILL)
        with trio.move_on_after(_GONE_SECONDS):
            return await self._wait()
        raise ChildNotGoneError(self.name, self.pid, tuple(live_members(self.pid)))

    async def _wait(self) -> int:
        if self._status is None:
            pidfd = os.dup(self._pidfd)
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                trio.lowlevel.notify_closing(pidfd)
                os.close(pidfd)
            # The fork-server kills what it leaves behind, reaps it, and tells.
            with trio.move_on_after(_EXIT_SECONDS):
                await self._reaped.wait()
        if self._status is None:
            # The fork-server died first, and the kernel killed its children. What
            # those had started is left for us to kill.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._status = -signal.SIGKILL
        return self._status

    def _signal(self, number: signal.Signals) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


class ForkServer(Actor):
    """Forks ready processes from one that has imported dspy once.

    A fork is ready in milliseconds and shares most of its memory. When the server
    dies, so do the processes it forked.
    """

    def __init__(
        self,
        *,
        python: str | None = None,
        search_path: Sequence[str | Path] = (),
        start_timeout: float = 60.0,
    ) -> None:
        """Take the same as `DspyBridge`."""
        self._python = python
        self._search_path = search_path
        self._start_timeout = start_timeout
        self._numbers = itertools.count(1)
        self._forking: dict[int, tuple[str, int, Deferred[ForkedProcess]]] = {}
        self._processes: dict[int, ForkedProcess] = {}
        self._greeting: Hello | Unavailable | None = None
        self._greeted = trio.Event()

    async def init(self) -> None:
        """Start the server and wait until it has imported dspy.

        Raises:
            BridgeUnavailableError: no such interpreter, no dspy, a wrong version.
            WorkerStartTimeoutError: it was not ready in time.
            WorkerDiedError: it ended before it was ready.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = trio.socket.from_stdlib_socket(ours)
        try:
            with theirs:
                self._child = start_child(
                    self._python,
                    self._search_path,
                    name=self.name,
                    channel=theirs,
                    mode="fork",
                )
        except BaseException:
            self._control.close()
            raise
        self.spawn(self._own_child)
        self.spawn(self._read)
        with trio.move_on_after(self._start_timeout):
            await self._greeted.wait()
        if self._greeting is None:
            raise WorkerStartTimeoutError(
                self._child.pid, self._start_timeout, self._child.stderr_tail
            )
        check_greeting(self._greeting)
        log.info("fork_server_started", actor=self.name, pid=self._child.pid)

    async def fork(
        self, name: str, channel: socket.socket, limits: Limits
    ) -> Deferred[ForkedProcess]:
        """Fork a process that serves on `channel`, whose end the caller closes.

        Raises:
            ForkFailedError: the system refused; nothing was started.
        """
        number = next(self._numbers)
        answer: Deferred[ForkedProcess] = self.deferred()
        stderr, theirs = os.pipe()
        self._forking[number] = (name, stderr, answer)
        fds = array.array("i", [channel.fileno(), theirs])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        sent = False
        try:
            with trio.move_on_after(_EXIT_SECONDS):
                order = encode_fork(Fork(number, limits))
                await self._control.sendmsg([order], rights)
                sent = True
        finally:
            os.close(theirs)
        if not sent:
            self._dispatch(ForkFailed(number, "the fork-server takes no orders"), [])
        return answer

    async def pid(self) -> int:
        """Give the server's process id."""
        return self._child.pid

    @property
    def child(self) -> ChildProcess:
        """The server itself, for who looks at the actor that has started it."""
        return self._child

    async def _own_child(self) -> None:
        try:
            await self._child.run()
        finally:
            for _, stderr, _ in self._forking.values():
                os.close(stderr)
            for process in self._processes.values():
                process.reaped(None)
        status = self._child.returncode
        killed = status is not None and status < 0
        raise WorkerDiedError(
            self._child.pid,
            signal=signal.Signals(-(status or 0)).name if killed else None,
            status=None if killed else status,
            last_lines=self._child.stderr_tail,
        )

    async def _read(self) -> None:
        with self._control, contextlib.suppress(ConnectionError):
            while True:
                received = await self._control.recvmsg(_MESSAGE_BYTES, RIGHTS_BYTES)
                body, ancillary, _, _ = received
                if not body:
                    break
                self._dispatch(decode_from_fork_server(body), descriptors(ancillary))

    def _dispatch(self, message: FromForkServer, fds: list[int]) -> None:
        if isinstance(message, Hello | Unavailable):
            self._greeting = message
            self._greeted.set()
        elif isinstance(message, Forked):
            name, stderr, answer = self._forking.pop(message.id)
            if not answer.is_wanted:
                # Its caller has closed the channel: the process sees that and ends.
                os.close(stderr)
                os.close(fds[0])
                return
            process = ForkedProcess(name, message.pid, fds[0], stderr)
            self._processes[message.pid] = process
            answer.reply(process)
        elif isinstance(message, ForkFailed):
            _, stderr, answer = self._forking.pop(message.id)
            os.close(stderr)
            answer.fail(ForkFailedError(message.problem))
        else:
            self._reaped(message)

    def _reaped(self, message: Reaped) -> None:
        process = self._processes.pop(message.pid, None)
        if process is not None:
            process.reaped(message.status)
