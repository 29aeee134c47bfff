"""Process: the task, mailbox, links and monitors behind a ref."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog
import trio

from dspex.runtime.actor import Actor, ActorT, Ignore, Leave, NodePort, Refuse
from dspex.runtime.context import current_context
from dspex.runtime.deadlines import Deadlines
from dspex.runtime.envelope import (
    Deferred,
    Envelope,
    Info,
    ParentExit,
    Request,
)
from dspex.runtime.errors import CalleeExitedError, StartError, StartIgnoredError
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.messages import Down, Exit
from dspex.runtime.reasons import (
    KILL,
    KILLED,
    NOPROC,
    NORMAL,
    SHUTDOWN,
    ExitReason,
    describe,
    is_orderly,
)
from dspex.runtime.ref import ActorRef

# How many messages an actor handles before it lets other tasks run: OTP's
# reductions. An actor whose handlers never wait would stall the loop otherwise.
_MESSAGES_PER_TURN = 64

log = structlog.get_logger("dspex")


class Process:
    """Runs one actor from its init to its death, and tells who must know.

    Everything that happens at death (freeing the name, failing callers, `Down`
    messages, exit signals) is one step without a checkpoint, so nobody sees half.
    """

    def __init__(
        self,
        actor: Actor,
        *,
        node: "ProcessNode",
        number: int,
        name: str | None,
        parent: "Process | None",
    ) -> None:
        self.id = number
        self.actor = actor
        self.node: ProcessNode = node
        self.name = name or f"{type(actor).__name__}#{number}"
        self.registered = name
        self.parent = parent
        self.mailbox = Mailbox(actor.capacity)
        self.deadlines = node.deadlines
        self.task: trio.lowlevel.Task | None = None
        self.is_alive = True
        self.is_serving = False
        self.exit_reason: ExitReason = None
        self.ref: ActorRef[Any] = ActorRef(self)  # Any: start() types it
        self.started = trio.Event()
        self.died = trio.Event()
        self.start_error: StartError | None = None
        self._scope = trio.CancelScope()
        self._signal_reason: ExitReason = None
        self._stop_reason: ExitReason = None
        self._terminating = False
        self._handling: Request | None = None
        self._deferred: dict[Request, None] = {}
        self._links: dict[Process, None] = {}
        self._monitors: dict[int, Process] = {}  # of this one, by others
        self._watching: dict[int, Process] = {}  # by this one, of others
        self._tasks: dict[trio.CancelScope, None] = {}
        self._idle = trio.Event()

    @property
    def state(self) -> str:
        """One of starting, running, stopping, dead."""
        if not self.is_alive:
            return "dead"
        if self._signal_reason is not None or self._terminating:
            return "stopping"
        return "running" if self.is_serving else "starting"

    # What ends an actor, and in which way.

    def signal(self, reason: ExitReason, *, sender: object) -> None:
        """Handle `exit(Pid, Reason)` by `sender`: a Process, or None for a stranger."""
        if not self.is_alive:
            return
        if reason == KILL:
            self._end_now(KILLED)
        elif self.actor.trap_exit:
            if sender is not None and sender is self.parent:
                self.mailbox.put_signal(ParentExit(reason))
            else:
                ref = sender.ref if isinstance(sender, Process) else None
                self.mailbox.put_signal(Info(Exit(ref, reason)))
        elif reason != NORMAL:
            self._end_now(reason)

    def _link_signal(self, reason: ExitReason, peer: "Process") -> None:
        # Unlike exit/2, a link passes the reason `kill` on as a trappable one.
        if self.actor.trap_exit or reason != KILL:
            self.signal(reason, sender=peer)
        else:
            self._end_now(reason)

    def kill(self) -> None:
        """End at once, without `terminate`: `exit(Pid, kill)`."""
        if self.is_alive:
            self._end_now(KILLED)

    def _end_now(self, reason: ExitReason) -> None:
        if self._signal_reason is None or reason == KILLED:
            self._signal_reason = reason
        self._scope.cancel()

    def stop(self, reason: ExitReason) -> None:
        """End after the message being handled."""
        self._stop_reason = reason

    # The life of the task.

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Live: init, messages, terminate, death."""
        self.task = trio.lowlevel.current_task()
        reason: ExitReason = KILLED
        try:
            with self._scope:
                reason = await self._live()
            if self._scope.cancelled_caught:
                reason = self._signal_reason
        finally:
            await self._end_tasks()
            self._die(reason)

    async def _live(self) -> ExitReason:
        actor = self.actor
        actor._host = self  # pyright: ignore[reportPrivateUsage]
        try:
            answer = await actor._enter()  # pyright: ignore[reportPrivateUsage]
        except Leave as leave:
            self.start_error = StartError(self.name, leave.reason)
            return leave.reason
        except Exception as error:  # noqa: BLE001 - it is the start's reason
            self.start_error = StartError(self.name, error)
            self.start_error.__cause__ = error
            return error
        if isinstance(answer, Ignore):
            self.start_error = StartIgnoredError(self.name)
            return NORMAL
        self.is_serving = True
        self.started.set()
        if self.registered is not None:
            self.node.registry.announce(self.registered)
        reason = await self._serve()
        self._terminating = True
        try:
            await actor.terminate(reason)
        except Leave as leave:
            return leave.reason
        except Exception as error:  # noqa: BLE001 - its crash is its exit reason
            return error
        return reason

    async def _serve(self) -> ExitReason:
        handled = 0
        while True:
            envelope = self.mailbox.take()
            if envelope is None:
                handled = 0
                await self.mailbox.wait()
                continue
            handled += 1
            if handled >= _MESSAGES_PER_TURN:
                handled = 0
                await trio.lowlevel.checkpoint()
            try:
                reason = await self._handle(envelope)
            except Leave as leave:
                return leave.reason
            except Exception as error:  # noqa: BLE001 - let it crash: the reason
                return error
            if reason is None:
                reason = self._stop_reason
            if reason is not None:
                return reason

    async def _handle(self, envelope: Envelope) -> ExitReason:
        """Handle one envelope; answer a reason to end with, or None."""
        if isinstance(envelope, Request):
            await self._handle_request(envelope)
            return None
        if isinstance(envelope, Info):
            message = envelope.message
            if isinstance(message, Down) and message.monitor not in self._watching:
                return None  # demonitored meanwhile
            if isinstance(message, Down):
                del self._watching[message.monitor]
            current_context.set(envelope.context)
            await self.actor.handle_info(message)
            return None
        return envelope.reason

    async def _handle_request(self, request: Request) -> None:
        if request.settled and request.is_call:
            return  # its caller was cancelled or timed out while it lay here
        self._handling = request
        current_context.set(request.context)
        try:
            answer = await request.method(self.actor, *request.arguments)
        except Refuse as refusal:
            request.fail(refusal.error)
        else:
            if not isinstance(answer, Deferred):
                request.reply(answer)
        # On a crash `_handling` stays: death fails its caller with the reason.
        self._handling = None

    def defer(self) -> Deferred[Any]:  # Any: the handler's annotation narrows it
        """Let the caller of the request being handled wait for a later reply."""
        request = self._handling
        if request is None:
            raise RuntimeError("deferred() needs a request that is being handled")
        settled = [known for known in self._deferred if known.settled]
        for known in settled:
            del self._deferred[known]
        self._deferred[request] = None
        return Deferred(request)

    def send_self(self, message: object) -> None:
        """Put a plain message behind what lies in the actor's own mailbox."""
        self.mailbox.put_signal(Info(message))

    # Tasks that belong to the actor.

    def spawn(
        self,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
    ) -> None:
        """Start a task that dies with the actor; its exception crashes the actor."""
        scope = trio.CancelScope()
        self._tasks[scope] = None
        self.node.nursery.start_soon(self._run_task, scope, work, arguments)

    async def _run_task(
        self,
        scope: trio.CancelScope,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
    ) -> None:
        try:
            with scope:
                await work(*arguments)
        except Exception as error:  # noqa: BLE001 - it crashes the actor, as a link
            self.signal(error, sender=self)
        finally:
            del self._tasks[scope]
            if not self._tasks:
                self._idle.set()

    async def _end_tasks(self) -> None:
        while self._tasks:
            self._idle = trio.Event()
            for scope in self._tasks:
                scope.cancel()
            with trio.CancelScope(shield=True):
                await self._idle.wait()

    # Links, monitors, children.

    async def start_link(
        self, actor: ActorT, *, name: str | None = None
    ) -> ActorRef[ActorT]:
        """Start an actor linked to this one, which is its parent."""
        return await self.node.start_process(actor, name=name, parent=self)

    def link(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Share the fate of `ref`, both ways."""
        self.link_process(self.node.process_of(ref))

    def link_process(self, peer: "Process") -> None:
        """Share the fate of a process, both ways."""
        if peer.is_alive:
            self._links[peer] = None
            peer._links[self] = None
        else:
            self._link_signal(NOPROC, peer)

    def unlink(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Take a link back, both ways."""
        peer = self.node.process_of(ref)
        self._links.pop(peer, None)
        peer._links.pop(self, None)

    def monitor(self, ref: ActorRef[Any]) -> int:  # Any: of every class
        """Ask for one Down message when `ref` ends."""
        peer = self.node.process_of(ref)
        number = self.node.next_number()
        self._watching[number] = peer
        if peer.is_alive:
            peer._monitors[number] = self
        else:
            self.mailbox.put_signal(Info(Down(number, ref, NOPROC)))
        return number

    def demonitor(self, monitor: int) -> None:
        """Take a monitor back; a Down that lies in the mailbox is dropped."""
        peer = self._watching.pop(monitor, None)
        if peer is not None:
            peer._monitors.pop(monitor, None)

    # Death.

    def _die(self, reason: ExitReason) -> None:
        self.is_alive = self.is_serving = False
        self.exit_reason = reason
        if self.registered is not None:
            self.node.registry.unregister(self.registered, self.ref)
        if self.start_error is None and not self.started.is_set():
            self.start_error = StartError(self.name, reason)
        if self.start_error is None and not (is_orderly(reason) or reason == KILLED):
            log.error("actor_crashed", actor=self.name, reason=describe(reason))
        waiting = [e for e in self.mailbox.close() if isinstance(e, Request)]
        if self._handling is not None:
            waiting.append(self._handling)
        for request in (*waiting, *self._deferred):
            if not request.settled:
                request.fail(CalleeExitedError(self.name, reason))
        for number, watched in self._watching.items():
            watched._monitors.pop(number, None)
        for number, watcher in self._monitors.items():
            watcher.mailbox.put_signal(Info(Down(number, self.ref, reason)))
        for peer in list(self._links):
            peer._links.pop(self, None)
            peer._link_signal(reason, self)
        self.node.forget(self)
        self.started.set()
        self.died.set()

    def tell_to_end(self) -> None:
        """Send the exit signal `shutdown` as its parent does."""
        if not self.is_alive:
            return
        if self.actor.trap_exit:
            self.mailbox.put_signal(ParentExit(SHUTDOWN))
        else:
            self._end_now(SHUTDOWN)

    async def end(self, timeout: float) -> ExitReason:
        """Tell it to shut down, wait `timeout` seconds, then kill; wait till dead."""
        if timeout > 0:
            self.tell_to_end()
        return await self._gone_within(timeout)

    async def _gone_within(self, seconds: float) -> ExitReason:
        if seconds > 0:
            with trio.move_on_after(seconds):
                await self.died.wait()
        self.kill()
        await self.died.wait()
        return self.exit_reason

    async def end_children(
        self,
        refs: Sequence[ActorRef[Any]],  # Any: of every class
        shutdowns: Sequence[float],
    ) -> list[ExitReason]:
        """Tell children to shut down, kill the late ones; give their exit reasons."""
        children = [self.node.process_of(ref) for ref in refs]
        for ref in refs:
            self.unlink(ref)
        for child, seconds in zip(children, shutdowns, strict=True):
            if seconds > 0:
                child.tell_to_end()
            else:
                child.kill()
        began = trio.current_time()
        for index in sorted(range(len(children)), key=shutdowns.__getitem__):
            left = shutdowns[index] - (trio.current_time() - began)
            await children[index]._gone_within(left)
        return [child.exit_reason for child in children]


class ProcessNode(NodePort, Protocol):
    """What a process needs of its node."""

    nursery: trio.Nursery
    deadlines: Deadlines

    def next_number(self) -> int:
        """Give a number that was never given before."""
        ...

    def process_of(self, ref: ActorRef[Any]) -> Process:  # Any: of every class
        """Give the process behind a ref."""
        ...

    def forget(self, process: Process) -> None:
        """Take note of a death."""
        ...

    async def start_process(
        self, actor: ActorT, *, name: str | None, parent: Process | None
    ) -> ActorRef[ActorT]:
        """Start an actor and wait for its init."""
        ...
