"""Calls whose work waits for a turn, however long that takes.

The work's own limits bound each turn, and so the wait for one. What they do not bound
is an actor that takes no calls: one that is suspended, or whose mailbox is full.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

import trio

from dspex.runtime import ActorRef, CallTimeoutError, Deferred

T = TypeVar("T")

Patience: TypeAlias = trio.CancelScope
"""The scope in which a caller waits until its call is taken."""


async def call_queued(
    ref: ActorRef[Any],  # Any: every class
    method: Callable[..., Awaitable[Deferred[T]]],
    *arguments: object,
    timeout: float,
) -> T:
    """Call a method that queues its work; its last parameter is the caller's patience.

    Raises:
        CallTimeoutError: the actor did not take the call within `timeout` seconds.
        CallError: the actor is gone.
    """
    with trio.CancelScope(deadline=trio.current_time() + timeout) as patience:
        # Any: nothing types a parameter behind those that the caller gives.
        ask = cast("Any", ref.call)
        return cast("T", await ask(method, *arguments, patience, timeout=math.inf))
    raise CallTimeoutError(ref.name, timeout)


def take_call(patience: Patience | None) -> None:
    """Let the caller wait for its turn, now that the actor has the call."""
    if patience is not None:
        patience.deadline = math.inf
