"""Faults: a plan carried out on a node: its actors, processes, store and clock.

Messages are met where they enter a mailbox, so the harm comes the way real harm does:
a crash is an exception in the handler, a drop is a message that never arrives. The
actors are not changed and need not know.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Protocol, cast

import trio
import trio.lowlevel

from dspex.runtime import ActorStarted, CalleeExitedError, Node
from dspex.runtime.envelope import Envelope, Info, Request
from dspex.runtime.journal import Journal
from dspex.runtime.journal.store import Store
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.process import Process
from dspex.runtime.telemetry import Event
from dspex.testing.clock_faults import ClockFaults
from dspex.testing.fault_plan import Fault, FaultPlan, FaultPlanError, Injected
from dspex.testing.fault_schedule import MAX_REMEMBERED, FaultTally, Schedule
from dspex.testing.process_faults import ProcessFaults
from dspex.testing.store_faults import StoreFaults


class InjectedCrashError(Exception):
    """What a `crash` fault raises in a handler."""


class Injector(Protocol):
    """Who decides about each message on its way into a mailbox."""

    def meet(self, mailbox: Mailbox, envelope: Envelope) -> tuple[Fault | None, str]:
        """Give the fault that hits this message, if any, and the message's method."""
        ...

    def act(self, mailbox: Mailbox, envelope: Envelope, fault: Fault) -> bool:
        """Do the harm; whether the message is put in all the same."""
        ...


_READER: Any = Mailbox.__dict__["reader"]  # Any: a slot's descriptor


