"""A worker for minutes under load and faults: does it grow, lose or forget anything?

`python -m benchmarks soak [--minutes 10]` starts `dspex worker` with a store on disk,
measures what it can take over HTTP, and then gives it 70 % of that: native steps, an
agent, maps, Python and dspy steps, clients that wait, poll, follow, hang up and cancel.
Meanwhile the model answers slowly, with 429 and 500 or not at all, dspy processes are
killed, and actors. At the first minute and at the end the load pauses for a moment, for
what must be as before: memory, descriptors, tasks.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from benchmarks._figure import figure
from benchmarks.worker import resident_bytes
from dspex.providers import ToolCall
from dspex.testing import Action, Answer, Fail, Hang, ProviderRequest, Reset
from dspex.testing.fake_provider import FakeProvider, open_fake_provider
from dspex.testing.process_faults import descendants

ROOT: Final = Path(__file__).parents[1]
CALLERS: Final = 32
LOAD: Final = 0.7
FINAL: Final = ("succeeded", "failed", "cancelled")
# Arrivals beyond this are counted and left out: the load is not to be the model's.
MOST_OPEN: Final = 400
MIX: Final = ("native",) * 10 + ("mapped",) * 4 + ("agent",) * 3 + ("python",) * 2
PROGRAMS: Final = (*MIX, "hosted")
# How a client behaves: most wait, the rest in about equal parts.
MANNERS: Final = ("wait",) * 8 + ("poll", "follow", "return", "hang up", "cancel") * 2

JSON = dict[str, Any]  # Any: JSON


class Model:
    """Answers by what is asked; with `is_faulty` one in thirty in a bad way."""

    def __init__(self) -> None:
        self.is_faulty = False
        self.faults: Counter[str] = Counter()

    def choose(self, request: ProviderRequest) -> Action:
        if self.is_faulty and random.random() < 1 / 30:
            fault = random.choice(_FAULTS)
            self.faults[type(fault).__name__] += 1
            return fault
        body = request.json
        if body.get("tools"):
            used = any(message["role"] == "tool" for message in body["messages"])
            call = (
                ToolCall("2", "finish", json.dumps({"advice": "be kind"}))
                if used
                else ToolCall("1", "look_up", json.dumps({"topic": "kindness"}))
            )
            return Answer("", tool_calls=(call,))
        schema = body["response_format"]["json_schema"]["schema"]
        return Answer(json.dumps(dict.fromkeys(schema["properties"], "text")))


_FAULTS: Final[tuple[Action, ...]] = (
    Fail(429, headers={"retry-after": "1"}),
    Fail(500),
    Fail(503),
    Reset(),
    Hang(),
    Answer('{"reply": "a second late"}', delay=1.0),
    Answer("not JSON at all"),
)


@dataclass
class Tally:
    """What was asked for and what came of it."""

    runs: set[str] = field(default_factory=set[str])
    keys: dict[str, tuple[str, JSON]] = field(
        default_factory=dict[str, tuple[str, JSON]]
    )
    """Of clients that hung up before they knew their run's id."""
    refused: Counter[int] = field(default_factory=Counter[int])
    left_out: int = 0
    broken_streams: int = 0


