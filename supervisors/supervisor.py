"""Supervisor: the trio shell around a supervisor's decisions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import trio

from dspex.runtime.actor import Actor, Ignore, InitAnswer, Leave, Refuse
from dspex.runtime.errors import AlreadyStartedError, StartError, StartIgnoredError
from dspex.runtime.log import get_logger
from dspex.runtime.messages import Exit
from dspex.runtime.reasons import SHUTDOWN, ExitReason, describe
from dspex.runtime.ref import ActorRef
from dspex.supervisors.actions import (
    Child,
    Failed,
    Halt,
    Ignored,
    Report,
    Retry,
    Start,
    Started,
    State,
    Steps,
    Stop,
    StopTogether,
)
from dspex.supervisors.child_spec import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildType,
    Strategy,
    Supervise,
)
from dspex.supervisors.decisions import Decisions
from dspex.supervisors.errors import ChildNotFoundError, SupervisorError

AnyRef = ActorRef[Any]  # Any: a supervisor holds actors of every class
AnswerT = TypeVar("AnswerT")

log = get_logger()


def _is_alive(ref: AnyRef) -> bool:
    return ref.is_alive


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One child, as `which_children` lists it; `ref` is None unless it runs."""

    id: str
    ref: AnyRef | None
    state: State
    type: ChildType
    restarts: int


@dataclass(frozen=True, slots=True)
class ChildCount:
    """How many children there are: specs, those alive, and both types."""

    specs: int
    active: int
    supervisors: int
    workers: int


