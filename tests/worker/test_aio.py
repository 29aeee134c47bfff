"""The runtime inside asyncio."""

import asyncio
import contextvars
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

import dspex
from dspex import App, ChildSpec, Program, Run, Step
from dspex.providers import Request
from dspex.runtime.engine import ProgramError
from dspex.testing import ScriptedLM
from dspex.worker.app import Runtime
from dspex.worker.errors import (
    ProgramNotFoundError,
    RuntimeClosedError,
    RuntimeStoppedError,
    WrongLoopError,
)

T = TypeVar("T")

ANSWER = '{"category": "billing"}'


def program(name: str = "triage") -> Program:
    step = Step(module="Predict", signature="ticket -> category")
    return Program(name=name, steps={"classify": step})


def app(*, delay: float = 0.0) -> App:
    return App(program(), lm=ScriptedLM(lambda _: ANSWER, delay=delay))


def in_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main()

    return asyncio.run(bounded())


def test_a_loaded_program_runs_by_its_name() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            run = await rt.run("triage", ticket="My invoice is wrong")
            assert run.outputs == {"category": "billing"}
            again = await rt.run(program(), ticket="It does not start")
            assert again.status == "succeeded"

    in_asyncio(main)


def test_a_stream_that_is_cancelled_while_its_run_is_accepted_cancels_the_run(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"

    async def main() -> None:
        async with dspex.aio.open_runtime(app(delay=60.0), store=store) as rt:
            assert await rt.call(states) == []

            async def follow() -> None:
                async for _ in rt.stream("triage", ticket="x"):
                    pass

            with closing(sqlite3.connect(store)) as other:
                other.execute("BEGIN IMMEDIATE")
                following = asyncio.create_task(follow())
                await asyncio.sleep(0)  # it has begun, and nothing can be written
                following.cancel()
                await asyncio.sleep(0)
                other.execute("ROLLBACK")
            with pytest.raises(asyncio.CancelledError):
                await following
            assert await rt.call(states) == ["cancelled"]

    in_asyncio(main)


async def states(runtime: Runtime) -> list[str]:
    return [row.state for row in await runtime.journal.runs()]


def test_what_a_service_leaves_unfinished_its_next_process_finishes(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"

    async def before() -> str:
        slow = app(delay=60.0)
        async with dspex.aio.open_runtime(slow, store=store, drain_timeout=0.0) as rt:
            run = await rt.submit("triage", {"ticket": "x"}, key="ticket 7")
            assert await rt.submit("triage", {"ticket": "x"}, key="ticket 7") == run
            return run

    async def after() -> Run:
        async with dspex.aio.open_runtime(app(), store=store) as rt:
            return await rt.result(run)

    run = in_asyncio(before)
    found = in_asyncio(after)
    assert (found.status, found.outputs) == ("succeeded", {"category": "billing"})
    with dspex.sync.open_runtime(app(), store=store) as rt:
        assert rt.result(run).outputs == found.outputs


def test_a_thousand_at_once_are_all_answered() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            tickets = [rt.run("triage", ticket=str(n)) for n in range(1_000)]
            runs = await asyncio.gather(*tickets)
            assert [run.status for run in runs] == ["succeeded"] * 1_000

    in_asyncio(main)


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


def test_what_keeps_the_runtime_from_opening_is_raised() -> None:
    bad = Program(name="bad", steps={"x": Step(module="Nope", signature="a -> b")})

    async def main() -> None:
        async with dspex.aio.open_runtime(App(bad, lm=ScriptedLM([]))):
            pytest.fail("it must not open")

    with pytest.raises(ProgramError, match="Nope"):
        in_asyncio(main)
    assert not [it for it in threading.enumerate() if it.name == "dspex-runtime"]


def test_opening_can_be_cancelled() -> None:
    class Slow(dspex.Actor):
        async def init(self) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        slow = App(lm=ScriptedLM([]), children=[ChildSpec("slow", Slow)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), dspex.aio.open_runtime(slow):
                pytest.fail("it must not open")

    in_asyncio(main)
    assert not [it for it in threading.enumerate() if it.name == "dspex-runtime"]


def test_calls_under_way_end_before_the_runtime_closes() -> None:
    async def main() -> str:
        async with dspex.aio.open_runtime(app(delay=0.1)) as rt:
            task = asyncio.create_task(rt.run("triage", ticket="x"))
            await asyncio.sleep(0.02)
        return (await task).status

    assert in_asyncio(main) == "succeeded"


def test_calls_that_take_longer_than_the_drain_fail_with_a_clear_error() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app(delay=60), drain_timeout=0.05) as rt:
            task = asyncio.create_task(rt.run("triage", ticket="x"))
            await asyncio.sleep(0.02)
        with pytest.raises(RuntimeClosedError, match="runtime is closed"):
            await task
        with pytest.raises(RuntimeClosedError):
            await rt.run("triage", ticket="x")

    in_asyncio(main)


def test_a_second_event_loop_is_told_so() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:

            def other() -> None:
                asyncio.run(use())

            async def use() -> None:
                with pytest.raises(WrongLoopError, match="another asyncio event loop"):
                    await rt.run("triage", ticket="x")

            await asyncio.to_thread(other)

    in_asyncio(main)


FORK = """
import asyncio, os, sys, warnings
import dspex
from dspex.testing import ScriptedLM
warnings.simplefilter("ignore")
async def main():
    async with dspex.aio.open_runtime(dspex.App(lm=ScriptedLM([]))) as rt:
        pid = os.fork()
        if pid == 0:
            try:
                await rt.tree()
            except dspex.DspexError as error:
                print(type(error).__name__, error, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(await rt.tree(), flush=True)
asyncio.run(main())
"""


def test_a_forked_child_is_told_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    first, *tree = done.stdout.splitlines()
    assert first.startswith("ForkedRuntimeError"), done.stderr
    assert "after the fork" in first
    assert tree[0] == "dspex [running]"


def test_signals_stay_with_the_host() -> None:
    async def main() -> None:
        before = [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)]
        async with dspex.aio.open_runtime(app()) as rt:
            await rt.run("triage", ticket="x")
            inside = [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)]
        assert inside == before

    in_asyncio(main)


