"""The fork-server: imported dspy once, forks ready processes, leaves none behind.

It runs no user code and no thread, so it always obeys, and it is the subreaper of
everything below: what a worker leaves behind, daemons included, becomes its child and
is killed. When the parent is gone it kills all of them and ends.
"""

import array
import contextlib
import ctypes
import gc
import json
import os
import random
import select
import signal
import socket
import traceback
from typing import Any

from dspex.runtime import child_guard
from dspex.runtime.bridge.child_host import serve
from dspex.runtime.bridge.child_limits import apply_limits
from dspex.runtime.bridge.child_modules import run_module
from dspex.runtime.bridge.protocol import (
    RIGHTS_BYTES,
    Fork,
    Forked,
    ForkFailed,
    FromForkServer,
    Hello,
    JSONObject,
    ModelReply,
    Reaped,
    Run,
    decode_in_fork_server,
    descriptors,
    encode,
    encode_fork,
)

_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES = 1 << 16
_TICK_MS = 1000


class ForkServer:
    """The loop and the processes it has forked, by pid."""

    def __init__(self, control: socket.socket, hello: Hello) -> None:
        self._control = control
        self._hello = hello
        self._parent = os.getppid()
        self._workers: set[int] = set()
        self._told_to_end = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def run(self) -> None:
        """Obey until the parent closes the control socket or is gone."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._note_end)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._send(self._hello)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while os.getppid() == self._parent and not self._told_to_end:
            ready = {fd for fd, _ in poll.poll(_TICK_MS)}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            if self._control.fileno() in ready and not self._obey():
                break
            self._reap()
        self._end()

    def _note_end(self, number: int, frame: object) -> None:
        self._told_to_end = True

    def _obey(self) -> bool:
        body, fds = _receive(self._control)
        if not body:
            return False
        order = decode_in_fork_server(body)
        try:
            pid = os.fork()
        except OSError as error:
            self._send(ForkFailed(order.id, str(error)))
        else:
            if pid == 0:
                self._become_worker(order, fds)
            self._workers.add(pid)
            # Opened before anyone can reap it, so it is of this process for sure.
            pidfd = os.pidfd_open(pid)
            self._send(Forked(order.id, pid), pidfd)
            os.close(pidfd)
        for fd in fds:
            os.close(fd)
        return True

    def _become_worker(self, order: Fork, fds: "list[int]") -> None:
        try:
            channel_fd, stderr_fd = fds
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(stderr_fd, 2)
            os.dup2(stderr_fd, 1)
            os.close(stderr_fd)
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._control.close()
            child_guard.die_with_parent(self._hello.pid)
            random.seed()
            apply_limits(order.limits)
            hello = Hello(
                self._hello.protocol, os.getpid(), self._hello.python, self._hello.dspy
            )
            serve(socket.socket(fileno=channel_fd), hello)
        except BaseException:  # noqa: BLE001 - nothing above may run in this process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _reap(self) -> None:
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                break
            pid = info.si_pid
            if pid in self._workers:
                # Not reaped yet, so its number is nobody else's.
                _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if pid in self._workers:
                self._workers.discard(pid)
                self._kill_strays()
                code = os.waitstatus_to_exitcode(status)
                self._send(Reaped(pid, code))
        self._kill_strays()

    def _kill_strays(self) -> None:
        """Kill what was left to this process, unless a live worker's session has it."""
        while strays := [
            pid
            for pid in _children()
            if pid not in self._workers and _session(pid) not in self._workers
        ]:
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _send(self, message: FromForkServer, *fds: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        # A parent that is gone is seen at the next turn.
        with contextlib.suppress(OSError):
            self._control.sendmsg([encode_fork(message)], [rights] if fds else [])

    def _end(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
        self._workers.clear()
        while True:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                os._exit(0)


def serve_forks(control: socket.socket, hello: Hello) -> None:
    """Warm dspy up, then fork on demand until the parent is gone."""
    _warm_up()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # From here the control socket's end is the parent's end: this process must live
    # long enough to kill what it has forked.
    child_guard.outlive_parent()
    # What was allocated so far stays shared: the collector shall not touch it.
    gc.collect()
    gc.freeze()
    ForkServer(control, hello).run()


class _ScriptedCalls:
    """Stands in for the parent while nobody has asked for anything yet."""

    def model(self, run: int, name: str, request: JSONObject) -> ModelReply:
        answer = {"answer": "yes", "reasoning": "so"}
        tokens = dict.fromkeys(("input_tokens", "output_tokens"), 0)
        cached = dict.fromkeys(("cached_tokens", "reasoning_tokens"), 0)
        text = json.dumps(answer)
        if request["output_schema"] is None:
            text = "".join(f"[[ ## {key} ## ]]\n{answer[key]}\n" for key in answer)
        choice = {"text": text, "tool_calls": [], "finish_reason": "stop"}
        usage = {**tokens, **cached}
        response = {"choices": [choice], "usage": usage, "model": "scripted"}
        return ModelReply(1, response=response)

    def check(self, run: int) -> None:
        """Nothing is ever cancelled."""


def _warm_up() -> None:
    """Run what most runs run, so that all it needs is imported and cached."""
    calls: Any = _ScriptedCalls()  # Any: the two methods that a run needs
    for module in ("dspy.Predict", "dspy.ChainOfThought"):
        for adapter in (None, "json"):
            for signature in ("question -> answer", "a: int, b: list[str] -> answer"):
                inputs: JSONObject = {"question": "?"}
                if signature.startswith("a:"):
                    inputs = {"a": 1, "b": ["c"]}
                run = Run(0, module, inputs, signature, adapter=adapter)
                encode(run_module(run, calls), what="nothing")


def _receive(control: socket.socket) -> "tuple[bytes, list[int]]":
    try:
        body, ancillary, _, _ = control.recvmsg(_MESSAGE_BYTES, RIGHTS_BYTES)
    except ConnectionError:
        return b"", []
    return body, descriptors(ancillary)


def _kill_group(pid: int) -> None:
    # A worker that has not called setsid yet is killed by its pid alone.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _children() -> "list[int]":
    try:
        with open("/proc/thread-self/children") as children:
            return [int(pid) for pid in children.read().split()]
    except FileNotFoundError:  # a kernel built without that list
        return [int(pid) for pid in os.listdir("/proc") if _parent(pid) == os.getpid()]


def _parent(name: str) -> "int | None":
    try:
        with open(f"/proc/{name}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except OSError:  # no process, or gone
        return None


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
