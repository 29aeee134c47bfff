"""Errors of the kernel.

DspexError
├── StartError              an actor could not be started
│   ├── AlreadyStartedError its name is taken
│   ├── StartIgnoredError   its init answered IGNORE
│   └── StartTimeoutError   its init took too long; it was killed
├── CallError               a call has no answer
│   ├── NoProcessError      nobody is there
│   ├── CallTimeoutError    no answer in time
│   ├── CalleeExitedError   the callee died before it answered
│   └── CallingSelfError    an actor called itself
├── MailboxFullError        a cast or send that would not wait met a full mailbox
├── NotTrioError            what runs under trio was opened under something else
├── ChildStartError         a child process could not be started
└── ChildNotGoneError       a child process, or one of its own, survived SIGKILL
"""

from dspex.runtime.reasons import ExitReason, describe


class DspexError(Exception):
    """Any error that dspex raises on purpose."""


class StartError(DspexError):
    """An actor could not be started; `reason` is the reason of its init."""

    def __init__(self, name: str, reason: ExitReason) -> None:
        super().__init__(f"actor {name!r} did not start: {describe(reason)}")
        self.name = name
        self.reason = reason


class AlreadyStartedError(StartError):
    """The name is taken by a live actor, `existing`."""

    def __init__(self, name: str, existing: object) -> None:
        super().__init__(name, "already started")
        self.existing = existing


class StartIgnoredError(StartError):
    """The actor's init answered IGNORE: it is not running, and that is no failure."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "its init answered IGNORE")


class StartTimeoutError(StartError):
    """The actor's init took longer than the starter would wait; it was killed."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name, f"its init took longer than {seconds:g}s")
        self.seconds = seconds


class CallError(DspexError):
    """A call to `callee` has no answer."""

    def __init__(self, callee: str, problem: str) -> None:
        super().__init__(f"call to {callee!r} {problem}")
        self.callee = callee


class NoProcessError(CallError):
    """Nobody is there: the actor is dead or the name is not registered."""

    def __init__(self, callee: str) -> None:
        super().__init__(
            callee,
            "failed: no such actor; if it was restarted, look its name up again",
        )


class CallTimeoutError(CallError):
    """The callee did not reply in time. It may still be working on the request."""

    def __init__(self, callee: str, seconds: float) -> None:
        super().__init__(callee, f"timed out after {seconds:g}s")
        self.seconds = seconds


class CalleeExitedError(CallError):
    """The callee died before it answered; `reason` is its exit reason."""

    def __init__(self, callee: str, reason: ExitReason) -> None:
        super().__init__(callee, f"failed: it exited ({describe(reason)})")
        self.reason = reason


class CallingSelfError(CallError):
    """An actor called itself from its own handler, which could never be answered."""

    def __init__(self, callee: str) -> None:
        super().__init__(callee, "failed: an actor cannot call itself")


class MailboxFullError(DspexError):
    """The mailbox of `callee` is full and the sender asked not to wait."""

    def __init__(self, callee: str, capacity: int) -> None:
        super().__init__(
            f"mailbox of {callee!r} is full ({capacity} messages): "
            "wait with cast() or send(), or raise its capacity"
        )
        self.callee = callee
        self.capacity = capacity


class NotTrioError(DspexError):
    """What runs under trio was opened where trio does not run, as under asyncio."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} runs under trio, which does not run here: use "
            "dspex.aio.open_runtime under asyncio, or start this by trio.run"
        )
        self.what = what


class ChildStartError(DspexError):
    """The child process `name` could not be started from `program`."""

    def __init__(self, name: str, program: str, problem: str) -> None:
        super().__init__(f"child process {name!r}: cannot run {program!r}: {problem}")
        self.name = name
        self.program = program


class ChildNotGoneError(DspexError):
    """Something of the process group of a stopped child is still running.

    The kernel could not end it (a process stuck in I/O); `members` are the pids.
    """

    def __init__(self, name: str, pid: int, members: tuple[int, ...]) -> None:
        super().__init__(
            f"child process {name!r} (pid {pid}): pids {members or (pid,)} survived "
            "SIGKILL; look for a process stuck in I/O"
        )
        self.name = name
        self.pid = pid
        self.members = members
