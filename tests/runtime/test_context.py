"""Context: what a handler sees of its sender, and how long it may take."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
import structlog
import trio
import trio.testing

from dspex.runtime import (
    Actor,
    ActorRef,
    CalleeExitedError,
    CallTimeoutError,
    Refuse,
    current_deadline,
    open_node,
)

Clock = trio.testing.MockClock
run_id: ContextVar[str] = ContextVar("run_id", default="none")


class Service(Actor):
    def __init__(self, inner: "ActorRef[Service] | None" = None) -> None:
        self.inner = inner
        self.seen: list[str] = []

    async def handle_info(self, message: object) -> None:
        self.seen.append(run_id.get())

    async def run_id(self) -> str:
        if self.inner is not None:
            return await self.inner.call(Service.run_id)
        return run_id.get()

    async def note(self) -> None:
        self.seen.append(run_id.get())

    async def in_a_task(self) -> None:
        self.spawn(self.note)

    async def set_run_id(self, value: str) -> None:
        run_id.set(value)

    async def logs(self) -> dict[str, object]:
        return structlog.contextvars.get_contextvars()

    async def deadline(self) -> float | None:
        if self.inner is not None:
            return await self.inner.call(Service.deadline)
        return current_deadline()

    async def sleep(self, seconds: float) -> None:
        if self.inner is None:
            await trio.sleep(seconds)
            return
        try:
            await self.inner.call(Service.sleep, seconds, timeout=100)
        except CallTimeoutError as error:
            self.seen.append(f"{error.seconds:g}")
            raise Refuse(error) from None

    async def get(self) -> list[str]:
        return self.seen

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        self.spawn(work)


async def test_context_variables_travel_with_calls_casts_infos_and_tasks() -> None:
    async with open_node() as node:
        inner = await node.start(Service())
        outer = await node.start(Service(inner))
        run_id.set("r1")
        assert await outer.call(Service.run_id) == "r1"
        await inner.cast(Service.note)
        run_id.set("r2")
        await inner.send("hello")
        run_id.set("r3")
        await inner.call(Service.in_a_task)
        await trio.testing.wait_all_tasks_blocked()
        assert inner.is_alive
        assert await inner.call(Service.get) == ["r1", "r2", "r3"]


async def test_what_a_handler_sets_ends_with_the_message() -> None:
    async with open_node() as node:
        ref = await node.start(Service())
        await ref.call(Service.set_run_id, "mine")
        assert await ref.call(Service.run_id) == "none"


async def test_an_actor_does_not_keep_the_context_of_who_started_it() -> None:
    seen: list[str] = []

    class Curious(Actor):
        async def init(self) -> None:
            seen.append(run_id.get())

    async with open_node() as node:
        run_id.set("starter")
        await node.start(Curious())
        assert seen == ["none"]


async def test_structlogs_fields_travel() -> None:
    async with open_node() as node:
        ref = await node.start(Service())
        with structlog.contextvars.bound_contextvars(request="42"):
            assert await ref.call(Service.logs) == {"request": "42"}
        assert await ref.call(Service.logs) == {}


async def test_a_call_inside_a_call_never_outlives_its_callers(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        inner = await node.start(Service())
        outer = await node.start(Service(inner))
        assert await outer.call(Service.deadline, timeout=3) == pytest.approx(3)
        with pytest.raises(CallTimeoutError):
            await outer.call(Service.sleep, 10, timeout=3)
        assert trio.current_time() == pytest.approx(3)
        await trio.testing.wait_all_tasks_blocked()
        assert await outer.call(Service.get) == ["3"]


async def test_a_cast_has_no_deadline() -> None:
    deadlines: list[float | None] = []

    class Note(Service):
        async def note(self) -> None:
            deadlines.append(current_deadline())

    async with open_node() as node:
        ref = await node.start(Note())
        await ref.cast(Note.note)
        await trio.testing.wait_all_tasks_blocked()
        assert deadlines == [None]


async def test_a_task_started_by_an_answered_call_has_no_deadline_any_more(
    autojump_clock: Clock,
) -> None:
    async with open_node() as node:
        inner = await node.start(Service())
        ref = await node.start(Service())

        async def poll() -> None:
            await trio.sleep(10)
            await inner.call(Service.note)

        await ref.call(Service.run, poll, timeout=1)
        await trio.sleep(20)
        assert ref.is_alive
        assert await inner.call(Service.get) == ["none"]


async def test_cancellation_and_errors_pass_through_a_handlers_context(
    autojump_clock: Clock,
) -> None:
    class Careful(Service):
        async def give_up(self) -> str:
            with trio.move_on_after(1):
                await trio.sleep_forever()
            failures: list[str] = []
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.fail)
                    await trio.sleep_forever()
            except* ZeroDivisionError:
                failures.append(run_id.get())
            return failures[0]

        async def fail(self) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError

    async with open_node() as node:
        ref = await node.start(Careful())
        run_id.set("r9")
        assert await ref.call(Careful.give_up) == "r9"
        with pytest.raises(CalleeExitedError):
            await ref.call(Careful.fail)
