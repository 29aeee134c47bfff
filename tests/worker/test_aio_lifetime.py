"""The runtime inside asyncio from its opening to its end, whoever ends it."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
import trio

import dspex
from dspex import App, ChildSpec, Program, Step
from dspex.runtime.engine import ProgramError
from dspex.runtime.errors import NotTrioError
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app
from dspex.worker.errors import RuntimeClosedError, RuntimeStoppedError, WrongLoopError
from tests.worker.triage_app import ANSWER, app, in_asyncio, program


def test_what_keeps_the_runtime_from_opening_is_raised() -> None:
    bad = Program(name="bad", steps={"x": Step(module="Nope", signature="a -> b")})

    async def main() -> None:
        async with dspex.aio.open_runtime(App(bad, lm=ScriptedLM([]))):
            pytest.fail("it must not open")

    with pytest.raises(ProgramError, match="Nope"):
        in_asyncio(main)
    assert not [it for it in threading.enumerate() if it.name == "dspex-runtime"]


@pytest.mark.parametrize(
    ("what", "opened"),
    [
        ("open_node", dspex.open_node),
        ("open_runtime", partial(dspex.open_runtime, ScriptedLM([]))),
        ("open_runtime", partial(dspex.open_runtime, ScriptedLM([]), store="none.db")),
        ("open_runtime", partial(open_app, App(lm=ScriptedLM([])))),
    ],
)
def test_what_is_for_trio_says_what_to_use_under_asyncio(
    what: str, opened: Callable[[], AbstractAsyncContextManager[object]]
) -> None:
    async def main() -> None:
        with pytest.raises(NotTrioError, match=rf"{what} .*dspex\.aio\.open_runtime"):
            async with opened():
                pytest.fail("it must not open")

    in_asyncio(main)


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
