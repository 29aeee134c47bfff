"""Errors of the supervisors.

DspexError
└── SupervisorError                 a supervisor refused; `child` is the id it is about
    ├── ChildSpecError              a child spec or supervisor option is not valid
    ├── ChildNotFoundError          no child has this id
    ├── ChildRunningError           the child runs; terminate it first
    ├── ChildRestartingError        the child is being restarted
    ├── ChildPresentError           a stopped child has this id; restart or delete it
    ├── ChildAlreadyStartedError    a running child has this id
    ├── ChildStartError             the child's init failed
    ├── MaxChildrenError            a dynamic supervisor is full
    └── SimpleOneForOneError        not with an id under simple_one_for_one
"""

from dataclasses import dataclass

from dspex.runtime.errors import DspexError
from dspex.runtime.reasons import ExitReason, describe


@dataclass(frozen=True, slots=True)
class FailedToStartChild:
    """Why a supervisor could not start: its child `child` failed with `reason`."""

    child: object
    reason: ExitReason

    def __str__(self) -> str:
        return f"child {self.child!r} failed to start ({describe(self.reason)})"


class SupervisorError(DspexError):
    """A supervisor refused what it was asked; `child` is the id it is about."""

    def __init__(self, child: object, problem: str) -> None:
        super().__init__(f"child {child!r} {problem}")
        self.child = child


class ChildSpecError(SupervisorError):
    """A child spec or an option of a supervisor is not valid."""

    def __init__(self, child: object, field: str, value: object, allowed: str) -> None:
        super().__init__(child, f"has {field}={value!r}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class ChildNotFoundError(SupervisorError):
    """No child has this id."""

    def __init__(self, child: object) -> None:
        super().__init__(child, "does not exist")


class ChildRunningError(SupervisorError):
    """The child runs; terminate it first."""

    def __init__(self, child: object) -> None:
        super().__init__(child, "is running; terminate it first")


class ChildRestartingError(SupervisorError):
    """The child is being restarted."""

    def __init__(self, child: object) -> None:
        super().__init__(child, "is being restarted; terminate it first")


class ChildPresentError(SupervisorError):
    """A child of this id exists and is not running: OTP's `already_present`."""

    def __init__(self, child: object) -> None:
        super().__init__(child, "exists and is stopped; restart or delete it")


class ChildAlreadyStartedError(SupervisorError):
    """A child of this id is running; `existing` is its ref."""

    def __init__(self, child: object, existing: object) -> None:
        super().__init__(child, "is running already")
        self.existing = existing


class ChildStartError(SupervisorError):
    """The child's init failed with `reason`."""

    def __init__(self, child: object, reason: ExitReason) -> None:
        super().__init__(child, f"did not start: {describe(reason)}")
        self.reason = reason


class MaxChildrenError(SupervisorError):
    """A dynamic supervisor holds as many children as it may."""

    def __init__(self, child: object, maximum: int) -> None:
        super().__init__(child, f"is one too many: at most {maximum} children")
        self.maximum = maximum


class SimpleOneForOneError(SupervisorError):
    """Under simple_one_for_one children have no ids: pass the child's ref."""

    def __init__(self, child: object) -> None:
        super().__init__(
            child, "cannot be named by its id under simple_one_for_one; pass its ref"
        )
