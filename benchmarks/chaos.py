"""Workers are killed at random moments: is any run lost, any finished call repeated?

`python -m benchmarks chaos [--kills 50] [--runs 200] [--workers 1] [--postgres]
[--stop SECONDS]` serves a fake provider that counts the answers it gave in full by
fingerprint, starts workers on one store, kills one of them at random moments and starts
another. The program has native steps, a ReAct agent, a map and a step of the real dspy.
`--inside` leaves the worker alive and kills what it is made of; with `--embedded` it
runs a smaller program on the embedded model, which is killed too.

It prints its figures; status 1 unless every run succeeded and no finished call was made
again. A call is finished when its answer is in the journal; one that was answered and
is not there was in flight when its worker died or lost its lease: only that one may be
made again.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import trio

from benchmarks._chaos_inside import torment_inside
from benchmarks._figure import figure
from dspex.providers import ToolCall
from dspex.runtime.journal.store import Store
from dspex.testing import Action, Answer, ProviderRequest, open_fake_provider
from dspex.testing.chaos_report import find_repeated
from dspex.testing.fake_actions import Exchange

ROOT = Path(__file__).parents[1]


@dataclass
class Provider:
    """Answers by what is asked, and counts the answers that were sent in full."""

    slowest: float
    answered: int = 0
    began: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def choose(self, request: ProviderRequest) -> Action:
        key = fingerprint(request.json["messages"])
        self.began.append({"fingerprint": key, "began": time.time()})
        return Counted(self, _answer(request.json, self.slowest))


@dataclass(frozen=True)
class Counted:
    """An answer that is counted when it has been sent."""

    provider: Provider
    answer: Answer

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        keep = await self.answer.run(request, exchange)
        self.provider.answered += 1
        return keep


def _answer(body: dict[str, Any], slowest: float) -> Answer:  # Any: JSON
    delay = random.uniform(0.01, slowest)
    if body.get("tools"):
        used = any(message["role"] == "tool" for message in body["messages"])
        call = (
            ToolCall("2", "finish", json.dumps({"advice": "be kind"}))
            if used
            else ToolCall("1", "look_up", json.dumps({"topic": "kindness"}))
        )
        return Answer("", tool_calls=(call,), delay=delay)
    schema = body["response_format"]["json_schema"]["schema"]
    return Answer(json.dumps(dict.fromkeys(schema["properties"], "text")), delay=delay)


def fingerprint(messages: list[dict[str, Any]]) -> str:  # Any: JSON
    """Give a request's fingerprint: the same from the wire and from the store."""
    text = json.dumps([(it["role"], it.get("content") or "") for it in messages])
    return hashlib.sha256(text.encode()).hexdigest()


def journaled(store: Store) -> dict[str, float]:
    """Give when each model call was finished whose answer is on disk."""
    from sqlalchemy import text

    query = text("SELECT request, finished_at FROM effect WHERE kind = 'model'")
    rows = store.read(lambda connection: list(connection.execute(query)))
    return {
        fingerprint(json.loads(row.request)["messages"]): row.finished_at
        for row in rows
    }


def states(store: Store) -> Counter[str]:
    """Give how many runs there are in each state."""
    from sqlalchemy import text

    query = text("SELECT state, count(*) AS runs FROM run GROUP BY state")
    rows = store.read(lambda connection: list(connection.execute(query)))
    return Counter({row.state: row.runs for row in rows})


