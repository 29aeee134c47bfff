"""Chaos: a running worker under load and a fault plan, and whether it holds.

The worker is a process of its own on a store of its own; when it dies, it is started
again. Faults of its actors, model calls, store and clock are carried out inside of it,
each time from its start on; those of processes by time from here, by real signals: the
worker itself, whose command line has "chaos_worker", and what is below it.
"""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import httpx
import trio

from dspex.runtime.errors import DspexError
from dspex.testing.chaos_load import Load, open_client
from dspex.testing.chaos_report import (
    ChaosReport,
    find_repeated,
    read_finished,
    read_lines,
)
from dspex.testing.chaos_worker import ChaosOrders, is_for_the_worker
from dspex.testing.fault_plan import FaultPlan
from dspex.testing.fault_schedule import FaultTally, Schedule
from dspex.testing.process_faults import ProcessFaults, descendants

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
_TAIL: Final = 2_000


class ChaosError(DspexError):
    """The worker could not be tormented at all: it does not even start."""


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What to torment, how and for how long; `settings` are the worker's flags."""

    settings: dict[str, Any]  # Any: as WorkerSettings declares
    plan: FaultPlan
    seconds: float
    settle_seconds: float
    clients: int
    rows: Sequence[dict[str, Any]]  # Any: JSON
    token: str | None
    folder: Path


async def torment(options: ChaosOptions) -> ChaosReport:
    """Torment a worker, let it finish what it accepted, and report.

    Raises:
        ChaosError: the worker cannot be started.
    """
    port = _free_port()
    chaos = _Chaos(options, port)
    async with open_client(f"http://127.0.0.1:{port}", options.token) as client:
        load = Load(client, options.rows)
        began = trio.current_time()
        report = ChaosReport(
            str(options.settings["app"]), str(options.plan), options.seconds, load.tally
        )
        # A worker may die before it has told what became of its own.
        report.tallies = {it: FaultTally(it) for it in options.plan.faults}
        async with chaos.worker(client, report, options.plan):
            await load.prepare()
            async with trio.open_nursery() as nursery:
                for _ in range(options.clients):
                    nursery.start_soon(load.run)
                nursery.start_soon(chaos.hit_processes, report)
                await trio.sleep(options.seconds)
                load.is_over = True
                nursery.cancel_scope.cancel()
        report.seconds = trio.current_time() - began
        # Undisturbed, whoever comes next finishes what was accepted.
        async with chaos.worker(client, report, FaultPlan()):
            with trio.move_on_after(options.settle_seconds):
                await load.settle()
            report.last_status = await chaos.stop()
        chaos.read(report)
    return report


