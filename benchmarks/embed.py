"""Embedding in asyncio against anyio's blocking portal: `python -m benchmarks embed`.

One call is asyncio -> the runtime's thread -> asyncio, with work that does nothing
but let others run. Prints one JSON line a figure: medians of interleaved runs.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import trio
from anyio.from_thread import start_blocking_portal

import dspex
from benchmarks._figure import figure
from dspex.testing import ScriptedLM
from dspex.worker.app import Runtime

CONCURRENT = 1_000


async def nothing(*_: object) -> None:
    await trio.lowlevel.checkpoint()


async def rate(call: Callable[[], Awaitable[object]], callers: int, each: int) -> float:
    async def caller() -> None:
        for _ in range(each):
            await call()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return callers * each / (time.perf_counter() - began)


async def ours(callers: int, each: int) -> float:
    app = dspex.App(lm=ScriptedLM(["unused"]))
    async with dspex.aio.open_runtime(app) as rt:

        async def work(_: Runtime) -> None:
            await trio.lowlevel.checkpoint()

        return await rate(lambda: rt.call(work), callers, each)


async def portal(callers: int, each: int) -> float:
    with start_blocking_portal("trio") as it:
        return await rate(
            lambda: asyncio.wrap_future(it.start_task_soon(nothing)), callers, each
        )


def seconds_of(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


START = """
import asyncio, dspex
from dspex.testing import ScriptedLM
async def main():
    async with dspex.aio.open_runtime(dspex.App(lm=ScriptedLM(["unused"]))):
        pass
asyncio.run(main())
"""
IMPORT = "import asyncio, dspex, dspex.testing; asyncio.run(asyncio.sleep(0))"


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks embed")
    parser.add_argument("--quick", action="store_true", help="1 run, less work")
    quick = parser.parse_args(arguments).quick
    rounds, each = (1, 3) if quick else (7, 20)
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        mine.append(asyncio.run(ours(CONCURRENT, each)))
        theirs.append(asyncio.run(portal(CONCURRENT, max(1, each // 4))))
    value, peer = statistics.median(mine), statistics.median(theirs)
    good = figure(
        "round_trips_1000_concurrent",
        value,
        "1/s",
        reach=">= 25000 and >= 3 x anyio_portal",
        against={"anyio_portal": peer},
    )
    one = statistics.median(asyncio.run(ours(1, 500)) for _ in range(rounds))
    figure("round_trips_1_caller", one, "1/s")
    starts = [seconds_of(START) - seconds_of(IMPORT) for _ in range(rounds)]
    start = statistics.median(starts)
    # Its stop is in it, too.
    good &= figure("start_to_ready_over_import", start, "s", reach="<= 0.5")
    return 0 if good else 1
