"""Actor host: what an actor's callbacks may ask of their process."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from dspex.runtime.debug import Debug
from dspex.runtime.envelope import (
    Deferred,
    Envelope,
    Info,
)
from dspex.runtime.messages import Down
from dspex.runtime.owned_tasks import OwnedTasks
from dspex.runtime.reasons import find_interrupt
from dspex.runtime.related_process import RelatedProcess
from dspex.runtime.timers import Timer


class ActorHost(RelatedProcess):
    """A process that serves its actor's callbacks."""

    __slots__ = ()

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
        if math.isnan(seconds):  # TypeError of what is no number
            raise ValueError("the seconds of an idle timeout must not be NaN")
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

        timer = Timer(self.timers.now() + after, send)
        self.timers.add(timer)
        return timer

    async def receive(
        self, wanted: Callable[[object], bool], *, timeout: float
    ) -> object:
        """Take the first message that is wanted; leave the others in order."""

        def matches(envelope: Envelope) -> bool:
            return (
                isinstance(envelope, Info)
                and not self.is_taken_back(envelope.message)
                and wanted(envelope.message)
            )

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
        self,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
        *,
        deadline: float,
    ) -> trio.CancelScope:
        """Start a task that dies with the actor; its exception crashes the actor."""
        if self._tasks is None:
            self._tasks = OwnedTasks(self.node.nursery, self._task_crashed)
        return self._tasks.start(work, arguments, deadline=deadline)

    def _task_crashed(self, error: BaseException) -> None:
        interrupt = find_interrupt(error)
        if interrupt is not None:
            self.node.interrupt(interrupt)
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
