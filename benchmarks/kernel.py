"""The kernel's figures against the bare limits of trio, pykka and triotp.

`python -m benchmarks kernel [--quick] [figure...]`: medians of interleaved runs in one
process. triotp needs a newer Python: `make bench` gives it an environment of its own
where there is one; where not, it is left out, and standard error says so.
"""

import argparse
import contextlib
import gc
import logging
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
import trio
import trio.testing

from benchmarks import _triotp
from benchmarks._figure import figure
from benchmarks._kernel_peers import (
    Measure,
    bare_start_seconds,
    bare_task,
    channel_sends,
    lowlevel_round_trips,
    pykka_round_trips,
    triotp_by,
)
from dspex.runtime import Actor, ActorRef, Node, open_node
from dspex.supervisors import ChildSpec, DynamicSupervisor, Supervisor

ValueT = TypeVar("ValueT")


class Echo(Actor):
    capacity = 10_000

    async def init(self) -> None:
        self.count = 0

    async def echo(self, value: int) -> int:
        return value

    async def note(self, value: int) -> None:
        self.count += 1

    async def counted(self) -> int:
        return self.count

    async def crash(self) -> None:
        raise ZeroDivisionError("boom")


# What is measured: ours, and beside it the limit or the peer.


async def call_round_trips(times: int) -> float:
    async with open_node() as node:
        ref = await node.start(Echo())
        began = time.perf_counter()
        for n in range(times):
            await ref.call(Echo.echo, n)
        return times / (time.perf_counter() - began)


async def casts(times: int) -> float:
    async with open_node() as node:
        ref = await node.start(Echo())
        began = time.perf_counter()
        for n in range(times):
            await ref.cast(Echo.note, n)
        assert await ref.call(Echo.counted) == times
        return times / (time.perf_counter() - began)


async def supervised_start_seconds(times: int) -> float:
    """A supervisor starts its named children, one after the other has answered."""
    specs = [ChildSpec(f"c{n}", Echo, name=f"echo-{n}") for n in range(times)]
    async with open_node() as node:
        began = time.perf_counter()
        await node.start(Supervisor(specs))
        return (time.perf_counter() - began) / times


async def called_start_seconds(times: int) -> float:
    """The same, each start asked for by a call from outside."""
    specs = [ChildSpec("echo", Echo, name=f"echo-{n}") for n in range(times)]
    async with open_node() as node:
        sup = await node.start(DynamicSupervisor())
        began = time.perf_counter()
        for spec in specs:
            await sup.call(DynamicSupervisor.start_child, spec)
        return (time.perf_counter() - began) / times


async def bare_bytes(times: int) -> float:
    async with trio.open_nursery() as nursery:
        with _traced() as used:
            for _ in range(times):
                nursery.start_soon(bare_task)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return used[0] / times


async def supervised_bytes(times: int) -> float:
    async with open_node() as node:
        with _traced() as used:
            sup = await node.start(DynamicSupervisor())
            for n in range(times):
                spec = ChildSpec("echo", Echo, name=f"echo-{n}")
                ref = await sup.call(DynamicSupervisor.start_child, spec)
                assert ref is not None
                await ref.call(Echo.echo, n)
                del spec, ref
        return used[0] / times


@contextlib.contextmanager
def _traced() -> Generator[list[int]]:
    used: list[int] = []
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield used
    gc.collect()
    used.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()


async def crash_to_serving_seconds(times: int) -> float:
    async with open_node() as node:
        specs = [ChildSpec("echo", Echo, name="echo")]
        await node.start(Supervisor(specs, intensity=times))
        return statistics.median(
            [await _crash_once(node, "echo") for _ in range(times)]
        )


async def _crash_once(node: Node, name: str) -> float:
    ref: ActorRef[Echo] = await node.registry.wait_for(name)
    began = time.perf_counter()
    await ref.cast(Echo.crash)
    while node.registry.whereis(name) == ref:
        await trio.lowlevel.checkpoint()
    fresh: ActorRef[Echo] = await node.registry.wait_for(name)
    await fresh.call(Echo.echo, 1)
    return time.perf_counter() - began


