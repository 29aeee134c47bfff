"""Calls from asyncio into the runtime: cancellation, context, limits, errors."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

import dspex
from dspex import App
from dspex.providers import Request
from dspex.testing import ScriptedLM
from dspex.worker.app import Runtime
from dspex.worker.errors import ProgramNotFoundError
from tests.worker.triage_app import ANSWER, app, in_asyncio, program


def test_cancelling_a_call_cancels_its_work_and_waits_for_the_end_of_it() -> None:
    async def main() -> None:
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended: list[str] = []

        async def work(_: Runtime) -> None:
            loop.call_soon_threadsafe(began.set)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.05)
                ended.append("cleaned up")

        async with dspex.aio.open_runtime(app()) as rt:
            task = asyncio.create_task(rt.call(work))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == ["cleaned up"]
            assert (await rt.run("triage", ticket="x")).status == "succeeded"

    in_asyncio(main)


def test_work_that_is_cancelled_before_it_starts_never_starts() -> None:
    async def main() -> None:
        is_blocked = threading.Event()
        release = threading.Event()
        started: list[str] = []

        async def block(_: Runtime) -> None:
            is_blocked.set()
            release.wait(10)  # the whole trio thread, so that nothing else starts

        async def work(_: Runtime) -> None:
            started.append("work")

        async with dspex.aio.open_runtime(app()) as rt:
            blocking = asyncio.create_task(rt.call(block))
            await asyncio.to_thread(is_blocked.wait)
            task = asyncio.create_task(rt.call(work))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await blocking
            assert started == []

    in_asyncio(main)


def test_context_variables_of_the_caller_reach_the_work() -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")

    async def read(_: Runtime) -> str:
        await trio.lowlevel.checkpoint()
        return request_id.get()

    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:

            async def ask(name: str) -> str:
                request_id.set(name)
                return await rt.call(read)

            assert list(await asyncio.gather(ask("a"), ask("b"))) == ["a", "b"]

    in_asyncio(main)


def test_the_trace_of_the_caller_goes_over_to_the_work_and_its_steps() -> None:
    seen: list[int] = []

    def answer(_: Request) -> str:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return ANSWER

    async def read(_: Runtime) -> int:
        await trio.lowlevel.checkpoint()
        return trace.get_current_span().get_span_context().trace_id

    def span(trace_id: int) -> NonRecordingSpan:
        return NonRecordingSpan(SpanContext(trace_id, 7, is_remote=False))

    async def main() -> None:
        async with dspex.aio.open_runtime(App(program(), lm=ScriptedLM(answer))) as rt:

            async def ask(trace_id: int) -> int:
                with trace.use_span(span(trace_id)):
                    return await rt.call(read)

            assert list(await asyncio.gather(ask(1), ask(2))) == [1, 2]
            with trace.use_span(span(3)):
                await rt.run("triage", ticket="x")
                run = await rt.submit("triage", {"ticket": "x"})
            await rt.result(run)
            assert seen == [3, 3]

    in_asyncio(main)


def test_no_more_calls_than_allowed_are_in_the_runtime() -> None:
    async def main() -> None:
        inside = 0
        most = 0

        async def work(_: Runtime) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await trio.sleep(0.001)
            inside -= 1

        async with dspex.aio.open_runtime(app(), max_calls=3) as rt:
            await asyncio.gather(*(rt.call(work) for _ in range(50)))
        assert most == 3

    in_asyncio(main)


def test_work_that_is_no_async_function_is_told_so() -> None:
    def one(_: Runtime, *, extra: int = 0) -> int:
        return 1 + extra

    not_async: Any = one  # Any: what no type checker lets through

    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            with pytest.raises(TypeError, match=r"async function.*one.* gave int"):
                await rt.call(not_async)
            with pytest.raises(TypeError, match=r"async function.*one.* gave int"):
                await rt.call(not_async, extra=1)

    in_asyncio(main)


def test_what_work_raises_is_raised_in_the_caller() -> None:
    async def fail(_: Runtime) -> None:
        raise ZeroDivisionError("boom")

    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            with pytest.raises(ZeroDivisionError, match="boom"):
                await rt.call(fail)
            with pytest.raises(ProgramNotFoundError, match=r"'other'.*triage"):
                await rt.run("other")

    in_asyncio(main)
