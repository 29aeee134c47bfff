"""Process: the task, mailbox, links and monitors behind a ref."""

import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from types import CoroutineType
from typing import Any, Protocol

import trio
from outcome import Value
from trio.lowlevel import checkpoint, reschedule, wait_task_rescheduled

from dspex.runtime.actor import (
    Actor,
    ActorT,
    BadReturnValueError,
    Ignore,
    Leave,
    NodePort,
    Refuse,
)
from dspex.runtime.actor import Continue as ContinueAnswer
from dspex.runtime.context import (
    as_coroutine,
    go_on_in_context,
    run_in_context,
    set_current_request,
)
from dspex.runtime.crash_report import report_crash
from dspex.runtime.debug import Debug
from dspex.runtime.envelope import (
    Continue,
    Deferred,
    Envelope,
    Info,
    ParentExit,
    Request,
    Stop,
    System,
)
from dspex.runtime.errors import CalleeExitedError, StartError, StartIgnoredError
from dspex.runtime.log import get_logger
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.messages import TIMEOUT, Down, Exit
from dspex.runtime.owned_tasks import OwnedTasks
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
from dspex.runtime.ref import ActorRef, Turns
from dspex.runtime.registry import Groups, NameHolder
from dspex.runtime.telemetry import ActorExited, ActorStarted, Telemetry
from dspex.runtime.timers import Timer, Timers

log = get_logger()

# How many messages an actor handles before it lets other tasks run: OTP's
# reductions. An actor whose handlers never wait would stall the loop otherwise.
_MESSAGES_PER_TURN = 64

_NONE_YET = object()


class _DeathWaiter:
    """A task that waits for a death, or for its time to be over."""

    __slots__ = ("_task", "settled")

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task
        self.settled = False

    def expire(self) -> None:
        if not self.settled:
            self.settled = True
            reschedule(self._task)

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        self.settled = True
        return trio.lowlevel.Abort.SUCCEEDED


