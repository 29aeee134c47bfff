"""Context: a handler sees the context variables of its sender.

Under trio an actor's task has its own context variables, so what a sender has
bound (a trace span, structlog's fields, a run id in a ContextVar of your own)
would be lost at every mailbox. Each envelope therefore keeps a copy of its
sender's context, and the handler runs inside it; calls and tasks it starts inherit
it in turn. What a handler binds ends with the message.
"""

import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class HandledRequest(Protocol):
    """The request that is being handled, as nested calls see it."""

    settled: bool
    deadline: float


current_request: ContextVar[HandledRequest | None] = ContextVar(
    "dspex_current_request", default=None
)


def current_deadline() -> float | None:
    """When the caller of the request being handled gives up, on trio's clock.

    None outside a request, for a cast, and once the request is answered. Calls made
    meanwhile inherit it by themselves.
    """
    request = current_request.get()
    if request is None or request.settled or request.deadline == math.inf:
        return None
    return request.deadline


set_current_request = current_request.set

before_send: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar(
    "dspex_before_send", default=None
)
"""What a client awaits before each request it sends: whether it is still to be sent."""


def _throw(
    coroutine: Coroutine[Any, Any, Any],  # Any: trio's own traps
    error: BaseException,
) -> object:
    return coroutine.throw(error)


@types.coroutine
def go_on_in_context(
    context: Context,
    coroutine: Coroutine[Any, Any, T],  # Any: trio's own traps
    trap: object,
) -> Generator[Any, Any, T]:  # Any: trio's own traps
    """Await the rest of a coroutine that was run to its first trap in a context.

    Apart from the first step, because a handler that does not wait needs no
    generator around it.
    """
    run = context.run
    send: Callable[[object], object] = coroutine.send
    try:
        while True:
            try:
                value = yield trap
            except BaseException as error:  # noqa: BLE001 - thrown on into the work
                trap = run(_throw, coroutine, error)
            else:
                trap = run(send, value)
    except StopIteration as done:
        result: T = done.value
        return result


async def run_in_context(
    context: Context,
    coroutine: Coroutine[Any, Any, T],  # Any: trio's own traps
    request: HandledRequest | None,
) -> T:
    """Await a coroutine in another context than the task's own."""
    context.run(set_current_request, request)
    try:
        trap = context.run(coroutine.send, None)
    except StopIteration as done:
        result: T = done.value
        return result
    return await go_on_in_context(context, coroutine, trap)


async def as_coroutine(work: Awaitable[T]) -> T:
    """Make a coroutine of what can only be awaited."""
    return await work