def crash_beside(siblings: int) -> Measure:
    async def measure(times: int) -> float:
        async with open_node(shutdown_timeout=60) as node:
            specs = [ChildSpec(f"c{n}", Echo) for n in range(siblings)]
            specs.insert(siblings // 2, ChildSpec("echo", Echo, name="echo"))
            await node.start(Supervisor(specs, intensity=times))
            gc.collect()
            gc.freeze()  # a full collection among 100,000 siblings takes seconds
            took = [await _crash_once(node, "echo") for _ in range(times)]
            return statistics.median(took)

    return measure


async def start_and_stop(times: int) -> tuple[float, float]:
    specs = [ChildSpec(f"c{n}", Echo) for n in range(times)]
    async with open_node(shutdown_timeout=60) as node:
        began = time.perf_counter()
        root = await node.start(Supervisor(specs))
        started = time.perf_counter()
        await root.stop("shutdown", timeout=60)
        return started - began, time.perf_counter() - started


async def tail_over_median(times: int) -> float:
    """p99 over p50 of call latencies, `times` callers at once, 50 calls each."""
    took: list[float] = []
    async with open_node() as node:
        ref = await node.start(Echo())

        async def caller() -> None:
            for n in range(50):
                began = time.perf_counter()
                await ref.call(Echo.echo, n)
                took.append(time.perf_counter() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(caller)
    took.sort()
    return took[int(len(took) * 0.99)] / statistics.median(took)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what is measured, how often, and what beside it."""

    name: str
    unit: str
    reach: str
    ours: Measure
    times: int
    against: Mapping[str, Measure] = field(default_factory=dict[str, Measure])

    def measure(self, *, quick: bool) -> bool:
        # Many short rounds, interleaved, so that what else the machine does hits both.
        rounds = 1 if quick else 7 if self.times <= 2_000 else 31
        times = max(1, self.times // 10) if quick else self.times
        values: list[float] = []
        beside: dict[str, list[float]] = {peer: [] for peer in self.against}
        for _ in range(rounds):
            values.append(_run(self.ours, times))
            for peer, measure in self.against.items():
                beside[peer].append(_run(measure, times))
        return figure(
            self.name,
            statistics.median(values),
            self.unit,
            reach=self.reach,
            against={peer: statistics.median(them) for peer, them in beside.items()},
        )


def _call_peers() -> dict[str, Measure]:
    peers: dict[str, Measure] = {
        "lowlevel": lowlevel_round_trips,
        "pykka": pykka_round_trips,
    }
    python = _triotp.find()
    if python is None:
        print("triotp is left out: no Python has it (see make bench)", file=sys.stderr)
    else:
        peers["triotp"] = triotp_by(python)
    return peers


def calls(*, quick: bool) -> bool:
    reach = ">= 0.65 x lowlevel and >= 1.5 x pykka"
    row = Row("call_round_trips", "1/s", reach, call_round_trips, 4_000, _call_peers())
    return row.measure(quick=quick)


def hundred_thousand(*, quick: bool) -> bool:
    """Both come out of one run."""
    times, rounds = (10_000, 1) if quick else (100_000, 3)
    took = [_run(start_and_stop, times) for _ in range(rounds)]
    started, stopped = (statistics.median(them) for them in zip(*took, strict=True))
    good = figure("start_100k", started, "s", reach="<= 6")
    return figure("stop_100k", stopped, "s", reach="<= 6") and good


ROWS = (
    Row("casts", "1/s", ">= 300000", casts, 10_000, {"memory_channel": channel_sends}),
    Row(
        "supervised_start",
        "s",
        "<= 4 x bare_task",
        supervised_start_seconds,
        3_000,
        {"bare_task": bare_start_seconds, "by_a_call": called_start_seconds},
    ),
    Row("memory", "B", "<= 4096", supervised_bytes, 2_000, {"bare_task": bare_bytes}),
    Row("crash_to_serving", "s", "<= 0.0003", crash_to_serving_seconds, 1_000),
    Row(
        "crash_beside_100k",
        "s",
        "<= 1.5 x beside_10",
        crash_beside(100_000),
        200,
        {"beside_10": crash_beside(10)},
    ),
    Row("p99_over_p50", "ratio", "<= 3", tail_over_median, 1_000),
)
FIGURES: dict[str, Callable[..., bool]] = {
    "call_round_trips": calls,
    **{row.name: row.measure for row in ROWS},
    "100k": hundred_thousand,
}


def _run(measure: Callable[[int], Awaitable[ValueT]], times: int) -> ValueT:
    # What was imported is not worth searching for garbage, over and over: a long-
    # running process should say so too, once it has started. What an earlier measure
    # froze is let go of first: with the trees of `crash_beside` left, 1.6 GB, the next
    # measures take half as long again.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    return trio.run(measure, times)


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a figure misses what it should reach."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernel")
    parser.add_argument("--quick", action="store_true", help="1 run, a tenth the work")
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(FIGURES)}")
    options = parser.parse_args(arguments)
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parser.error(f"unknown figures: {', '.join(sorted(unknown))}")
    # Crash reports are made in full and written nowhere.
    structlog.configure(
        processors=[structlog.processors.format_exc_info, _drop],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    chosen = options.figures or FIGURES
    held = [FIGURES[name](quick=options.quick) for name in chosen]
    return 0 if all(held) else 1


def _drop(*_: object) -> Any:  # Any: structlog's processor type
    raise structlog.DropEvent
