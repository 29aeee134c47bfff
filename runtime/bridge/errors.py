"""Errors of the bridge.

BridgeError
├── BridgeUnavailableError     the child cannot host dspy: missing, wrong version, ...
├── WorkerStartTimeoutError    the child did not say hello in time
├── WorkerDiedError            the child ended: a signal, an exit, a closed channel
├── ForkFailedError            the system refused another process
├── RunTimeoutError            a run took too long; its process was killed
├── PoolFullError              the queue of the pool is full
├── QueueTimeoutError          no process was free in time
├── SessionWorkerUnavailableError  the process of a session is gone
├── TooManySessionsError       the pool keeps no more sessions
├── ProtocolError              the child sent what the protocol does not know
│   └── FrameTooLargeError     a message over the limit; it was not sent
├── UnsupportedValueError      a value that does not travel; it was not sent
└── RemoteError                Python code in the child raised
"""

from typing import Final

from dspex.runtime.errors import DspexError

# Signals that come from without: an operator, a supervisor, the kernel short of memory.
_FROM_WITHOUT: Final = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


class BridgeError(DspexError):
    """Something with a child process that hosts dspy."""


class BridgeUnavailableError(BridgeError):
    """The interpreter cannot host dspy; the message says what to install."""

    def __init__(self, python: str, problem: str, remedy: str) -> None:
        super().__init__(f"{python} cannot host dspy: {problem}; {remedy}")
        self.python = python
        self.problem = problem
        self.remedy = remedy


class WorkerStartTimeoutError(BridgeError):
    """The child was started and did not say hello within `seconds`."""

    def __init__(self, pid: int, seconds: float, last_lines: tuple[str, ...]) -> None:
        super().__init__(
            f"dspy process {pid} was not ready within {seconds:g} s{_tail(last_lines)}"
        )
        self.pid = pid
        self.seconds = seconds
        self.last_lines = last_lines


class WorkerDiedError(BridgeError):
    """The child process `pid` ended while it was needed.

    `signal` is the signal's name (`SIGKILL`, `SIGSEGV`, ...) or None, `status` its
    exit status or None, `last_lines` its last log lines.
    """

    def __init__(
        self,
        pid: int,
        *,
        signal: str | None,
        status: int | None,
        last_lines: tuple[str, ...],
        request: str | None = None,
    ) -> None:
        how = f"by {signal}" if signal else f"with exit status {status}"
        during = f" during {request}" if request else ""
        super().__init__(f"dspy process {pid} died {how}{during}{_tail(last_lines)}")
        self.pid = pid
        self.signal = signal
        self.status = status
        self.last_lines = last_lines
        self.request = request

    @property
    def is_of_its_run(self) -> bool:
        """Whether it died of what it ran: it exited, or crashed, while it had a run.

        A process that was killed may have died of anything.
        """
        return self.request is not None and self.signal not in _FROM_WITHOUT

    def during(self, request: str) -> "WorkerDiedError":
        """Give the same for one of the runs that it had."""
        return WorkerDiedError(
            self.pid,
            signal=self.signal,
            status=self.status,
            last_lines=self.last_lines,
            request=request,
        )


class ForkFailedError(BridgeError):
    """The operating system refused to fork another process."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"no dspy process could be forked: {problem}")
        self.problem = problem


class RunTimeoutError(BridgeError):
    """A run took longer than `seconds`; the process it ran in was killed."""

    def __init__(self, module: str, seconds: float) -> None:
        super().__init__(
            f"{module} ran over its {seconds:g} s, its process was killed: "
            "give the call a longer timeout"
        )
        self.module = module
        self.seconds = seconds


class PoolFullError(BridgeError):
    """As many runs as allowed already wait for a process; nothing was started."""

    def __init__(self, pool: str, limit: int) -> None:
        super().__init__(
            f"pool {pool!r} is full ({limit} runs wait): try later, or raise "
            "queue_limit or max_size"
        )
        self.pool = pool
        self.limit = limit


class QueueTimeoutError(BridgeError):
    """No process was free within `seconds`; the run was not started."""

    def __init__(self, pool: str, module: str, seconds: float) -> None:
        super().__init__(
            f"{module} waited {seconds:g} s in pool {pool!r} and no process was free: "
            "raise queue_timeout or max_size"
        )
        self.pool = pool
        self.module = module
        self.seconds = seconds


class SessionWorkerUnavailableError(BridgeError):
    """The process of a session ended, and its state with it.

    The next call of the session starts a new one: build its state again first.
    """

    def __init__(self, session: str) -> None:
        super().__init__(f"the dspy process of session {session!r} is gone")
        self.session = session


class TooManySessionsError(BridgeError):
    """The pool has `limit` sessions already; nothing was started."""

    def __init__(self, session: str, limit: int) -> None:
        super().__init__(
            f"session {session!r} would be one more than {limit}: end others with "
            "end_session, or raise session_limit"
        )
        self.session = session
        self.limit = limit


class ProtocolError(BridgeError):
    """A frame that is not what the protocol allows."""


class FrameTooLargeError(ProtocolError):
    """The message `what` takes `size_bytes`, more than a frame may hold."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{what} takes {size_bytes / 1e6:.1f} MB, a frame holds at most "
            f"{limit_bytes / 1e6:.1f} MB: pass a path or smaller pieces"
        )
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class UnsupportedValueError(BridgeError):
    """The value at `path` is of a type that does not travel to another process."""

    def __init__(self, path: str, value: object) -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        super().__init__(
            f"{path} is a {kind}, which does not cross a process boundary: "
            "use JSON-like values, pydantic models, dates or images"
        )
        self.path = path
        self.kind = kind


class RemoteError(BridgeError):
    """Code in the child raised `kind` with `problem`.

    `remote_traceback` is the child's traceback as text. When the cause was a failed
    model call or tool, its exception in this process is `__cause__`.
    """

    def __init__(self, kind: str, problem: str, remote_traceback: str) -> None:
        super().__init__(f"{kind}: {problem}" if problem else kind)
        self.kind = kind
        self.problem = problem
        self.remote_traceback = remote_traceback


def _tail(lines: tuple[str, ...]) -> str:
    return "; its last lines: " + " | ".join(lines[-5:]) if lines else ""
