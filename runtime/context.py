"""Context: a handler sees the context variables of its sender.

Under trio an actor's task has its own context variables, so what a sender has
bound (a trace span, structlog's fields, a run id in a ContextVar of your own)
would be lost at every mailbox. Each envelope therefore keeps a copy of its
sender's context, and the handler runs inside it; calls and tasks it starts inherit
it in turn. What a handler binds ends with the message.
"""

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVar, cast

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
    return None if request is None or request.settled else request.deadline


def _first_step(
    send: Callable[[object], object], request: HandledRequest | None
) -> object:
    current_request.set(request)
    return send(None)


def _throw(
    coroutine: Coroutine[Any, Any, Any],  # Any: trio's own traps
    error: BaseException,
) -> object:
    return coroutine.throw(error)


@types.coroutine
def run_in_context(
    context: Context, work: Awaitable[T], request: HandledRequest | None
) -> Generator[Any, Any, T]:  # Any: trio's own traps
    """Await `work` in another context than the task's own."""
    coroutine = cast(
        "Coroutine[Any, Any, T]",  # Any: trio's own traps
        work if isinstance(work, types.CoroutineType) else _as_coroutine(work),
    )
    run = context.run
    send: Callable[[object], object] = coroutine.send
    try:
        trap = run(_first_step, send, request)
        while True:
            try:
                value = yield trap
            except BaseException as error:  # noqa: BLE001 - thrown on into `work`
                trap = run(_throw, coroutine, error)
            else:
                trap = run(send, value)
    except StopIteration as done:
        result: T = done.value
        return result


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work