class Clients:
    """The load: each arrival is a client of its own, in one of several manners."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.tally = Tally()
        self.open = 0
        self._client = client
        self._numbers = itertools.count()

    async def one(self, manner: str) -> None:
        self.open += 1
        try:
            await self._one(manner)
        except httpx.TransportError:
            self.tally.refused[0] += 1
        finally:
            self.open -= 1

    async def _one(self, manner: str) -> None:
        number = next(self._numbers)
        program = PROGRAMS[number % len(PROGRAMS)]
        text = f"ticket {number} of somebody who has lost a parcel"
        body: JSON = {"inputs": {"ticket": text}}
        if program == "mapped":
            body = {"inputs": {"tickets": [f"{text}, {n}" for n in range(4)]}}
        path, key = f"/v1/programs/{program}/runs", f"key-{os.getpid()}-{number}"
        headers = {"idempotency-key": key}
        if manner == "hang up":
            self.tally.keys[key] = program, body
            with trio.move_on_after(random.uniform(0.0, 0.1)):
                await self._client.post(
                    path, json=body, headers=headers, params={"wait": "30"}
                )
            return
        wait = {"wait": "30"} if manner == "wait" else {}
        reply = await self._client.post(path, json=body, headers=headers, params=wait)
        if reply.status_code not in (200, 202):
            self.tally.refused[reply.status_code] += 1
            return
        run: str = reply.json()["run_id"]
        self.tally.runs.add(run)
        if manner == "cancel":
            await self._client.post(f"/v1/runs/{run}/cancel")
        elif manner == "poll":
            await self._client.get(f"/v1/runs/{run}", params={"wait": "30"})
        elif manner == "follow":
            await self._follow(run, last=0, most=1_000)
        elif manner == "return":
            await self._follow(run, last=await self._follow(run, 0, most=2), most=1_000)

    async def _follow(self, run: str, last: int, *, most: int) -> int:
        """Read events, at most so many; give the number of the last."""
        headers = {"last-event-id": str(last)}
        path = f"/v1/runs/{run}/events"
        is_ended = False
        async with self._client.stream("GET", path, headers=headers) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("id: "):
                    last, most = int(line[4:]), most - 1
                elif line.startswith("event: finished"):
                    is_ended = True
                elif not line and most <= 0:
                    return last
        self.tally.broken_streams += not is_ended
        return last

    async def settle(self) -> tuple[int, int, Counter[str]]:
        """Ask for every run; give the lost, the stuck, and the status of all."""
        for key, (program, body) in self.tally.keys.items():
            # The same key gives the same run, or the one that was never accepted.
            path = f"/v1/programs/{program}/runs"
            headers = {"idempotency-key": key}
            reply = await self._client.post(path, json=body, headers=headers)
            if reply.status_code in (200, 202):
                self.tally.runs.add(reply.json()["run_id"])
        lost, statuses = 0, Counter[str]()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + 60.0
            for run in self.tally.runs:
                path = f"/v1/runs/{run}"
                reply = await self._client.get(path, params={"wait": "30"})
                if reply.status_code == 200:
                    statuses[reply.json()["status"]] += 1
                else:
                    lost += 1
        stuck = len(self.tally.runs) - lost - sum(statuses[it] for it in FINAL)
        return lost, stuck, statuses


@dataclass(frozen=True)
class State:
    """What must not grow, while nothing is asked of the worker."""

    resident: float
    descriptors: int
    tasks: int
    threads: int
    below: int


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

    async def capacity(self, seconds: float) -> float:
        """Give the runs a second of callers that wait, undisturbed."""
        done = 0
        end = trio.current_time() + seconds

        async def call() -> None:
            nonlocal done
            while trio.current_time() < end:
                await self.clients.one("wait")
                done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(call)
        return done / seconds

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
        tree = (await self._client.get("/v1/tree")).json()["tree"]
        return [
            (it["name"], it["id"])
            for it in tree
            if it["kind"] == "worker" and it["id"] is not None
        ]

    async def pause(self) -> State:
        """Stop the load and the faults, and look at the worker at rest."""
        self.must_pause, self._model.is_faulty = True, False
        with trio.move_on_after(40):
            while self.clients.open:
                await trio.sleep(0.1)
        # trio's idle threads end after ten seconds, a dspy process takes its time.
        await trio.sleep(12)
        # The first answer lets the client close what it has kept for too long.
        await self._client.get("/healthz")
        await trio.sleep(0.5)
        lines = (await self._client.get("/metrics")).text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line[0] != "#")
        status = Path(f"/proc/{self._pid}/status").read_text()
        state = State(
            resident=resident_bytes(self._pid) / 1e6,
            descriptors=len(os.listdir(f"/proc/{self._pid}/fd")),
            tasks=int(float(values["dspex_tasks"])),
            threads=int(status.partition("Threads:")[2].split()[0]),
            below=len(descendants(self._pid)),
        )
        self.must_pause, self._model.is_faulty = False, True
        return state

    def resident_between(self, begin: float, end: float) -> float:
        """Give the median of the memory between two moments, in MB."""
        return statistics.median(mb for at, mb in self.resident if begin <= at <= end)


@asynccontextmanager
async def open_worker(
    folder: Path, log: Path, url: str
) -> AsyncGenerator[tuple[int, str]]:
    """Give the process id and the address of `dspex worker`; it is ended in order."""
    command = [sys.executable, "-m", "dspex", "worker", "--port", "0"]
    command += ["--app", "benchmarks._soak_app:app", "--store", str(folder / "runs.db")]
    command += ["--lm", "openai:fake", "--base-url", url, "--timeout", "20"]
    command += ["--log-level", "info"]
    environment = os.environ | {
        "OPENAI_API_KEY": "none",
        "DSPEX_RATE_PER_MINUTE": "1e9",
    }
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            command, stdout=sink, stderr=sink, cwd=ROOT, env=environment
        )
    try:
        with trio.fail_after(60):
            while '"worker_ready"' not in (text := log.read_text()):
                assert popen.poll() is None, text
                await trio.sleep(0.1)
        (ready,) = (it for it in text.splitlines() if '"worker_ready"' in it)
        yield popen.pid, json.loads(ready)["url"]
        popen.send_signal(signal.SIGTERM)
        with trio.move_on_after(60):
            while popen.poll() is None:
                await trio.sleep(0.1)
    finally:
        popen.kill()
        popen.wait()


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
        await it.capacity(3.0)
        capacity = await it.capacity(min(15.0, 10 * minutes))
        first = min(60.0, 30 * minutes)
        began = trio.current_time()
        model.is_faulty = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.load, LOAD * capacity, nursery)
            nursery.start_soon(it.watch)
            nursery.start_soon(it.torment)
            nursery.start_soon(_forget, provider)
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
        },
    )
    good &= figure("soak_lost", lost, "runs", reach="<= 0")
    good &= figure("soak_stuck", stuck, "runs", reach="<= 0")
    figure("soak_runs", len(it.clients.tally.runs), "runs", against=dict(statuses))
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