class Supervisor(Actor):
    """Starts children in order, restarts them by its strategy, stops them reversed.

    Either give it a list of specs, or subclass it and answer `Supervise(...)` from
    `init`. Give it a place in a tree by a `ChildSpec` whose `start` makes it, or
    start it by `node.start`. When it ends, for whatever reason but a kill, its
    children have ended before it, last started first.
    """

    actor_type: ClassVar[Literal["worker", "supervisor"]] = "supervisor"
    trap_exit = True

    decisions: Decisions = Decisions(Supervise(()))  # until init has answered

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        backoff: Backoff | None = None,
    ) -> None:
        self._options = Supervise(
            children,
            strategy=strategy,
            intensity=intensity,
            period=period,
            auto_shutdown=auto_shutdown,
            backoff=backoff,
        )

    async def init(self) -> InitAnswer | None:
        """Answer `Supervise(...)`, or IGNORE; override it in a class form."""
        return self._options

    async def _enter(self) -> InitAnswer | None:
        options = await self.init()
        if isinstance(options, Ignore):
            return options
        if not isinstance(options, Supervise):
            raise TypeError(
                f"init of {type(self).__name__} answered {options!r}; "
                "it must answer Supervise(...) or IGNORE"
            )
        self.decisions = Decisions(options)
        self._heed(await self._perform(self.decisions.start()))
        return None

    async def handle_info(self, message: object) -> None:
        """Handle a child's exit or a restart to be tried again; drop the rest."""
        now = trio.current_time()
        if isinstance(message, Exit):
            if message.ref is not None:
                steps = self.decisions.child_exited(
                    message.ref, message.reason, now=now
                )
                self._heed(await self._perform(steps))
        elif isinstance(message, Retry):
            self._heed(await self._perform(self.decisions.retry(message, now=now)))

    async def terminate(self, reason: ExitReason) -> None:
        """Stop the children, last started first."""
        await self._perform(self.decisions.stop())

    # Calls.

    async def which_children(self) -> list[ChildInfo]:
        """List the children in start order."""
        return self.children_info()

    def children_info(self) -> list[ChildInfo]:
        """List the children in start order, for one who is on this node's task loop."""
        return [
            ChildInfo(
                child.spec.id,
                child.pid if child.state == "running" else None,
                child.state,
                child.spec.type,
                child.restarts,
            )
            for child in self.decisions.children
        ]

    async def count_children(self) -> ChildCount:
        """Count the children: those with a spec, those alive, and by type."""
        children = list(self.decisions.children)
        if self.decisions.options.is_simple:
            specs, active = 1, sum(c.state == "running" for c in children)
        else:
            specs = len(children)
            active = sum(c.state == "running" and c.pid.is_alive for c in children)
        supervisors = sum(c.spec.type == "supervisor" for c in children)
        return ChildCount(specs, active, supervisors, len(children) - supervisors)

    async def start_child(self, spec: ChildSpec) -> AnyRef | None:
        """Add a child at the end of the order and start it; None if it ignored.

        Raises:
            ChildAlreadyStartedError: a child with this id runs.
            ChildPresentError: a child with this id is stopped or restarting.
            ChildStartError: its init failed; the spec is not kept.
            ChildSpecError: the spec does not go with this supervisor's options.
        """
        return await self._perform_call(self.decisions.start_child(spec))

    async def start_from_template(
        self,
        arguments: tuple[Any, ...] = (),  # Any: whatever the template's `start` takes
        name: str | None = None,
    ) -> AnyRef | None:
        """Start one more child of the template, with arguments behind its own.

        Restarts keep them. None if its init ignored.

        Raises:
            ChildNotFoundError: this supervisor has no template.
            ChildStartError: its init failed.
        """
        template = self.decisions.template
        if template is None:
            raise Refuse(ChildNotFoundError("template"))
        spec = template.with_arguments(arguments).renamed(template.id, name)
        return await self._perform_call(self.decisions.start_child(spec))

    async def restart_child(self, id: str) -> AnyRef | None:
        """Start a stopped child again; None if its init ignored.

        Raises:
            ChildNotFoundError, ChildRunningError, ChildRestartingError: as they say.
            ChildStartError: its init failed; it stays stopped.
            SimpleOneForOneError: children have no ids here.
        """
        return await self._perform_call(self.decisions.restart_child(id))

    async def terminate_child(self, which: str | AnyRef) -> None:
        """Stop a child and keep its spec (a temporary one's is dropped).

        Raises:
            ChildNotFoundError: there is no such child.
            SimpleOneForOneError: children have no ids here; give the ref.
        """
        await self._perform_call(
            self.decisions.terminate_child(which, is_alive=_is_alive)
        )

    async def delete_child(self, id: str) -> None:
        """Forget a stopped child's spec.

        Raises:
            ChildNotFoundError, ChildRunningError, ChildRestartingError: as they say.
            SimpleOneForOneError: children have no ids here.
        """
        try:
            self.decisions.delete_child(id)
        except SupervisorError as error:
            raise Refuse(error) from None

    async def get_childspec(self, which: str | AnyRef) -> ChildSpec:
        """Give a child's spec; under simple_one_for_one, by its ref.

        A ref that is dead gets the template, as in OTP: any child was made from it.

        Raises:
            ChildNotFoundError: there is no such child.
        """
        try:
            return self.decisions.get_childspec(which, is_alive=_is_alive)
        except SupervisorError as error:
            raise Refuse(error) from None

    # The shell: performs what the decisions ask for.

    def _heed(self, halt: Halt | None) -> None:
        if halt is not None:
            raise Leave(halt.reason)

    async def _perform_call(self, steps: Steps[AnswerT]) -> AnswerT:
        try:
            return await self._perform(steps)
        except SupervisorError as error:
            raise Refuse(error) from None

    async def _perform(self, steps: Steps[AnswerT]) -> AnswerT:
        outcome: object = None
        while True:
            try:
                action = steps.send(outcome)
            except StopIteration as done:
                answer: AnswerT = done.value
                return answer
            outcome = None
            if isinstance(action, Start):
                outcome = await self._start(action.child)
            elif isinstance(action, Stop):
                await self._stop([action.child])
            elif isinstance(action, StopTogether):
                await self._stop(action.children)
            elif isinstance(action, Retry):
                if action.seconds > 0:
                    self.send_after(action.seconds, action)
                else:
                    self.send_self(action)
            else:
                self._report(action)

    async def _start(self, child: Child) -> Started | Ignored | Failed:
        spec = child.spec
        try:
            actor = spec.start(*spec.args)
            if actor.actor_type == "supervisor" and spec.type == "worker":
                child.spec = spec.as_supervisor()
            return Started(
                await self.start_link(actor, name=spec.name, registry=spec.registry)
            )
        except StartIgnoredError:
            return Ignored()
        except AlreadyStartedError as error:
            return Failed(error)
        except StartError as error:
            return Failed(error.reason)
        except Exception as error:  # noqa: BLE001 - a factory that raises is a failed start
            return Failed(error)

    async def _stop(self, children: list[Child]) -> None:
        reasons = await self.end_children(
            [child.pid for child in children],
            [child.spec.shutdown_seconds for child in children],
        )
        for child, reason in zip(children, reasons, strict=True):
            expected = "killed" if child.spec.shutdown == "brutal_kill" else SHUTDOWN
            if reason != expected:
                self._report(Report("child_shutdown_failed", child, reason, "go on"))

    def _report(self, report: Report) -> None:
        child = report.child
        log.warning(
            report.event,
            supervisor=self.name,
            child=child.spec.id,
            reason=describe(report.reason),
            decision=report.decision,
            restarts=child.restarts,
        )
