"""A child process that cannot outlive its owner.

`subprocess.Popen` is called on the trio thread, on purpose: `trio.run_process` forks
in a worker thread, and the kernel's parent-death signal then fires when that idle
thread ends, ten seconds later. The child leads its own session and process group, so
its own children can be killed with it.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextvars import Context
from pathlib import Path
from typing import Final, Self

import trio

from dspex.runtime import child_guard
from dspex.runtime.child_pipes import child_pipes
from dspex.runtime.errors import ChildNotGoneError, ChildStartError
from dspex.runtime.line_log import LineLog

GUARD: Final = Path(child_guard.__file__)
"""The child's half of the protection, by path: a script, or to be loaded by path."""

_DRAIN_SECONDS = 0.5
_GONE_SECONDS = 5.0


class ChildProcess:
    """One child process: its pid, its end, its stderr as log lines.

    The owner runs `run()` as a task of its own nursery (an actor: `self.spawn`). When
    that task ends, for whatever reason, the child's whole process group is gone.
    """

    def __init__(
        self, name: str, popen: subprocess.Popen[bytes], lifeline: int, stderr: int
    ) -> None:
        """Use `ChildProcess.start`."""
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._lifeline = lifeline
        self._log = LineLog(stderr, child=name, pid=popen.pid)

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | None = None,
        stdout: int | None = None,
        cwd: str | None = None,
    ) -> Self:
        """Start `argv` in a session of its own; call it on the trio thread.

        `env` replaces the environment (default: the parent's) and gets the two
        variables that `child_guard.guard` reads. `pass_fds` keep their numbers in
        the child and stay open in the parent; stdin is empty unless given; stdout
        goes where stderr goes, unless it is given.

        Raises:
            ChildStartError: `argv[0]` cannot be executed.
        """
        environment = dict(os.environ if env is None else env)
        with child_pipes() as pipes:
            lifeline, log = pipes.to_child(), pipes.from_child()
            environment[child_guard.PARENT_PID] = str(os.getpid())
            environment[child_guard.LIFELINE_FD] = str(lifeline.theirs)
            try:
                popen = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL if stdin is None else stdin,
                    stdout=log.theirs if stdout is None else stdout,
                    stderr=log.theirs,
                    env=environment,
                    cwd=cwd,
                    pass_fds=(lifeline.theirs, *pass_fds),
                    start_new_session=True,
                )
            except OSError as error:
                raise ChildStartError(name, argv[0], str(error)) from error
        return cls(name, popen, lifeline.ours, log.ours)

    @property
    def returncode(self) -> int | None:
        """None while it runs; then its exit status, or minus the signal number."""
        return self._popen.returncode

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """Its last lines of stderr and stdout, oldest first; at most 40."""
        return self._log.tail

    def log_as(self, context: Context | None) -> None:
        """Log its next lines in a context; see `LineLog.log_as`."""
        self._log.log_as(context)

    async def run(self) -> None:
        """Log the child's stderr until it exits; leave no process of its group.

        Cancellation stops the child: SIGTERM, one second, SIGKILL. That part is
        shielded and bounded.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._log.run)
                await self.wait()
                # A grandchild may hold the pipe open: what is in it is read, then
                # it is closed.
                nursery.cancel_scope.deadline = trio.current_time() + _DRAIN_SECONDS
        finally:
            with trio.CancelScope(shield=True):
                await self.stop(grace_seconds=1.0)

    async def wait(self) -> int:
        """Return its exit status (minus the signal number) once it has ended."""
        if self._popen.returncode is None:
            # Each waiter waits on its own descriptor: trio allows one task for each.
            pidfd = os.dup(self._pidfd)
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                trio.lowlevel.notify_closing(pidfd)
                os.close(pidfd)
            self._reap()
        return self._popen.wait()  # known by now

    async def stop(self, grace_seconds: float = 1.0) -> int:
        """Stop the whole process group and return the exit status, once all is gone.

        SIGTERM, up to `grace_seconds`, SIGKILL, at most 5 s. Stopping a dead child
        stops what it left behind. If cancelled, the group was at least told SIGKILL.

        Raises:
            ChildNotGoneError: something of the group survived SIGKILL.
        """
        if self._popen.returncode is None:
            try:
                self._signal_group(signal.SIGTERM)
                self._signal_group(signal.SIGCONT)
                with trio.move_on_after(grace_seconds):
                    await self.wait()
            finally:
                if self._popen.returncode is None:
                    self._signal_group(signal.SIGKILL)
        with trio.move_on_after(_GONE_SECONDS):
            status = await self.wait()
            # The kernel sends no event when a process group is empty.
            while live_members(self.pid):  # noqa: ASYNC110
                await trio.sleep(0.01)
            return status
        raise ChildNotGoneError(self.name, self.pid, tuple(live_members(self.pid)))

    def resume(self) -> None:
        """Let it go on if a signal has stopped it."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def _reap(self) -> None:
        if self._popen.returncode is not None:
            return
        # While the leader is not reaped its pid, and so its group's id, cannot be
        # given to another process: this never hits a stranger.
        self._signal_group(signal.SIGKILL)
        self._popen.wait()
        os.close(self._pidfd)
        os.close(self._lifeline)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def live_members(group: int) -> list[int]:
    """Give the processes of a group that run; zombies hold nothing and don't count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []
    members: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        # pid (name) state ppid pgrp ...: the name may hold spaces and brackets.
        state, _, pgrp = stat.rpartition(")")[2].split()[:3]
        if int(pgrp) == group and state != "Z":
            members.append(int(entry.name))
    return members