def test_a_runtime_that_gives_up_tells_every_caller() -> None:
    class Broken(dspex.Actor):
        async def init(self) -> None:
            self.spawn(self._die)

        async def _die(self) -> None:
            await trio.sleep(0.05)
            raise ZeroDivisionError("again")

    async def main() -> None:
        broken = App(
            program(),
            lm=ScriptedLM(lambda _: ANSWER, delay=60),
            children=[ChildSpec("broken", Broken)],
        )
        async with dspex.aio.open_runtime(broken) as rt:
            with pytest.raises(RuntimeClosedError):
                await rt.run("triage", ticket="x")

    with pytest.raises(RuntimeStoppedError, match="the log tells which child"):
        in_asyncio(main)


def test_a_stream_tells_what_a_run_does_up_to_its_end() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app()) as rt:
            events = [it async for it in rt.stream("triage", ticket="x")]
            assert [it.kind for it in events] == [
                "accepted", "started", "step_started", "call_finished",
                "step_finished", "finished",
            ]  # fmt: skip
            assert [it.seq for it in events] == [1, 2, 3, 4, 5, 6]
            assert events[-1].data["status"] == "succeeded"

    in_asyncio(main)


def test_a_stream_that_is_left_cancels_its_run() -> None:
    async def main() -> None:
        async with dspex.aio.open_runtime(app(delay=60)) as rt:
            stream = rt.stream("triage", ticket="x")
            run = (await anext(stream)).run
            await stream.aclose()

            async def status(runtime: Runtime) -> str:
                return runtime.table.get(run).status

            assert await rt.call(status) == "cancelled"

    in_asyncio(main)