class _Chaos:
    def __init__(self, options: ChaosOptions, port: int) -> None:
        self._options = options
        self._port = port
        self._popen: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        self._known = {it.pid for it in descendants()}
        self._log = options.folder / "worker.log"

    @asynccontextmanager
    async def worker(
        self, client: httpx.AsyncClient, report: ChaosReport, plan: FaultPlan
    ) -> AsyncGenerator[None]:
        """Keep a worker running for the length of the block; kill it after that."""
        self._is_ending = False
        failure: ChaosError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_running, report, plan)
            try:
                await self._wait_ready(client)
                yield
            except ChaosError as error:
                failure = error  # without the nursery's group
            finally:
                self._is_ending = True
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _keep_running(self, report: ChaosReport, plan: FaultPlan) -> None:
        popen = self._popen = self._start(plan)
        report.worker_starts += 1
        try:
            while True:
                await trio.sleep(_LOOK_SECONDS)
                status = popen.poll()
                if status is None or self._is_ending:
                    continue
                report.worker_exits[status] += 1
                popen = self._popen = self._start(plan)
                report.worker_starts += 1
        finally:
            popen.kill()
            popen.wait()

    def _start(self, plan: FaultPlan) -> "subprocess.Popen[bytes]":
        folder = self._options.folder
        orders = ChaosOrders(
            settings=self._options.settings | {"host": "127.0.0.1", "port": self._port},
            plan=plan.to_yaml(),
            calls=folder / "calls.jsonl",
            injected=folder / "injected.jsonl",
            tallies=folder / "tallies.jsonl",
        )
        path = folder / "orders.json"
        path.write_text(orders.model_dump_json(), encoding="utf-8")
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dspex.testing.chaos_worker", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _wait_ready(self, client: httpx.AsyncClient) -> None:
        with trio.move_on_after(_START_SECONDS):
            while True:
                try:
                    if (await client.get("/healthz")).status_code == 200:
                        return
                except httpx.TransportError:
                    await trio.sleep(_LOOK_SECONDS)
                tail = self._tail()
                if "dspex: " in tail.rpartition("\n")[2] or "\ndspex: " in tail:
                    raise ChaosError(f"the worker does not start: {tail}")
        raise ChaosError(f"the worker was not up after a minute: {self._tail()}")

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-_TAIL:].strip()

    async def stop(self) -> int:
        """Tell the worker to end, as an operator does; give its exit status."""
        self._is_ending = True
        assert self._popen is not None
        self._popen.send_signal(signal.SIGTERM)
        with trio.move_on_after(_STOP_SECONDS):
            # Its end is polled for: whatever else holds its pipes says nothing.
            while self._popen.poll() is None:  # noqa: ASYNC110
                await trio.sleep(_LOOK_SECONDS)
        status = self._popen.poll()
        return -signal.SIGKILL if status is None else status

    async def hit_processes(self, report: ChaosReport) -> None:
        """Carry out the faults of processes that come by time."""
        schedule = Schedule(self._options.plan)
        async with trio.open_nursery() as nursery:

            def later(seconds: float, action: Any) -> None:  # Any: gives nothing
                async def wait() -> None:
                    await trio.sleep(seconds)
                    action()

                nursery.start_soon(wait)

            processes = ProcessFaults(later, root=None)
            try:
                for index, fault in enumerate(self._options.plan.faults):
                    if not is_for_the_worker(fault):
                        hit = partial(
                            processes.hit_by_time,
                            fault,
                            index=index,
                            seed=self._options.plan.seed,
                            schedule=schedule,
                        )
                        nursery.start_soon(hit)
                await trio.sleep_forever()
            finally:
                processes.close()
                for it in schedule.injected:
                    report.injected[f"{it.kind} {it.on}"] += 1
                for fault, tally in schedule.tallies.items():
                    if not is_for_the_worker(fault):
                        report.tallies[fault] = tally

    def read(self, report: ChaosReport) -> None:
        """Read what the workers have left behind."""
        folder, plan = self._options.folder, self._options.plan
        calls = read_lines(folder / "calls.jsonl")
        report.calls_answered = len(calls)
        for it in read_lines(folder / "injected.jsonl"):
            report.injected[f"{it['kind']} {it['on']}"] += 1
        for line in read_lines(folder / "tallies.jsonl"):
            for place, data in line.items():
                report.take_tally(plan.faults[int(place)], data)
        if any(it.on == "clock" for it in plan.faults):
            report.not_checked.append("repeated model calls: the plan bends the clock")
        else:
            finished = read_finished(self._options.settings["store"])
            report.repeated = find_repeated(calls, finished)
            if finished and not calls:
                report.not_checked.append(
                    "repeated model calls: the embedded model's are not counted"
                )
        report.orphans = [
            f"{it.pid} {it.command[:100]}" for it in descendants(without=self._known)
        ]


def _free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        port: int = it.getsockname()[1]
        return port


def read_rows(path: Path) -> list[dict[str, Any]]:  # Any: JSON
    """Read the inputs of runs: JSON lines {"program": NAME, "inputs": {...}}.

    Raises:
        ChaosError: a line is something else.
    """
    rows: list[dict[str, Any]] = []  # Any: JSON
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ChaosError(f"{path}: cannot read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row: object = json.loads(line)
        except ValueError as error:
            raise ChaosError(f"{path}, line {number} is not JSON: {error}") from error
        found = (
            cast("dict[str, Any]", row) if isinstance(row, dict) else {}
        )  # Any: JSON
        if not isinstance(found.get("inputs"), dict):
            raise ChaosError(
                f'{path}, line {number} is not {{"program": NAME, "inputs": {{...}}}}'
            )
        rows.append(found)
    return rows
