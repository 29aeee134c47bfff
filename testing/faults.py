"""Faults: a plan carried out on the actors of a node.

Messages are met where they enter a mailbox, so the harm comes the way real harm does:
a crash is an exception in the handler, a drop is a message that never arrives. The
actors are not changed and need not know.
"""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import trio
import trio.lowlevel

from dspex.runtime import ActorStarted, CalleeExitedError, Node
from dspex.runtime.envelope import Envelope, Info, Request
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.process import Process
from dspex.runtime.telemetry import Event
from dspex.testing.fault_plan import Fault, FaultPlan, Injected

_MAX_REMEMBERED = 100_000


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

    def __init__(self, node: Node, plan: FaultPlan) -> None:
        self.plan = plan
        self.injected: list[Injected] = []
        self.calls: list[Request] = []
        self.starts: Counter[str] = Counter()
        self._node = node
        self._began = trio.current_time()
        self._counts: Counter[int] = Counter()
        self._owners: dict[int, Process] = {}
        self._held: dict[int, list[Envelope]] = {}
        self._mailbox: type[Mailbox] = type(
            "FaultyMailbox", (_FaultyMailbox,), {"__slots__": (), "injector": self}
        )
        for process in node.processes():
            self._adopt(process)
        self._detach = node.telemetry.attach(self._note)

    def close(self) -> None:
        """Do no more harm; what is held back is delivered."""
        self._detach()
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
        if is_call and len(self.calls) < _MAX_REMEMBERED:
            self.calls.append(cast("Request", envelope))
        now = trio.current_time() - self._began
        found: Fault | None = None
        for index, fault in enumerate(self.plan.faults):
            if not fault.matches(process.name, method, now=now):
                continue
            self._counts[index] += 1
            count = self._counts[index]
            if found is None and fault.hits(count, seed=self.plan.seed, index=index):
                found = fault
                done = Injected(now, fault.kind, process.name, method, count)
                self.injected.append(done)
        if found is None:
            self._let_go_after(id(mailbox))
        return found, method

    def act(self, mailbox: Mailbox, envelope: Envelope, fault: Fault) -> bool:
        """Do the harm; whether the message is put in all the same."""
        process = self._owners[id(mailbox)]
        match fault.kind:
            case "crash" | "hang" if isinstance(envelope, Request):
                envelope.method = _crash if fault.kind == "crash" else _hang
                return True
            case "crash":
                process.ref.exit(InjectedCrashError("injected"))
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
            case _:  # slow, hang of a plain message, full for one who can wait
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

    def _later(self, seconds: float, action: Any) -> None:  # Any: gives nothing
        async def wait() -> None:
            await trio.sleep(seconds)
            action()

        self._node.nursery.start_soon(wait)


@contextmanager
def inject(node: Node, plan: FaultPlan | None = None) -> Generator[Faults]:
    """Carry out a plan on a node's actors for the length of a `with` block."""
    faults = Faults(node, FaultPlan() if plan is None else plan)
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


def _copy(envelope: Envelope) -> Envelope:
    if isinstance(envelope, Request):
        return Request(envelope.method, envelope.arguments, envelope.context, None)
    return envelope


async def _crash(*_: object) -> None:
    raise InjectedCrashError("injected by a fault plan")


async def _hang(*_: object) -> None:
    await trio.sleep_forever()
