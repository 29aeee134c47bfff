"""Process state: what a process is made of, and how exit signals reach it."""

from contextvars import Context
from typing import Any, Final, Protocol, cast

import trio
from trio.lowlevel import reschedule

from dspex.runtime.actor import (
    Actor,
    ActorT,
    NodePort,
)
from dspex.runtime.debug import Debug
from dspex.runtime.envelope import (
    Info,
    ParentExit,
    Request,
)
from dspex.runtime.errors import StartError
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.messages import Exit
from dspex.runtime.owned_tasks import OwnedTasks
from dspex.runtime.reasons import (
    KILL,
    KILLED,
    NORMAL,
    ExitReason,
    is_killed,
)
from dspex.runtime.ref import ActorRef, Port, Turns
from dspex.runtime.registry import Groups, NameHolder, Names
from dspex.runtime.telemetry import Telemetry
from dspex.runtime.timers import Timers
from dspex.runtime.wake import WOKEN

NOT_ANSWERED: Final = object()


class DeathWaiter:
    """A task that waits for a death, or for its time to be over."""

    __slots__ = ("_task", "deadline", "settled")

    def __init__(self, task: trio.lowlevel.Task, *, deadline: float) -> None:
        self._task = task
        self.deadline = deadline
        self.settled = False

    def expire(self) -> None:
        """Wake the task, once."""
        if not self.settled:
            self.settled = True
            reschedule(self._task, WOKEN)

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """Take note that the task was cancelled."""
        self.settled = True
        return trio.lowlevel.Abort.SUCCEEDED