class Chaos:
    """Workers on one store, of which one at a time is killed."""

    def __init__(self, options: argparse.Namespace, url: str) -> None:
        self.options = options
        self.store = Store(options.store)
        self.store.open()
        self._url = url
        self.workers = [self._start() for _ in range(options.workers)]

    def _start(self) -> "subprocess.Popen[bytes]":
        options = self.options
        command = [sys.executable, "-m", "benchmarks._chaos_worker"]
        command += ["--store", options.store, "--url", self._url]
        command += ["--runs", str(options.runs), "--lease", str(options.lease)]
        command += ["--concurrency", str(options.concurrency)]
        if options.python:
            command.append("--python")
        return subprocess.Popen(command, cwd=ROOT)

    async def harm(self, index: int) -> None:
        """Kill a worker and start another, or stop it for a while."""
        worker = self.workers[index]
        if self.options.stop:
            worker.send_signal(signal.SIGSTOP)
            await trio.sleep(self.options.stop)
            worker.send_signal(signal.SIGCONT)
            return
        worker.send_signal(signal.SIGKILL)
        await trio.to_thread.run_sync(worker.wait)
        self.workers[index] = self._start()

    def revive(self) -> None:
        """Start again who has ended by itself although there is work."""
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[index] = self._start()

    def end(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.store.close()


async def torment(options: argparse.Namespace) -> dict[str, Any]:  # Any: JSON
    """Run, kill, and give the figures."""
    provider = Provider(options.delay)
    kills = kept = 0
    began = time.monotonic()
    async with open_fake_provider(provider.choose) as server:
        chaos = Chaos(options, server.url)
        try:
            with trio.move_on_after(options.timeout):
                while states(chaos.store)["succeeded"] < options.runs:
                    await trio.sleep(random.uniform(*options.every))
                    # A worker that has done nothing since the last kill has not begun.
                    if kills < options.kills and len(journaled(chaos.store)) > kept:
                        await chaos.harm(kills % options.workers)
                        kills += 1
                        kept = len(journaled(chaos.store))
                    chaos.revive()
                    if sum(states(chaos.store)[it] for it in ("failed", "cancelled")):
                        break
            found = states(chaos.store)
            finished = journaled(chaos.store)
        finally:
            chaos.end()
    assert finished.keys() <= {it["fingerprint"] for it in provider.began}
    repeated = find_repeated(provider.began, finished)
    return {
        "figure": "chaos",
        "store": "postgres" if "://" in options.store else "sqlite",
        "runs": options.runs,
        "succeeded": found["succeeded"],
        "lost": options.runs - sum(found.values()),
        "failed": found["failed"],
        "kills": kills,
        "workers": options.workers,
        "calls": len(finished),
        "answers_given": provider.answered,
        "in_flight_at_kills": provider.answered - len(finished) - len(repeated),
        "finished_calls_repeated": len(repeated),
        "seconds": round(time.monotonic() - began, 1),
    }


def _report(figures: dict[str, Any], options: argparse.Namespace) -> bool:
    """Print the figures; whether they are what is promised."""  # Any: JSON
    print(json.dumps(figures), flush=True)
    name = figures["figure"]
    good = figure(
        f"{name}_succeeded",
        figures["succeeded"],
        "runs",
        reach=f">= {options.runs}",
    )
    good &= figure(
        f"{name}_kills", figures["kills"], "kills", reach=f">= {options.kills}"
    )
    good &= figure(f"{name}_lost", figures["lost"], "runs", reach="<= 0")
    return good & figure(
        f"{name}_finished_calls_repeated",
        figures["finished_calls_repeated"],
        "calls",
        reach="<= 0",
        against={"calls": figures["calls"]},
    )


def main(arguments: list[str]) -> int:
    """Torment a store and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks chaos")
    parser.add_argument("--quick", action="store_true", help="3 kills, 24 runs")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--stop", type=float, default=0.0, help="SIGSTOP, seconds")
    parser.add_argument("--every", type=float, nargs=2, default=(0.5, 4.0))
    parser.add_argument("--delay", type=float, default=2.0, help="slowest answer")
    parser.add_argument("--timeout", type=float, default=1_800.0)
    parser.add_argument("--inside", action="store_true", help="kill parts, not workers")
    parser.add_argument("--embedded", action="store_true", help="with --inside")
    parser.add_argument(
        "--no-python", dest="python", action="store_false", help="without a dspy step"
    )
    parser.add_argument(
        "--postgres", action="store_true", help="on a server of its own"
    )
    parser.add_argument("--store", default="", help="a URL; else a file of its own")
    options = parser.parse_args(arguments)
    options.kills = options.kills or (3 if options.quick else 50)
    options.runs = options.runs or (24 if options.quick else 200)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if options.postgres:
            from tests.integration.postgres_server import postgres_server

            options.store = stack.enter_context(postgres_server())
        options.store = options.store or os.path.join(folder, "chaos.db")
        if options.inside:
            structlog.configure(
                wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
            )
            provider = Provider(options.delay)
            figures = trio.run(torment_inside, options, provider.choose)
        else:
            figures = trio.run(torment, options)
        return 0 if _report(figures, options) else 1
