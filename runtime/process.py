"""Process: the life and the death of the task behind a ref."""

from collections.abc import Coroutine
from types import CoroutineType
from typing import Any

import trio
from trio.lowlevel import checkpoint, reschedule, wait_task_rescheduled

from dspex.runtime.actor import (
    BadReturnValueError,
    Ignore,
    Leave,
    Refuse,
)
from dspex.runtime.actor import Continue as ContinueAnswer
from dspex.runtime.actor_host import ActorHost
from dspex.runtime.context import (
    as_coroutine,
    go_on_in_context,
    run_in_context,
    set_current_request,
)
from dspex.runtime.crash_report import report_crash
from dspex.runtime.envelope import (
    NO_CONTEXT,
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
from dspex.runtime.messages import TIMEOUT, Down
from dspex.runtime.process_state import NOT_ANSWERED
from dspex.runtime.reasons import (
    KILLED,
    NORMAL,
    ExitReason,
    describe,
    find_interrupt,
    is_crash,
    is_killed,
    is_orderly,
)
from dspex.runtime.telemetry import ActorExited, ActorStarted
from dspex.runtime.timers import Timer
from dspex.runtime.wake import WOKEN

log = get_logger()

# How many messages an actor handles before it lets other tasks run: OTP's
# reductions. An actor whose handlers never wait would stall the loop otherwise.
_MESSAGES_PER_TURN = 64


class Process(ActorHost):
    """Runs one actor from its init to its death, and tells who must know.

    Everything that happens at death (freeing the name, failing callers, `Down`
    messages, exit signals) is one step without a checkpoint, so nobody sees half.
    """

    __slots__ = ()

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
                            envelope.forget()
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
                        envelope.context = NO_CONTEXT
                        if answer.__class__ is Deferred:
                            self._check_deferred(answer, envelope)
                        elif self._stop_reason is None:
                            caller = envelope.task
                            if caller is not None and not envelope.settled:
                                envelope.settled = True
                                if envelope.on_settled is not None:
                                    envelope.on_settled()
                                    envelope.on_settled = None
                                envelope.answer = answer
                                reschedule(caller, WOKEN)
                        else:
                            self._last_answer = answer
                            reason = self._stop_reason
                            continue  # answered when `terminate` has run
                        envelope.arguments = ()
                        self._handling = None
                        reason = self._stop_reason
                        envelope = work = run = caller = answer = None
                    except Refuse as refusal:
                        if self._handling is None:
                            reason = refusal
                        else:
                            self._handling.fail(refusal.error)
                            self._handling.forget()
                            self._handling = work = None
                            reason = self._stop_reason
                    except Leave as leave:
                        reason = leave.reason
                    except BaseException as error:
                        if not is_crash(error):
                            raise
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
        except GeneratorExit as error:
            reason = error
        except BaseExceptionGroup as group:
            reason = self._left_by_group(group)
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
        except BaseException as error:
            if not is_crash(error):
                raise
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
        if not isinstance(envelope, System):  # its question starts the time anew
            self._idle_seconds = None
        self._attention = self._debug is not None or self._idle_seconds is not None
        if envelope is not None and self._debug is not None:
            self._debug.note_in(envelope)
        return envelope

    async def _wait_idle(self, seconds: float) -> Envelope:
        mailbox = self.mailbox

        def fire() -> None:
            if mailbox.is_idle:
                mailbox.put_signal(Info(TIMEOUT))

        timer = Timer(self.timers.now() + seconds, fire)
        self.timers.add(timer)
        try:
            return await mailbox.wait()
        finally:
            timer.cancel()

    async def _handle_other(self, envelope: Envelope) -> ExitReason:
        """Handle what is no request; answer a reason to end with, or None."""
        if isinstance(envelope, Info):
            message = envelope.message
            if isinstance(message, Down):
                if self._watching is None or self.is_taken_back(message):
                    return None
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

    def _refuse_mistake(self, request: Request, error: BaseException) -> None:
        """Give the caller its mistake back; nothing of the actor has run."""
        if not callable(request.method):
            error = TypeError(
                f"call and cast take a method of the actor's class, such as "
                f"{type(self.actor).__name__}.method, not {request.method!r}"
            )
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
        except BaseException as error:
            if not is_crash(error):
                raise
            reason = error
        if self._last_answer is not NOT_ANSWERED and self._handling is not None:
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

    def _left_by_group(self, group: BaseExceptionGroup[BaseException]) -> ExitReason:
        """Give the reason after a nursery of a callback failed while it was ended.

        What is left of such a group, without the cancellations, leaves the scope of
        the whole life; out of here it would end the node.
        """
        error = find_interrupt(group)
        if error is not None:
            self.node.interrupt(error)
            return error
        log.error("cleanup_failed", actor=self.name, reason=describe(group))
        return group if self._signal_reason is None else self._signal_reason

    # Start and death, as others see them.

    def _wake_starter(self) -> None:
        starter, self._starter = self._starter, None
        if starter is not None:
            reschedule(starter, WOKEN)

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

    def _die(self, reason: ExitReason) -> None:
        was_serving = self.is_serving
        self.is_alive = self.is_serving = False
        self.exit_reason = reason
        for registry, registered in self._names:
            registry.unregister(registered, self.ref)
        ended_in_init = not was_serving and self.start_error is None
        if ended_in_init:
            self.start_error = StartError(self.name, reason)
        if was_serving and not (is_orderly(reason) or is_killed(reason)):
            report_crash(self.actor, self.name, reason, self._handling)
        failed = [self._handling] if self._handling is not None else []
        failed += [e for e in self.mailbox.close() if isinstance(e, Request)]
        for envelope in (*failed, *(self._deferred or ())):
            if not envelope.settled:
                envelope.fail(CalleeExitedError(self.name, reason))
            envelope.forget()
        if self._watching:
            for number, watched in self._watching.items():
                if watched._monitors is not None:
                    watched._monitors.pop(number, None)
        self._tell_links(reason, but_the_starter=ended_in_init)
        if self._monitors:
            for number, watcher in self._monitors.items():
                watcher.mailbox.put_signal(Info(Down(number, self.ref, reason)))
        if self.node.telemetry.listeners:
            self.node.telemetry.emit(ActorExited(self.ref, reason))
        self.node.forget(self)
        self._handling = None
        self._monitors = self._watching = self._deferred = None
        self._wake_starter()
        for waiter in self._waiters or ():
            waiter.expire()
        self._waiters = None