class Process:
    """Runs one actor from its init to its death, and tells who must know.

    Everything that happens at death (freeing the name, failing callers, `Down`
    messages, exit signals) is one step without a checkpoint, so nobody sees half.
    """

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
        parent: "Process | None",
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
        self._last_answer: object = _NONE_YET
        self._deferred: dict[Request, None] | None = None
        self._starter: trio.lowlevel.Task | None = None
        self._waiters: list[_DeathWaiter] | None = None
        self._is_parent_linked = False
        self._links: dict[Process, None] | None = None
        self._monitors: dict[int, Process] | None = None  # of this one, by others
        self._watching: dict[int, Process] | None = None  # by this one, of others
        self._tasks: OwnedTasks | None = None

    @property
    def ref(self) -> ActorRef[Any]:  # Any: start() types it
        """A ref for others; refs of one process are equal."""
        return ActorRef(self)

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

    def link_signal(self, reason: ExitReason, peer: "Process") -> None:
        """Handle the exit of a linked process; even `kill` can be trapped then."""
        if self.is_alive:
            self._hear_exit(reason, peer)

    def _hear_exit(self, reason: ExitReason, sender: object) -> None:
        if self.actor.trap_exit:
            if sender is not None and sender is self.parent:
                self.mailbox.put_system(ParentExit(reason))
            else:
                ref = sender.ref if isinstance(sender, Process) else None
                self.mailbox.put_signal(Info(Exit(ref, reason)))
        elif sender is self or not (isinstance(reason, str) and reason == NORMAL):
            self._end_now(reason)

    def kill(self) -> None:
        """End at once, without `terminate`: `exit(Pid, kill)`."""
        if self.is_alive:
            self._end_now(KILLED)

    def _end_now(self, reason: ExitReason) -> None:
        if self._signal_reason is None or reason == KILLED:
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

    # The life of the task.

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Live: init, messages, terminate, death."""
        # One coroutine, not one a step: each costs an idle actor half a KiB.
        self.task = trio.lowlevel.current_task()
        reason: ExitReason = None
        work: Any = None  # Any: the coroutine of a handler
        try:
            with self._scope:
                reason = await self._begin()
                mailbox = self.mailbox
                handled = 0
                while reason is None:
                    if handled >= _MESSAGES_PER_TURN:
                        handled = 0
                        await checkpoint()
                    if self._attention:
                        envelope = await self._attend()
                    elif mailbox.queue:
                        envelope = mailbox.take()
                    else:
                        envelope = None
                    if envelope is None:
                        handled = 0
                        mailbox.reader = self.task
                        await wait_task_rescheduled(mailbox.stop_waiting)
                        if self._signal_reason is not None:
                            reason = self._signal_reason
                            break  # woken to die: 20 us less than by cancelling
                        envelope = mailbox.handed
                        mailbox.handed = None
                        assert envelope is not None
                        if self._debug is not None:
                            self._debug.note_in(envelope)
                    handled += 1
                    try:
                        if not isinstance(envelope, Request):
                            reason = await self._handle_other(envelope)
                            envelope = None
                            continue
                        if envelope.settled:
                            continue  # its caller was cancelled or timed out
                        self._handling = envelope
                        work = envelope.method(self.actor, *envelope.arguments)
                        if work.__class__ is not CoroutineType:
                            work = as_coroutine(work)
                        run: Any = envelope.context.run
                        run(set_current_request, envelope)
                        try:  # most handlers end without waiting
                            trap = run(work.send, None)
                        except StopIteration as done:
                            answer = done.value
                        else:
                            answer = await go_on_in_context(
                                envelope.context, work, trap
                            )
                        if answer.__class__ is Deferred:
                            self._check_deferred(answer, envelope)
                        elif self._stop_reason is None:
                            caller = envelope.task
                            if caller is not None and not envelope.settled:
                                envelope.settled = True
                                if envelope.on_settled is not None:
                                    envelope.on_settled()
                                reschedule(caller, Value(answer))
                        else:
                            self._last_answer = answer
                            reason = self._stop_reason
                            continue  # answered when `terminate` has run
                        self._handling = None
                        reason = self._stop_reason
                        envelope = work = run = caller = answer = None
                    except Refuse as refusal:
                        if self._handling is None:
                            reason = refusal
                        else:
                            self._handling.fail(refusal.error)
                            self._handling = work = None
                            reason = self._stop_reason
                    except Leave as leave:
                        reason = leave.reason
                    except Exception as error:  # noqa: BLE001 - let it crash: the reason
                        if self._handling is None or work.__class__ is CoroutineType:
                            reason = error
                        else:  # no such method, or not with these arguments
                            self._refuse_mistake(self._handling, error)
                            self._handling = work = None
                if self.is_serving and self._signal_reason is None:
                    reason = await self._terminate(reason)
            if self._scope.cancelled_caught or self._signal_reason is not None:
                reason = await self._ended_by_signal()
        except (KeyboardInterrupt, SystemExit) as error:
            reason = error
            self.node.interrupt(error)
        finally:
            if self._tasks is not None:
                await self._tasks.end()
            self._die(KILLED if reason is None else reason)

    async def _begin(self) -> ExitReason:
        """Run init; None if the actor serves now, else the reason of its end."""
        actor = self.actor
        actor._host = self  # pyright: ignore[reportPrivateUsage]
        try:
            answer = await actor._enter()  # pyright: ignore[reportPrivateUsage]
            if isinstance(answer, ContinueAnswer):
                self.continue_with(answer.argument)
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
        if answer is not None and not isinstance(answer, ContinueAnswer):
            bad = BadReturnValueError("init", answer)
            self.start_error = StartError(self.name, bad)
            return bad
        self.is_serving = True
        for registry, name in self._names:
            registry.announce(name)
        if self.node.telemetry.listeners:
            self.node.telemetry.emit(ActorStarted(self.ref))
        self._wake_starter()
        return self._stop_reason

    async def _attend(self) -> Envelope | None:
        """Look at what must be looked at; give the next envelope, if any."""
        if self._signal_reason is not None:
            await checkpoint()  # raises Cancelled
        if self._continues:
            return Info(Continue(self._continues.pop(0)))
        if self._suspended:
            return await self.mailbox.wait_system()
        envelope = self.mailbox.take()
        if envelope is None and self._idle_seconds is not None:
            envelope = await self._wait_idle(self._idle_seconds)
        self._idle_seconds = None
        self._attention = self._debug is not None
        if envelope is not None and self._debug is not None:
            self._debug.note_in(envelope)
        return envelope

    async def _wait_idle(self, seconds: float) -> Envelope:
        mailbox = self.mailbox

        def fire() -> None:
            if mailbox.is_idle:
                mailbox.put_signal(Info(TIMEOUT))

        timer = Timer(fire)
        self.timers.add(self.timers.now() + seconds, timer)
        try:
            return await mailbox.wait()
        finally:
            timer.cancel()

    async def _handle_other(self, envelope: Envelope) -> ExitReason:
        """Handle what is no request; answer a reason to end with, or None."""
        if isinstance(envelope, Info):
            message = envelope.message
            if isinstance(message, Down):
                if self._watching is None or message.monitor not in self._watching:
                    return None  # demonitored meanwhile
                del self._watching[message.monitor]
            actor = self.actor
            work: Coroutine[Any, Any, object]  # Any: trio's own traps
            if isinstance(message, Continue):
                work = actor.handle_continue(message.argument)
            else:
                work = actor.handle_info(message)
            if envelope.context is not None:
                work = run_in_context(envelope.context, work, None)
            await self._expect_none(work)
            return self._stop_reason
        if isinstance(envelope, System):
            request = envelope.request
            try:
                request.reply(request.method(self))
            except Exception as error:  # noqa: BLE001 - the caller's own mistake
                request.fail(error)
            return None
        assert isinstance(envelope, Stop | ParentExit)
        return NORMAL if envelope.reason is None else envelope.reason

    async def _expect_none(
        self,
        work: Coroutine[Any, Any, object],  # Any: trio's own traps
    ) -> None:
        answer = await work
        if answer is not None:
            raise BadReturnValueError("handle_info", answer)

    def _check_deferred(self, answer: object, request: Request) -> None:
        if isinstance(answer, Deferred) and answer.request is not request:
            raise RuntimeError(
                "a handler returned a Deferred of another request; "
                "call self.deferred() in the handler that returns it"
            )

    def _refuse_mistake(self, request: Request, error: Exception) -> None:
        """Give the caller its mistake back; nothing of the actor has run."""
        if request.is_call:
            request.fail(error)
        else:
            log.error("cast_refused", actor=self.name, reason=describe(error))

    async def _terminate(self, reason: ExitReason) -> ExitReason:
        self._terminating = True
        try:
            await self.actor.terminate(reason)
        except Leave as leave:
            reason = leave.reason
        except Exception as error:  # noqa: BLE001 - its crash is its exit reason
            reason = error
        if self._last_answer is not _NONE_YET and self._handling is not None:
            self._handling.reply(self._last_answer)
            self._handling = None
        return reason

    async def _ended_by_signal(self) -> ExitReason:
        """Give the reason of the signal; clean up if the actor's own task crashed."""
        if self._crash is None or not self.is_serving or self._terminating:
            return self._signal_reason
        reason: ExitReason = self._crash
        self._signal_reason = None
        with trio.CancelScope() as self._scope:
            reason = await self._terminate(reason)
        return reason if self._signal_reason is None else self._signal_reason

    # What callbacks may ask for.

    def defer(self) -> Deferred[Any]:  # Any: the handler's annotation narrows it
        """Let the caller of the request being handled wait for a later reply."""
        request = self._handling
        if request is None:
            raise RuntimeError("deferred() needs a request that is being handled")
        still_open = self._deferred
        if still_open is None:
            still_open = self._deferred = {}
        elif len(still_open) % 64 == 0:
            for known in [known for known in still_open if known.settled]:
                del still_open[known]
        if request.is_call:
            still_open[request] = None
        return Deferred(request, still_open)

    def continue_with(self, argument: object) -> None:
        """Run `handle_continue` before the next message."""
        if self._continues is None:
            self._continues = []
        self._continues.append(argument)
        self._attention = True

    def set_idle_timeout(self, seconds: float) -> None:
        """Get TIMEOUT as a message if no other comes within `seconds`."""
        self._idle_seconds = seconds
        self._attention = True

    def send_self(self, message: object, *, after: float | None) -> Timer | None:
        """Put a plain message behind what lies in the own mailbox, maybe later."""
        if after is None:
            self.mailbox.put_signal(Info(message))
            return None

        def send() -> None:
            if self.is_alive:
                self.mailbox.put_signal(Info(message))

        timer = Timer(send)
        self.timers.add(self.timers.now() + after, timer)
        return timer

    async def receive(
        self, wanted: Callable[[object], bool], *, timeout: float
    ) -> object:
        """Take the first message that is wanted; leave the others in order."""

        def matches(envelope: Envelope) -> bool:
            return isinstance(envelope, Info) and wanted(envelope.message)

        with trio.fail_after(timeout):
            await trio.lowlevel.checkpoint_if_cancelled()
            found = self.mailbox.take_first(matches)
            while found is None:
                envelope = await self.mailbox.wait()
                if matches(envelope):
                    found = envelope
                else:
                    self.mailbox.put_signal(envelope)
        assert isinstance(found, Info)
        message = found.message
        if isinstance(message, Down) and self._watching is not None:
            self._watching.pop(message.monitor, None)
        return message

    def spawn(
        self, work: Callable[..., Awaitable[object]], arguments: tuple[object, ...]
    ) -> None:
        """Start a task that dies with the actor; its exception crashes the actor."""
        if self._tasks is None:
            self._tasks = OwnedTasks(self.node.nursery, self._task_crashed)
        self._tasks.start(work, arguments)

    def _task_crashed(self, error: BaseException) -> None:
        if self.is_alive and self._signal_reason is None:
            self._end_now(error)
            self._crash = error

    def set_debug(self, debug: Debug | None) -> None:
        """Tell `debug` of every message from now on."""
        self._debug = debug
        self._attention = True

    @property
    def debug(self) -> Debug | None:
        """Who is told of every message."""
        return self._debug

    def suspend(self, suspended: bool) -> None:
        """Handle no messages but the system's, or do so again."""
        self._suspended = suspended
        self._attention = True

    # Links, monitors, children, names.

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

    async def start_link(
        self, actor: ActorT, *, name: str | None, timeout: float
    ) -> ActorRef[ActorT]:
        """Start an actor linked to this one, which is its parent."""
        return await self.node.start_process(
            actor, name=name, parent=self, timeout=timeout
        )

    def link(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Share the fate of `ref`, both ways."""
        self.link_process(self.node.process_of(ref))

    def link_process(self, peer: "Process") -> None:
        """Share the fate of a process, both ways."""
        if peer is self:
            return
        if not peer.is_alive:
            self.link_signal(NOPROC, peer)
            return
        self._add_link(peer)
        peer._add_link(self)

    def _add_link(self, peer: "Process") -> None:
        if peer is self.parent:
            self._is_parent_linked = True  # a whole dict would cost each child 232 B
        elif self._links is None:
            self._links = {peer: None}
        else:
            self._links[peer] = None

    def _drop_link(self, peer: "Process") -> None:
        if peer is self.parent:
            self._is_parent_linked = False
        elif self._links is not None:
            self._links.pop(peer, None)

    def children(self) -> "list[ActorRef[Any]]":  # Any: of every class
        """Give the refs of the live actors that it started with a link, in order."""
        return [peer.ref for peer in self._links or () if peer.parent is self]

    def unlink(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Take a link back, both ways."""
        peer = self.node.process_of(ref)
        self._drop_link(peer)
        peer._drop_link(self)

    def monitor(self, ref: ActorRef[Any]) -> int:  # Any: of every class
        """Ask for one Down message when `ref` ends."""
        peer = self.node.process_of(ref)
        number = self.node.next_number()
        if self._watching is None:
            self._watching = {}
        self._watching[number] = peer
        if not peer.is_alive:
            self.mailbox.put_signal(Info(Down(number, ref, NOPROC)))
            return number
        if peer._monitors is None:
            peer._monitors = {}
        peer._monitors[number] = self
        return number

    def demonitor(self, monitor: int) -> None:
        """Take a monitor back; a Down that lies in the mailbox is dropped."""
        if self._watching is None:
            return
        peer = self._watching.pop(monitor, None)
        if peer is not None and peer._monitors is not None:
            peer._monitors.pop(monitor, None)

    # Death.

    def _wake_starter(self) -> None:
        starter, self._starter = self._starter, None
        if starter is not None:
            trio.lowlevel.reschedule(starter)

    async def wait_started(self) -> None:
        """Wait until init has succeeded or the process is dead."""
        if self.is_serving or not self.is_alive:
            await checkpoint()
            return
        self._starter = trio.lowlevel.current_task()
        await wait_task_rescheduled(self._forget_starter)

    def _forget_starter(self, _: object) -> trio.lowlevel.Abort:
        self._starter = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def wait_dead(self) -> ExitReason:
        """Wait until it has ended; give its exit reason."""
        await self._wait_dead(math.inf)
        return self.exit_reason

    async def _wait_dead(self, seconds: float) -> None:
        if not self.is_alive:
            await checkpoint()
            return
        waiter = _DeathWaiter(trio.lowlevel.current_task())
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters = [known for known in self._waiters if not known.settled]
            self._waiters.append(waiter)
        if seconds < math.inf:
            self.timers.add(self.timers.now() + seconds, waiter)
        await wait_task_rescheduled(waiter.abandon)

    def _die(self, reason: ExitReason) -> None:
        was_serving = self.is_serving
        self.is_alive = self.is_serving = False
        self.exit_reason = reason
        for registry, registered in self._names:
            registry.unregister(registered, self.ref)
        if not was_serving and self.start_error is None:
            self.start_error = StartError(self.name, reason)
        if was_serving and not (is_orderly(reason) or reason == KILLED):
            report_crash(self.actor, self.name, reason, self._handling)
        failed = [self._handling] if self._handling is not None else []
        failed += [e for e in self.mailbox.close() if isinstance(e, Request)]
        for envelope in (*failed, *(self._deferred or ())):
            if not envelope.settled:
                envelope.fail(CalleeExitedError(self.name, reason))
        if self._watching:
            for number, watched in self._watching.items():
                if watched._monitors is not None:
                    watched._monitors.pop(number, None)
        if self._monitors:
            for number, watcher in self._monitors.items():
                watcher.mailbox.put_signal(Info(Down(number, self.ref, reason)))
        if self.node.telemetry.listeners:
            self.node.telemetry.emit(ActorExited(self.ref, reason))
        links, self._links = self._links, None
        if self._is_parent_linked and self.parent is not None:
            self.parent._drop_link(self)
            self.parent.link_signal(reason, self)
        for peer in links or ():
            peer._drop_link(self)
            peer.link_signal(reason, self)
        self.node.forget(self)
        self._handling = None
        self._monitors = self._watching = self._deferred = None
        self._wake_starter()
        for waiter in self._waiters or ():
            waiter.expire()
        self._waiters = None

    def tell_to_end(self) -> None:
        """Send the exit signal `shutdown` as its parent does."""
        if self.is_alive:
            if self.actor.trap_exit:
                self.mailbox.put_system(ParentExit(SHUTDOWN))
            else:
                self._end_now(SHUTDOWN)

    async def end(self, timeout: float) -> ExitReason:
        """Tell it to shut down, wait `timeout` seconds, then kill; wait till dead."""
        if timeout > 0:
            self.tell_to_end()
        return await self._gone_within(timeout)

    async def _gone_within(self, seconds: float) -> ExitReason:
        if self.is_alive and seconds > 0:
            await self._wait_dead(seconds)
        if self.is_alive:
            self.kill()
            await self._wait_dead(math.inf)
        return self.exit_reason

    async def end_children(
        self,
        refs: Sequence[ActorRef[Any]],  # Any: of every class
        shutdowns: Sequence[float],
    ) -> list[ExitReason]:
        """Tell children to shut down, kill the late ones; give their exit reasons."""
        if not refs:
            await checkpoint()
            return []
        if len(refs) == 1:
            child = self.node.process_of(refs[0])
            self.unlink(refs[0])
            return [await child.end(shutdowns[0])]
        children = [self.node.process_of(ref) for ref in refs]
        for ref in refs:
            self.unlink(ref)
        for child, seconds in zip(children, shutdowns, strict=True):
            if seconds > 0:
                child.tell_to_end()
            else:
                child.kill()
        began = self.timers.now()
        for index in sorted(range(len(children)), key=shutdowns.__getitem__):
            left = shutdowns[index] - (self.timers.now() - began)
            await children[index]._gone_within(left)
        return [child.exit_reason for child in children]


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

    def process_of(self, ref: ActorRef[Any]) -> Process:  # Any: of every class
        """Give the process behind a ref."""
        ...

    def forget(self, process: Process) -> None:
        """Take note of a death."""
        ...

    def interrupt(self, error: BaseException) -> None:
        """End the whole node in order, and raise `error` where it was opened."""
        ...

    async def start_process(
        self, actor: ActorT, *, name: str | None, parent: Process | None, timeout: float
    ) -> ActorRef[ActorT]:
        """Start an actor and wait for its init."""
        ...
