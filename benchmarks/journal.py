"""The journal's figures against one commit an effect, and one bare fsync.

`python -m benchmarks journal [--quick]` prints one JSON line a figure: medians of
interleaved rounds on one file system, and whether the target holds.
"""

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from dspex.runtime import open_node
from dspex.runtime.journal import (
    WRITER,
    AcceptRun,
    Fence,
    Journal,
    RecordEffect,
    WorkerIdentity,
    open_store,
)

BODY = json.dumps({"text": "x" * 1_500})
FENCE = Fence("r", "w", 1)


@asynccontextmanager
async def journal_in(folder: str) -> AsyncGenerator[Journal]:
    path = Path(folder, f"{time.time_ns()}.db")
    async with open_store(path) as store, open_node() as node:
        journal = Journal(store, node.registry)
        await node.start(journal.writer(), name=WRITER)
        await journal.register("w", WorkerIdentity("here", 1, "1"))
        await journal.accept(AcceptRun("r", "p", 1, "{}", "{}", time.time(), "w"))
        yield journal


def effect(number: int) -> RecordEffect:
    return RecordEffect(
        FENCE, "s", "f", number, "model", BODY, BODY, "{}", 0.1, time.time()
    )


async def grouped(folder: str, callers: int, each: int) -> tuple[float, float]:
    """Give effects a second, and the median latency, of the journal."""
    latencies: list[float] = []
    async with journal_in(folder) as journal:

        async def call(caller: int) -> None:
            for n in range(each):
                began = time.perf_counter()
                await journal.write(effect(caller * each + n))
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for caller in range(callers):
                nursery.start_soon(call, caller)
        seconds = time.perf_counter() - began
    return callers * each / seconds, statistics.median(latencies)


def one_commit_each(folder: str, times: int) -> float:
    """Give effects a second with a commit for each, by bare sqlite3."""
    path = Path(folder, f"each-{time.time_ns()}.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE effect (n INTEGER PRIMARY KEY, a TEXT, b TEXT)")
    began = time.perf_counter()
    for n in range(times):
        connection.execute("INSERT INTO effect VALUES (?, ?, ?)", (n, BODY, BODY))
    seconds = time.perf_counter() - began
    connection.close()
    return times / seconds


async def accepted(folder: str, runs: int) -> tuple[float, float]:
    """Give runs accepted a second, and MiB that they cost while they are queued."""
    async with journal_in(folder) as journal:
        before = _rss_mib()

        async def accept(first: int) -> None:
            for n in range(first, runs, 200):
                await journal.accept(
                    AcceptRun(f"q{n}", "p", 1, BODY, "{}", time.time())
                )

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for first in range(200):
                nursery.start_soon(accept, first)
        seconds = time.perf_counter() - began
        return runs / seconds, _rss_mib() - before


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _print(
    figure: str, value: float, unit: str, target: str, good: bool, **more: Any
) -> bool:  # Any: JSON
    line = {"figure": figure, "value": round(value, 3), "unit": unit, "target": target}
    print(json.dumps({**line, "holds": good, **more}), flush=True)
    return good


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks journal")
    parser.add_argument(
        "--quick", action="store_true", help="1 round, a tenth the work"
    )
    options = parser.parse_args(arguments)
    rounds, scale = (1, 10) if options.quick else (5, 1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        wide: list[float] = []
        each: list[float] = []
        latency: list[float] = []
        for _ in range(rounds):
            wide.append(trio.run(grouped, folder, 256, 50 // min(scale, 10))[0])
            each.append(one_commit_each(folder, 1_000 // scale))
            latency.append(trio.run(grouped, folder, 32, 100 // scale)[1])
        rate, memory = trio.run(accepted, folder, 10_000 // scale)
    bare = statistics.median(each)
    ratio = statistics.median(wide) / bare
    good = _print(
        "durable_effects_256",
        statistics.median(wide),
        "/s",
        ">= 10 x one commit each",
        ratio >= 10,
        peer=round(bare, 1),
        ratio=round(ratio, 1),
    )
    slower = statistics.median(latency) * bare
    good &= _print(
        "latency_32_p50",
        statistics.median(latency) * 1e3,
        "ms",
        "<= 2 x one bare commit",
        slower <= 2,
        peer=round(1e3 / bare, 3),
        ratio=round(slower, 2),
    )
    good &= _print(
        "accepted_runs",
        rate,
        "/s",
        ">= 2000/s, <= 200 MiB",
        rate >= 2_000 and memory <= 200,
        mib=round(memory, 1),
    )
    return 0 if good else 1