class _FaultyMailbox(Mailbox):
    # The same layout as a Mailbox: an actor's own becomes one in place.
    __slots__ = ()
    injector: Injector

    # A caller hands its request over by itself to an actor that waits. Nobody waits
    # here as far as it can see, so that every request comes by `put_call`.
    @property
    def reader(self) -> trio.lowlevel.Task | None:
        return None

    @reader.setter
    def reader(self, task: trio.lowlevel.Task | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        _READER.__set__(self, task)

    @property
    def is_idle(self) -> bool:
        return _READER.__get__(self) is not None or super().is_idle

    def put_signal(self, envelope: Envelope) -> None:
        task = _READER.__get__(self)
        if task is None:
            super().put_signal(envelope)
        else:
            _READER.__set__(self, None)
            self.handed = envelope
            trio.lowlevel.reschedule(task)

    def _is_harmed(self, envelope: Envelope) -> bool:
        fault, _ = self.injector.meet(self, envelope)
        return fault is not None and not self.injector.act(self, envelope, fault)

    def put_call(self, request: Request) -> None:
        if not self._is_harmed(request):
            super().put_call(request)

    def put_nowait(self, envelope: Envelope) -> bool:
        fault, _ = self.injector.meet(self, envelope)
        if fault is None:
            return super().put_nowait(envelope)
        if fault.kind == "full":
            return False
        if self.injector.act(self, envelope, fault):
            return super().put_nowait(envelope)
        return True

    async def put(self, envelope: Envelope) -> None:
        # Comes after a put_nowait that was refused: by a fault, or for want of room.
        await trio.lowlevel.checkpoint()
        if not Mailbox.put_nowait(self, envelope):
            await super().put(envelope)


class Faults:
    """Carries out a plan; made by `inject`.

    `injected` tells what was done, `calls` are the calls that were met, `starts`
    counts how often an actor of each name was started.
    """

    def __init__(
        self, node: Node, plan: FaultPlan, *, journal: Journal | None = None
    ) -> None:
        self.plan = plan
        self.calls: list[Request] = []
        self.starts: Counter[str] = Counter()
        self._node = node
        self._schedule = Schedule(plan)
        self._scopes: list[trio.CancelScope] = []
        self._owners: dict[int, Process] = {}
        self._held: dict[int, list[Envelope]] = {}
        self._mailbox: type[Mailbox] = type(
            "FaultyMailbox", (_FaultyMailbox,), {"__slots__": (), "injector": self}
        )
        self._processes = ProcessFaults(self._later, root=None)
        self._clock = ClockFaults(lambda: self._schedule.now)
        self._store = self._open_store(journal)
        for process in node.processes():
            self._adopt(process)
        self._detach = node.telemetry.attach(self._note)
        for index, fault in enumerate(plan.faults):
            if fault.is_timed and fault.on == "clock":
                self._clock.hit(fault, at=fault.after)
                self._schedule.note(fault, "time", "time")
            elif fault.is_timed:
                node.nursery.start_soon(self._hit_by_time, fault, index)

    def _open_store(self, journal: Journal | None) -> StoreFaults | None:
        kinds: set[str] = {it.kind for it in self.plan.faults if it.on == "store"}
        if not kinds:
            return None
        store = None if journal is None else journal.store
        if not isinstance(store, Store):
            raise FaultPlanError(
                "the plan has faults of the store: pass inject(journal=...), such as "
                "runtime.journal"
            )
        return StoreFaults(store, self._schedule, kinds=kinds)

    @property
    def injected(self) -> list[Injected]:
        """What was done, in order."""
        return self._schedule.injected

    @property
    def tallies(self) -> list[FaultTally]:
        """What became of each fault that is carried out here; models' are not."""
        found = self._schedule.tallies.values()
        return [it for it in found if it.fault.on != "model"]

    def close(self) -> None:
        """Do no more harm; what is held back or stopped goes on."""
        self._detach()
        for scope in self._scopes:
            scope.cancel()
        self._processes.close()
        self._clock.close()
        if self._store is not None:
            self._store.close()
        for process in self._owners.values():
            process.mailbox.__class__ = Mailbox
        for key in list(self._held):
            self._let_go(key)

    def unanswered(self) -> list[str]:
        """Name the calls that have neither an answer nor an error."""
        return [
            f"{'' if it.callee is None else it.callee.name}.{_method(it)}"
            for it in self.calls
            if not it.settled
        ]

    def restarts(self, name: str) -> int:
        """Give how often the actor of this name was started again."""
        return max(0, self.starts[name] - 1)

    def _note(self, event: Event) -> None:
        process = cast("Process", event.ref.port)
        if isinstance(event, ActorStarted):
            self._adopt(process)
        else:
            key = id(process.mailbox)
            self._owners.pop(key, None)
            self._held.pop(key, None)

    def _adopt(self, process: Process) -> None:
        self.starts[process.name] += 1
        self._owners[id(process.mailbox)] = process
        process.mailbox.__class__ = self._mailbox

    def meet(self, mailbox: Mailbox, envelope: Envelope) -> tuple[Fault | None, str]:
        """Give the fault that hits this message, if any, and the message's method."""
        method = _method(envelope)
        process = self._owners.get(id(mailbox))
        if process is None or method is None:
            return None, ""
        is_call = isinstance(envelope, Request) and envelope.is_call
        if is_call and len(self.calls) < MAX_REMEMBERED:
            self.calls.append(cast("Request", envelope))
        found: Fault | None = None
        for fault in self._schedule.meet(
            process.name, method, counts=_counts_messages, heed=_is_of_actor
        ):
            if fault.on == "process":
                self._hit_processes(fault)
            elif fault.on == "clock":
                self._clock.hit(fault, at=self._schedule.now)
                self._schedule.note(fault, process.name, method)
            else:
                found = fault
        if found is None:
            self._let_go_after(id(mailbox))
        return found, method

    async def _hit_by_time(self, fault: Fault, index: int) -> None:
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            await self._processes.hit_by_time(
                fault, index=index, seed=self.plan.seed, schedule=self._schedule
            )

    def _hit_processes(self, fault: Fault) -> None:
        self._processes.hit_noted(fault, self._schedule)

    def act(self, mailbox: Mailbox, envelope: Envelope, fault: Fault) -> bool:
        """Do the harm; whether the message is put in all the same."""
        process = self._owners[id(mailbox)]
        match fault.kind:
            case "crash" | "hang" if isinstance(envelope, Request):
                envelope.method = _crash if fault.kind == "crash" else _hang
                return True
            case "crash" | "hang" if isinstance(envelope, Info):
                # A plain message: in its place comes a cast whose handler does it.
                does = _crash if fault.kind == "crash" else _hang
                mailbox.put_signal(Request(does, (), _context_of(envelope), None))
                return False
            case "kill":
                self._later(0.0, lambda: process.ref.exit("kill"))
                return True
            case "duplicate":
                mailbox.put_signal(_copy(envelope))
                return True
            case "drop":
                return False
            case "reorder":
                key = id(mailbox)
                self._held.setdefault(key, []).append(envelope)
                self._later(fault.seconds, lambda: self._let_go(key))
                return False
            case _:  # slow; full for one who can wait
                self._later(fault.seconds, lambda: _deliver(process, envelope))
                return False

    def _let_go_after(self, key: int) -> None:
        if key in self._held:
            self._later(0.0, lambda: self._let_go(key))

    def _let_go(self, key: int) -> None:
        process = self._owners.get(key)
        for envelope in self._held.pop(key, ()):
            if process is not None:
                _deliver(process, envelope)

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        async def wait() -> None:
            await trio.sleep(seconds)
            action()

        self._node.nursery.start_soon(wait)


def _counts_messages(fault: Fault) -> bool:
    return fault.on == "actor" or (
        fault.on in ("process", "clock") and not fault.is_timed
    )


def _is_of_actor(fault: Fault) -> bool:
    return fault.on == "actor"


@contextmanager
def inject(
    node: Node, plan: FaultPlan | None = None, *, journal: Journal | None = None
) -> Generator[Faults]:
    """Carry out a plan on a node for the length of a `with` block.

    Its actors, the child processes of this process, the wall clock, and the store of
    `journal`. Faults of models are `FaultyLM`'s.

    Raises:
        FaultPlanError: it has faults of a store, and there is none to hit.
    """
    faults = Faults(node, FaultPlan() if plan is None else plan, journal=journal)
    try:
        yield faults
    finally:
        faults.close()


def _deliver(process: Process, envelope: Envelope) -> None:
    if process.is_alive:
        process.mailbox.put_signal(envelope)
    elif isinstance(envelope, Request):
        envelope.fail(CalleeExitedError(process.name, process.exit_reason))


def _method(envelope: Envelope) -> str | None:
    if isinstance(envelope, Request):
        return getattr(envelope.method, "__name__", "call")
    if isinstance(envelope, Info) and envelope.context is not None:
        return "info"
    return None  # the kernel's own: exits, stops, questions of `sys`


def _context_of(message: Info) -> Context:
    return Context() if message.context is None else message.context


def _copy(envelope: Envelope) -> Envelope:
    if isinstance(envelope, Request):
        return Request(envelope.method, envelope.arguments, envelope.context, None)
    return envelope


async def _crash(*_: object) -> None:
    raise InjectedCrashError("injected by a fault plan")


async def _hang(*_: object) -> None:
    await trio.sleep_forever()
