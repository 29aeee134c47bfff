"""sys: look into a running actor and steer it, by the words of OTP's `sys`.

Every question is answered by the actor itself, in the order of its mailbox, also
while it is suspended; each has a timeout.
"""

import copy
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import trio

from dspex.runtime.debug import Debug, TracedMessage
from dspex.runtime.envelope import Request, System
from dspex.runtime.errors import CallingSelfError, NoProcessError
from dspex.runtime.process import Process
from dspex.runtime.ref import DEFAULT_CALL_TIMEOUT, ActorRef

AnyRef = ActorRef[Any]  # Any: actors of every class
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an actor has handled since `statistics` was first asked for."""

    seconds: float
    calls_and_casts: int
    infos: int
    mailbox_depth: int
    mailbox_high_water: int


async def suspend(ref: AnyRef, *, timeout: float = DEFAULT_CALL_TIMEOUT) -> None:
    """Let the actor handle no messages until `resume`; they wait in its mailbox.

    It still ends when it is told to stop, by its parent, or killed.

    Raises:
        NoProcessError, CallTimeoutError, CalleeExitedError: as for any call.
    """
    await _ask(ref, lambda process: process.suspend(True), timeout)


async def resume(ref: AnyRef, *, timeout: float = DEFAULT_CALL_TIMEOUT) -> None:
    """Let a suspended actor go on."""
    await _ask(ref, lambda process: process.suspend(False), timeout)


async def get_state(
    ref: AnyRef, *, timeout: float = DEFAULT_CALL_TIMEOUT
) -> dict[str, object]:
    """Give a copy of the actor's public attributes, never a live reference."""

    def read(process: Process) -> dict[str, object]:
        fields = vars(process.actor)
        public = {name: it for name, it in fields.items() if not name.startswith("_")}
        return copy.deepcopy(public)

    return await _ask(ref, read, timeout)


async def replace_state(
    ref: AnyRef,
    change: Callable[[dict[str, object]], dict[str, object]],
    *,
    timeout: float = DEFAULT_CALL_TIMEOUT,
) -> dict[str, object]:
    """Change the actor's public attributes by a function of the present ones.

    If the function raises, the caller gets that error and nothing has changed.
    """

    def write(process: Process) -> dict[str, object]:
        fields = vars(process.actor)
        public = {name: it for name, it in fields.items() if not name.startswith("_")}
        changed = change(copy.deepcopy(public))
        for name in public.keys() - changed.keys():
            delattr(process.actor, name)
        for name, value in changed.items():
            setattr(process.actor, name, value)
        return copy.deepcopy(changed)

    return await _ask(ref, write, timeout)


async def trace(
    ref: AnyRef,
    observer: Callable[[TracedMessage], None] | None,
    *,
    timeout: float = DEFAULT_CALL_TIMEOUT,
) -> None:
    """Show each message to `observer` before it is handled; None ends that.

    The observer runs in the actor's task and must neither block nor raise.
    """

    def observe(process: Process) -> None:
        _debug(process).observer = observer

    await _ask(ref, observe, timeout)


async def statistics(
    ref: AnyRef, *, timeout: float = DEFAULT_CALL_TIMEOUT
) -> Statistics:
    """Give what the actor has handled; the first question starts the counting."""

    def read(process: Process) -> Statistics:
        debug = _debug(process)
        return Statistics(
            seconds=process.timers.now() - debug.since,
            calls_and_casts=debug.calls_and_casts,
            infos=debug.infos,
            mailbox_depth=process.mailbox.depth,
            mailbox_high_water=process.mailbox.high_water,
        )

    return await _ask(ref, read, timeout)


def _debug(process: Process) -> Debug:
    if process.debug is None:
        process.set_debug(Debug(process.name, process.timers.now()))
    assert process.debug is not None
    return process.debug


async def _ask(ref: AnyRef, question: Callable[[Process], T], timeout: float) -> T:
    process = cast("Process", ref.port)
    task = trio.lowlevel.current_task()
    if not process.is_alive or process.task is task:
        await trio.lowlevel.checkpoint()
        if process.is_alive:
            raise CallingSelfError(process.name)
        raise NoProcessError(process.name)
    deadline = process.timers.now() + timeout
    request = Request(
        cast("Any", question),  # Any: a System request's method takes the process
        (),
        copy_context(),
        task,
        process,
        deadline,
        timeout,
    )
    process.timers.add(request)
    process.mailbox.put_system(System(request))
    await trio.lowlevel.wait_task_rescheduled(request.abandon)
    answer = cast("T", request.answer)
    request.answer = None  # the timers have the request until its deadline
    return answer