class ProcessState:
    """The fields of a process, its names, and what exit signals do to it."""

    # There may be 100,000 of these: what most never need is None until it is.
    __slots__ = (
        "__weakref__",
        "_attention",
        "_continues",
        "_crash",
        "_debug",
        "_deferred",
        "_handling",
        "_idle_seconds",
        "_is_parent_linked",
        "_last_answer",
        "_links",
        "_monitors",
        "_names",
        "_scope",
        "_signal_reason",
        "_starter",
        "_stop_reason",
        "_suspended",
        "_tasks",
        "_terminating",
        "_waiters",
        "_watching",
        "actor",
        "exit_reason",
        "id",
        "is_alive",
        "is_serving",
        "mailbox",
        "node",
        "parent",
        "sends",
        "start_error",
        "task",
        "timers",
    )

    def __init__(
        self,
        actor: Actor,
        *,
        node: "ProcessNode",
        number: int,
        parent: "ProcessState | None",
    ) -> None:
        self.id = number
        self.actor = actor
        self.node: ProcessNode = node
        self.parent = parent
        self.mailbox = Mailbox(actor.capacity)
        self.timers = node.timers
        self.sends = node.sends
        self.task: trio.lowlevel.Task | None = None
        self.is_alive = True
        self.is_serving = False
        self.exit_reason: ExitReason = None
        self.start_error: StartError | None = None
        self._scope = trio.CancelScope()
        self._names: tuple[tuple[NameHolder, str], ...] = ()
        # Set when something must be looked at before the next message is.
        self._attention = False
        self._signal_reason: ExitReason = None
        self._stop_reason: ExitReason = None
        self._crash: BaseException | None = None
        self._terminating = False
        self._suspended = False
        self._idle_seconds: float | None = None
        self._continues: list[object] | None = None
        self._debug: Debug | None = None
        self._handling: Request | None = None
        self._last_answer: object = NOT_ANSWERED
        self._deferred: dict[Request, None] | None = None
        self._starter: trio.lowlevel.Task | None = None
        self._waiters: list[DeathWaiter] | None = None
        self._is_parent_linked = False
        self._links: dict[ProcessState, None] | None = None
        self._monitors: dict[int, ProcessState] | None = None  # of this one, by others
        self._watching: dict[int, ProcessState] | None = None  # by this one, of others
        self._tasks: OwnedTasks | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether it lives, but was told to end, or has lost its parent."""
        return self.is_alive and (
            self._signal_reason is not None
            or self._terminating
            or (self.parent is not None and not self.parent.is_alive)
        )

    @property
    def ref(self) -> ActorRef[Any]:  # Any: start() types it
        """A ref for others; refs of one process are equal."""
        return ActorRef(cast("Port", self))

    @property
    def name(self) -> str:
        """The registered name, or a made-up one that tells class and id."""
        for registry, name in self._names:
            if not isinstance(registry, Groups):
                return name
        return f"{type(self.actor).__name__}#{self.id}"

    @property
    def state(self) -> str:
        """One of starting, running, suspended, stopping, dead."""
        if not self.is_alive:
            return "dead"
        if self._signal_reason is not None or self._terminating:
            return "stopping"
        if self._suspended:
            return "suspended"
        return "running" if self.is_serving else "starting"

    # What ends an actor, and in which way.

    def signal(self, reason: ExitReason, *, sender: object) -> None:
        """Handle `exit(Pid, Reason)` by `sender`: a Process, or None for a stranger."""
        if not self.is_alive:
            return
        if isinstance(reason, str) and reason == KILL:
            self._end_now(KILLED)
        else:
            self._hear_exit(reason, sender)

    def link_signal(self, reason: ExitReason, peer: "ProcessState") -> None:
        """Handle the exit of a linked process; even `kill` can be trapped then."""
        if self.is_alive:
            self._hear_exit(reason, peer)

    def _hear_exit(self, reason: ExitReason, sender: object) -> None:
        if self.actor.trap_exit:
            if sender is not None and sender is self.parent:
                self.mailbox.put_system(ParentExit(reason))
            else:
                ref = sender.ref if isinstance(sender, ProcessState) else None
                self.mailbox.put_signal(Info(Exit(ref, reason)))
        elif self._signal_reason is None and (
            sender is self or not (isinstance(reason, str) and reason == NORMAL)
        ):  # the first signal is the one it ends with
            self._end_now(reason)

    def kill(self) -> None:
        """End at once, without `terminate`: `exit(Pid, kill)`."""
        if self.is_alive:
            self._end_now(KILLED)

    def _end_now(self, reason: ExitReason) -> None:
        if self._signal_reason is None or is_killed(reason):
            self._signal_reason = reason
            self._crash = None
        self._attention = True
        if not self.mailbox.wake_idle():
            self._scope.cancel()

    def stop(self, reason: ExitReason) -> None:
        """End after the message being handled."""
        self._stop_reason = NORMAL if reason is None else reason

    def exit(self, ref: ActorRef[Any], reason: ExitReason) -> None:  # Any: every class
        """Send an exit signal to another actor, or to itself."""
        self.node.process_of(ref).signal(reason, sender=self)

    # Names.

    def add_name(self, registry: NameHolder, name: str) -> None:
        """Take note of a name that must be freed at death."""
        self._names = (*self._names, (registry, name))

    def drop_name(self, registry: NameHolder, name: str) -> None:
        """Take note that a name is not this one's any more."""
        self._names = tuple(it for it in self._names if it != (registry, name))

    def name_in(self, registry: object) -> str | None:
        """Give the name it has in a registry."""
        for known, name in self._names:
            if known is registry:
                return name
        return None


class ProcessNode(NodePort, Protocol):
    """What a process needs of its node."""

    nursery: trio.Nursery
    timers: Timers
    sends: Turns
    telemetry: Telemetry
    context: Context

    def next_number(self) -> int:
        """Give a number that was never given before."""
        ...

    def process_of(self, ref: ActorRef[Any]) -> "ProcessState":  # Any: of every class
        """Give the process behind a ref."""
        ...

    def forget(self, process: "ProcessState") -> None:
        """Take note of a death."""
        ...

    def interrupt(self, error: BaseException) -> None:
        """End the whole node in order, and raise `error` where it was opened."""
        ...

    async def start_process(
        self,
        actor: ActorT,
        *,
        name: str | None,
        parent: "ProcessState | None",
        timeout: float,
        registry: Names | None,
    ) -> ActorRef[ActorT]:
        """Start an actor and wait for its init."""
        ...
