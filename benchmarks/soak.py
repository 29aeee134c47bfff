"""A worker for minutes under load and faults: does it grow, lose or forget anything?

`python -m benchmarks soak [--minutes 10]` starts `dspex worker` with a store on disk,
for native steps, an agent, maps, Python and dspy steps. All the time the model
answers slowly now and then, with 429 and 500 or not at all, and dspy processes and
actors are killed. For a moment it has as many clients at once as it may have later;
then what it can take over HTTP is measured, and 70 % of that comes from clients that
wait, poll, follow, hang up and cancel. At the first minute and at the end the load
pauses for a moment, for what must be as before: memory, descriptors, tasks.
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import httpx
import trio

from benchmarks._figure import figure
from benchmarks._soak_clients import MANNERS, Clients, Model
from benchmarks._soak_worker import State, open_worker, read_finished, read_state
from benchmarks.worker import resident_bytes
from dspex.testing.fake_provider import FakeProvider, open_fake_provider
from dspex.testing.process_faults import descendants

CALLERS: Final = 64
LOAD: Final = 0.7
# Arrivals beyond this are counted and left out: the load is not to be the model's.
MOST_OPEN: Final = 400


class Soak:
    """A worker, what is done to it, and what is seen."""

    def __init__(self, pid: int, client: httpx.AsyncClient, model: Model) -> None:
        self.clients = Clients(client)
        self.resident: list[tuple[float, float]] = []
        self.kills: Counter[str] = Counter()
        self.must_pause = False
        self._pid = pid
        self._client = client
        self._model = model

    async def capacity(self, seconds: float, *, callers: int = CALLERS) -> float:
        """Give the runs a second that it ends while more clients come than it serves.

        Of the same manners as the load: one that waits costs it a request, one that
        follows two and a stream.
        """
        end = trio.current_time() + seconds

        async def call() -> None:
            while trio.current_time() < end:
                await self.clients.one(random.choice(MANNERS))

        before = await read_finished(self._client)
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(call)
            await trio.sleep_until(end)
            after = await read_finished(self._client)
        return (after - before) / seconds

    async def load(self, rate: float, nursery: trio.Nursery) -> None:
        """Let clients come at random, so many a second, until cancelled."""
        at = trio.current_time()
        while True:
            at += random.expovariate(rate)
            await trio.sleep_until(at)
            if self.must_pause:
                at = trio.current_time()
            elif self.clients.open >= MOST_OPEN:
                self.clients.tally.left_out += 1
            else:
                nursery.start_soon(self.clients.one, random.choice(MANNERS))

    async def watch(self) -> None:
        """Note the memory every second, until cancelled."""
        while True:
            at = trio.current_time()
            self.resident.append((at, resident_bytes(self._pid) / 1e6))
            await trio.sleep(1.0)

    async def torment(self) -> None:
        """Kill a dspy process and an actor every few seconds, until cancelled."""
        while True:
            await trio.sleep(random.uniform(2.0, 4.0))
            if self.must_pause:
                continue
            processes = descendants(self._pid)
            if processes and random.random() < 0.5:
                os.kill(random.choice(processes).pid, signal.SIGKILL)
                self.kills["process"] += 1
            with contextlib.suppress(httpx.TransportError):
                name, number = random.choice(await self._actors())
                reply = await self._client.post(f"/observer/actors/{number}/kill")
                self.kills[name.rpartition("/")[0] or name] += reply.status_code == 303

    async def _actors(self) -> list[tuple[str, int]]:
        rows = [(await self._client.get("/v1/tree")).json()["tree"]]
        for row in rows:
            rows += row["children"]
        return [
            (row["name"], row["id"])
            for row in rows
            if not row["is_supervisor"] and row["id"] is not None
        ]

    async def pause(self) -> State:
        """Stop the load and the faults, and look at the worker at rest."""
        self.must_pause, self._model.is_faulty = True, False
        with trio.move_on_after(40):
            while self.clients.open:
                await trio.sleep(0.1)
        # Idle threads end after 10 seconds, idle connections to the model after 30, at
        # the next use, idle dspy processes after 60: as many as the load had a moment
        # ago are no leak.
        await trio.sleep(65)
        await self.clients.one("wait")
        # The first answer lets the client close what it has kept for too long.
        await self._client.get("/healthz")
        await trio.sleep(0.5)
        state = await read_state(self._pid, self._client)
        self.must_pause, self._model.is_faulty = False, True
        return state

    def resident_between(self, begin: float, end: float) -> float:
        """Give the median of the memory between two moments, in MB."""
        return statistics.median(mb for at, mb in self.resident if begin <= at <= end)


async def soak(minutes: float, folder: Path, log: Path) -> bool:
    """Measure and print; whether every target is met."""
    model = Model()
    async with (
        open_fake_provider(model.choose) as provider,
        open_worker(folder, log, provider.url) as (pid, url),
        httpx.AsyncClient(
            base_url=url,
            timeout=60.0,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=32, keepalive_expiry=1.0
            ),
        ) as client,
    ):
        it = Soak(pid, client, model)
        first = min(60.0, 30 * minutes)
        model.is_faulty = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.torment)
            nursery.start_soon(_forget, provider)
            # What so many at once take of the memory is not what a leak is told by.
            await it.capacity(10.0, callers=MOST_OPEN)
            capacity = await it.capacity(min(30.0, 20 * minutes))
            began = trio.current_time()
            nursery.start_soon(it.load, LOAD * capacity, nursery)
            nursery.start_soon(it.watch)
            await trio.sleep_until(began + first)
            before = await it.pause()
            paused = trio.current_time()
            await trio.sleep(60 * minutes - first)
            ended = trio.current_time()
            after = await it.pause()
            it.must_pause, model.is_faulty = True, False
            lost, stuck, statuses = await it.clients.settle()
            nursery.cancel_scope.cancel()
        # Under load, as at rest the allocator may have given some back.
        window = min(30.0, (ended - paused) / 3)
        early = it.resident_between(paused, paused + window)
        late = it.resident_between(ended - window, ended)
    good = _report(it, model, capacity)
    good &= figure(
        "soak_resident",
        late,
        "MB",
        reach="<= 1.05 x after_a_minute",
        against={
            "after_a_minute": early,
            "at_rest_then": before.resident,
            "at_rest": after.resident,
            **{
                f"minute_{n + 1}": it.resident_between(
                    began + n * 60, began + n * 60 + 60
                )
                for n in range(int((ended - began) / 60))
            },
        },
    )
    good &= figure("soak_lost", lost, "runs", reach="<= 0")
    good &= figure("soak_stuck", stuck, "runs", reach="<= 0")
    figure("soak_runs", len(it.clients.tally.runs), "runs", against=dict(statuses))
    figure(
        "soak_new_descriptors",
        (after.kinds - before.kinds).total(),
        "descriptors",
        against=dict(after.kinds - before.kinds),
    )
    for name in ("descriptors", "tasks", "threads", "below"):
        good &= figure(
            f"soak_{name}",
            getattr(after, name),
            "processes" if name == "below" else name,
            reach="<= 1.05 x after_a_minute",
            against={"after_a_minute": getattr(before, name)},
        )
    return good


async def _forget(provider: FakeProvider) -> None:
    while True:
        await trio.sleep(5.0)
        provider.requests.clear()


def _report(it: Soak, model: Model, capacity: float) -> bool:
    tally = it.clients.tally
    harm = {**model.faults, **it.kills}
    refused = {f"status_{status}": count for status, count in tally.refused.items()}
    refused["left_out"] = tally.left_out
    figure("soak_capacity", capacity, "1/s")
    figure("soak_faults", sum(harm.values()), "faults", against=harm)
    figure("soak_refused", sum(refused.values()), "requests", against=refused)
    return figure(
        "soak_streams_without_end", tally.broken_streams, "streams", reach="<= 0"
    )


def main(arguments: list[str]) -> int:
    """Soak; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="one minute")
    parser.add_argument("--log", type=Path, help="where the worker's log is kept")
    options = parser.parse_args(arguments)
    minutes = 1.0 if options.quick else options.minutes
    with tempfile.TemporaryDirectory() as folder:
        return (
            0
            if trio.run(
                soak, minutes, Path(folder), options.log or Path(folder) / "log"
            )
            else 1
        )
