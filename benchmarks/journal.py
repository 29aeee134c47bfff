"""The journal's figures against one commit an effect, by bare sqlite3.

`python -m benchmarks journal [--quick]` prints one JSON line a figure: medians of
interleaved rounds on one file system. Rates are compared with rates (what was done in
so many seconds), and median latencies with median latencies. The bare commit inserts
the same row into the same table, indexes and settings included, and checks no fence.

The figures named `slow_commit` are the same with a commit that takes SLOW_SECONDS
longer on both sides: a sleep stands in for a disk that is slower to flush.
"""

import argparse
import functools
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from benchmarks._figure import figure
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
from dspex.runtime.journal.store import Store
from dspex.runtime.journal.writes import Write

BODY = json.dumps({"text": "x" * 1_500})
FENCE = Fence("r", "w", 1)
SLOW_SECONDS = 0.004
BUSY_TURN_SECONDS = 0.0002


class SlowStore(Store):
    """A store whose commits take longer."""

    seconds = 0.0

    def write(self, writes: Sequence[Write]) -> list[object]:
        answers = super().write(writes)
        if self.seconds:
            time.sleep(self.seconds)
        return answers


@asynccontextmanager
async def journal_in(folder: str, *, slow: float = 0.0) -> AsyncGenerator[Journal]:
    path = Path(folder, f"{time.time_ns()}.db")
    async with open_store(path), open_node() as node:
        store = SlowStore(path)
        store.seconds = slow
        try:
            journal = Journal(store)
            await node.start(journal.writer(), name=WRITER)
            await journal.register("w", WorkerIdentity("here", 1, "1"))
            await journal.accept(AcceptRun("r", "p", 1, "{}", "{}", time.time(), "w"))
            yield journal
        finally:
            store.close()


def effect(number: int) -> RecordEffect:
    return RecordEffect(
        FENCE, "s", "f", number, "model", BODY, BODY, "{}", 0.1, time.time()
    )


async def grouped(
    folder: str, callers: int, each: int, *, slow: float = 0.0
) -> tuple[float, float]:
    """Give effects a second, and the median latency, of the journal."""
    latencies: list[float] = []
    async with journal_in(folder, slow=slow) as journal:

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


def one_commit_each(
    folder: str, times: int, *, slow: float = 0.0
) -> tuple[float, float]:
    """Give commits of one effect a second, and their median latency, by bare sqlite3.

    Checkpoints, of which there is one now and then, count in the rate, as they do on
    the journal's side.
    """
    path = Path(folder, f"each-{time.time_ns()}.db")
    store = Store(path)
    store.open()
    store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(
        "INSERT INTO run (id, program, version, state, inputs, options, epoch, "
        "accepted_at) VALUES ('r', 'p', 1, 'running', '{}', '{}', 1, 0)"
    )
    took: list[float] = []
    started = time.perf_counter()
    for n in range(times):
        began = time.perf_counter()
        row = ("r", "s", "f", n, "model", BODY, BODY, "{}", 0.1, time.time())
        connection.execute(
            f"INSERT INTO effect VALUES ({', '.join('?' * 10)}) ON CONFLICT DO NOTHING",
            row,
        )
        if slow:
            time.sleep(slow)
        took.append(time.perf_counter() - began)
    seconds = time.perf_counter() - started
    connection.close()
    return times / seconds, statistics.median(took)


async def one_caller(folder: str, times: int, *, is_busy: bool) -> float:
    """Give the median latency of effects one by one; busy: beside turns of 0.2 ms."""

    async def spin() -> None:
        while True:
            until = time.perf_counter() + BUSY_TURN_SECONDS
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    latencies: list[float] = []
    async with journal_in(folder) as journal, trio.open_nursery() as nursery:
        if is_busy:
            nursery.start_soon(spin)
        for n in range(times):
            began = time.perf_counter()
            await journal.write(effect(n))
            latencies.append(time.perf_counter() - began)
        nursery.cancel_scope.cancel()
    return statistics.median(latencies)


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


def _group_commit(name: str, folder: str, rounds: int, scale: int, slow: float) -> bool:
    wide: list[float] = []
    bare_rate: list[float] = []
    bare_latency: list[float] = []
    latency: list[float] = []
    many = functools.partial(grouped, folder, slow=slow)
    for _ in range(rounds):
        wide.append(trio.run(many, 256, 50 // scale)[0])
        rate, commit = one_commit_each(folder, 1_000 // scale, slow=slow)
        bare_rate.append(rate)
        bare_latency.append(commit)
        latency.append(trio.run(many, 32, 100 // scale)[1])
    good = figure(
        f"durable_effects_256{name}",
        statistics.median(wide),
        "1/s",
        reach=">= 10 x one_commit_each",
        against={"one_commit_each": statistics.median(bare_rate)},
    )
    return good & figure(
        f"latency_32_p50{name}",
        statistics.median(latency) * 1e3,
        "ms",
        reach="<= 2 x bare_commit",
        against={"bare_commit": statistics.median(bare_latency) * 1e3},
    )


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks journal")
    parser.add_argument(
        "--quick", action="store_true", help="1 round, a tenth the work"
    )
    options = parser.parse_args(arguments)
    rounds, scale = (1, 10) if options.quick else (5, 1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        good = _group_commit("", folder, rounds, scale, 0.0)
        good &= _group_commit(
            "_slow_commit", folder, min(rounds, 3), max(scale, 5), SLOW_SECONDS
        )
        alone, busy = (
            trio.run(functools.partial(one_caller, folder, 200, is_busy=it))
            for it in (False, True)
        )
        good &= figure(
            "latency_1_beside_busy_loop_p50",
            busy * 1e3,
            "ms",
            reach="<= 50",
            against={"idle_loop": alone * 1e3},
        )
        rate, memory = trio.run(accepted, folder, 10_000 // scale)
    good &= figure("accepted_runs", rate, "1/s", reach=">= 2000")
    good &= figure("queued_runs_10000", memory, "MiB", reach="<= 200")
    return 0 if good else 1
