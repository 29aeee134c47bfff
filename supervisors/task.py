"""Tasks: one piece of work in an actor of its own, awaited or streamed.

The words are Elixir's: `async_` links the work to an actor, `async_nolink` lets it
fail alone, `await_` waits for its value, `async_stream` maps over many items.
"""

import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack, cast

import trio

from dspex.runtime.actor import Actor
from dspex.runtime.context import current_deadline
from dspex.runtime.errors import DspexError
from dspex.runtime.reasons import NORMAL, ExitReason, describe
from dspex.runtime.ref import ActorRef
from dspex.supervisors.child_spec import ChildSpec
from dspex.supervisors.dynamic import DynamicSupervisor

T = TypeVar("T")
ItemT = TypeVar("ItemT")
Ts = TypeVarTuple("Ts")

DEFAULT_AWAIT_TIMEOUT = 5.0


class TaskExitedError(DspexError):
    """A task ended without a value; `reason` is its exit reason."""

    def __init__(self, task: str, reason: ExitReason) -> None:
        super().__init__(f"task {task!r} exited without a value: {describe(reason)}")
        self.task = task
        self.reason = reason


class TaskTimeoutError(DspexError):
    """A task had no value in time; it still runs."""

    def __init__(self, task: str, seconds: float) -> None:
        super().__init__(f"task {task!r} had no value within {seconds:g}s; it goes on")
        self.task = task
        self.seconds = seconds


class TaskSupervisor(DynamicSupervisor):
    """Keeps tasks; each runs once and is never restarted.

    At most `max_children` run at a time; one more is refused with MaxChildrenError.
    """


class _Worker(Actor):
    def __init__(self) -> None:
        self.value: object = None

    async def begin(
        self,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
    ) -> None:
        self.value = await work(*arguments)
        self.stop(NORMAL)


class Task(Generic[T]):
    """A piece of work that runs under a TaskSupervisor."""

    __slots__ = ("_worker", "name", "ref")

    def __init__(self, name: str, ref: ActorRef[Any], worker: Actor) -> None:
        self.name = name
        self.ref = ref
        self._worker = worker

    @property
    def is_done(self) -> bool:
        """Whether it has ended, with or without a value."""
        return not self.ref.is_alive

    def cancel(self) -> None:
        """End it now; who awaits it gets TaskExitedError with reason `killed`."""
        self.ref.exit("kill")

    def value(self) -> T:
        """Give the value of a task that is done.

        Raises:
            TaskExitedError: it ended without one.
        """
        if self.ref.exit_reason != NORMAL:
            raise TaskExitedError(self.name, self.ref.exit_reason)
        return cast("T", cast("_Worker", self._worker).value)


async def async_(
    supervisor: ActorRef[TaskSupervisor],
    work: Callable[[Unpack[Ts]], Awaitable[T]],
    *arguments: *Ts,
    owner: Actor,
) -> Task[T]:
    """Run `work(*arguments)` in an actor linked to `owner`: they die together.

    Raises:
        MaxChildrenError: the supervisor runs as many tasks as it may.
    """
    task = await _start(supervisor, work)
    owner.link(task.ref)
    await task.ref.cast(_Worker.begin, work, arguments)
    return task


async def async_nolink(
    supervisor: ActorRef[TaskSupervisor],
    work: Callable[[Unpack[Ts]], Awaitable[T]],
    *arguments: *Ts,
) -> Task[T]:
    """Run `work(*arguments)` in an actor of its own; its crash hurts nobody else.

    Raises:
        MaxChildrenError: the supervisor runs as many tasks as it may.
    """
    task = await _start(supervisor, work)
    await task.ref.cast(_Worker.begin, work, arguments)
    return task


async def _start(
    supervisor: ActorRef[TaskSupervisor], work: Callable[..., Awaitable[T]]
) -> Task[T]:
    name = getattr(work, "__qualname__", type(work).__qualname__)
    worker = _Worker()
    spec = ChildSpec(name, lambda: worker, restart="temporary")
    ref = await supervisor.call(TaskSupervisor.start_child, spec)
    assert ref is not None
    return Task(name, ref, worker)


async def await_(task: Task[T], timeout: float = DEFAULT_AWAIT_TIMEOUT) -> T:
    """Wait for a task's value, never longer than the request being handled may.

    Raises:
        TaskTimeoutError: none within `timeout` seconds; the task goes on.
        TaskExitedError: it ended without a value.
    """
    deadline = current_deadline()
    if deadline is not None:
        timeout = min(timeout, max(0.0, deadline - trio.current_time()))
    with trio.move_on_after(timeout):
        await task.ref.wait_exit()
        return task.value()
    raise TaskTimeoutError(task.name, timeout)


@dataclass(frozen=True, slots=True)
class StreamedExit:
    """What `async_stream` gives in place of a value for work that failed."""

    reason: ExitReason


async def async_stream(
    supervisor: ActorRef[TaskSupervisor],
    work: Callable[[ItemT], Awaitable[T]],
    items: Iterable[ItemT],
    *,
    max_concurrency: int = 8,
    timeout: float = math.inf,
) -> AsyncGenerator[T | StreamedExit]:
    """Map `work` over items, `max_concurrency` at a time; results in the items' order.

    An item whose work fails, or takes longer than `timeout` seconds from when its
    turn to be given comes, gives a StreamedExit; the others go on. When the loop
    over the stream is left, what still runs is killed: leave it by `aclosing` or
    read it to its end.
    """
    running: deque[Task[T]] = deque()
    rest = iter(items)
    try:
        while True:
            for item in rest:
                running.append(await async_nolink(supervisor, work, item))
                if len(running) >= max_concurrency:
                    break
            if not running:
                return
            task = running[0]
            result: T | StreamedExit
            try:
                result = await await_(task, timeout)
            except TaskExitedError as error:
                result = StreamedExit(error.reason)
            except TaskTimeoutError:
                task.cancel()
                await task.ref.wait_exit()
                result = StreamedExit("timeout")
            running.popleft()
            yield result
    finally:
        for task in running:
            task.cancel()
