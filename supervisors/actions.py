"""What a supervisor's decisions are made of: children, and orders to the shell."""

from collections.abc import Generator, Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from dspex.runtime.reasons import ExitReason
from dspex.supervisors.child_spec import ChildSpec

State: TypeAlias = Literal["running", "undefined", "restarting"]


class Child:
    """One entry of a supervisor: a spec and the incarnation that runs, if any."""

    __slots__ = ("key", "pid", "restarts", "spec", "state")

    def __init__(self, key: Hashable, spec: ChildSpec) -> None:
        self.key = key
        self.spec = spec
        # The ref that runs; while restarting, the one that died last.
        self.pid: Any = None  # Any: the decisions don't look inside a ref
        self.state: State = "undefined"
        self.restarts = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Start this child; answer Started, Ignored or Failed."""

    child: Child


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this child within its shutdown time; answer the reason it ended with."""

    child: Child


@dataclass(frozen=True, slots=True)
class StopTogether:
    """Stop all of these at once, each within its shutdown time."""

    children: list[Child]


@dataclass(frozen=True, slots=True)
class Retry:
    """Come back with this child behind what lies in the mailbox, or in `seconds`.

    A delayed one is not counted again; it is void once `attempt` is not the child's.
    """

    child: Child
    seconds: float = 0.0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the log what happened to a child and what is done about it."""

    event: str
    child: Child
    reason: ExitReason
    decision: str


Action: TypeAlias = Start | Stop | StopTogether | Retry | Report


@dataclass(frozen=True, slots=True)
class Started:
    """The child runs; this is its ref."""

    pid: Any  # Any: the decisions don't look inside a ref


@dataclass(frozen=True, slots=True)
class Ignored:
    """The child's init answered IGNORE."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The child's init failed."""

    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Halt:
    """The supervisor has to end with this reason."""

    reason: ExitReason


AnswerT = TypeVar("AnswerT")
# Yields actions, is sent each one's outcome, returns the answer to the event.
Steps: TypeAlias = Generator[Action, Any, AnswerT]  # Any: differs by action
