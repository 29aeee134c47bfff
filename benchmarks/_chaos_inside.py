"""Chaos inside a living worker: what it is made of is killed, not the worker.

Its writer, the actor of its runs, a module's actor, the dspy processes and, where it is
used, the embedded model are killed in turns while runs are under way.
"""

import argparse
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import trio

from benchmarks._chaos_program import MODULES, mixed, small
from dspex.modules.hosted import BRIDGE_NAME
from dspex.providers import LM, Message, OpenAI, Request, Response
from dspex.providers.embedded import Embedded
from dspex.providers.embedded_server import EmbeddedServer
from dspex.providers.lm import Capabilities
from dspex.runtime import ActorRef
from dspex.runtime.bridge import DspyPool
from dspex.runtime.journal import WRITER
from dspex.runtime.registry import Registry
from dspex.supervisors import ChildSpec, Supervisor
from dspex.testing import Action, ProviderRequest, open_fake_provider
from dspex.testing.chaos_report import find_repeated
from dspex.worker.app import Runtime
from dspex.worker.durable import RUNS
from dspex.worker.open_runtime import EMBEDDED, open_runtime


async def _kill_actor(registry: Registry, name: str) -> bool:
    ref = registry.whereis(name)
    if ref is None:
        return False
    ref.exit("kill")
    return True


async def _kill_dspy(registry: Registry) -> bool:
    ref: ActorRef[DspyPool] | None = registry.whereis(BRIDGE_NAME)
    if ref is None:
        return False
    for pid in await ref.call(DspyPool.pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


async def _kill_model(registry: Registry) -> bool:
    ref: ActorRef[EmbeddedServer] | None = registry.whereis(EMBEDDED)
    if ref is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(await ref.call(EmbeddedServer.pid), signal.SIGKILL)
    return True


async def _harm(rt: Runtime, number: int, steps: Sequence[str]) -> str:
    """Kill the next of the parts; give which one it was."""
    registry = rt.node.registry
    victims = ["writer", "actor", "dspy", "runs", "model"]
    victim = victims[number % len(victims)]
    done = False
    with suppress(Exception):
        # What is just being started again cannot be asked for its pid.
        if victim == "writer":
            done = await _kill_actor(registry, WRITER)
        elif victim == "runs":
            done = await _kill_actor(registry, RUNS)
        elif victim == "dspy":
            done = await _kill_dspy(registry)
        elif victim == "model":
            done = await _kill_model(registry)
        else:
            done = await _kill_actor(registry, random.choice(steps))
    return victim if done else ""


class CountingLM:
    """Notes when each call began, and counts the answers."""

    def __init__(self, inner: LM | None = None) -> None:
        self.inner = inner
        self.answers = 0
        self.began: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        return "counted"

    @property
    def capabilities(self) -> Capabilities:
        assert self.inner is not None
        return self.inner.capabilities

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        assert self.inner is not None
        request = Request.of(request)
        # As the journal has it.
        key = f"{self.name}:{request.fingerprint()}"
        self.began.append({"fingerprint": key, "began": time.time()})
        response = await self.inner.complete(request, timeout=timeout)
        self.answers += 1
        return response


async def torment_inside(
    options: argparse.Namespace, choose: Callable[[ProviderRequest], Action]
) -> dict[str, Any]:  # Any: JSON
    """Run, kill parts of the worker, and give the figures."""
    lm = CountingLM()
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        if not options.embedded:
            server = await stack.enter_async_context(open_fake_provider(choose))
            lm.inner = await stack.enter_async_context(
                OpenAI("fake", base_url=server.url, api_key="none", timeout=30)
            )
        rt = await stack.enter_async_context(
            open_runtime(
                lm,
                modules=MODULES,
                store=options.store,
                max_running=options.concurrency,
                lease_seconds=options.lease,
            )
        )
        if options.embedded:
            model = ChildSpec(EMBEDDED, EmbeddedServer, name=EMBEDDED)
            tree = Supervisor([model], intensity=20, period=10.0)
            await rt.node.start(tree, name="model of chaos")
            lm.inner = Embedded(rt.node.registry, server=EMBEDDED)
        return await _torment(rt, lm, options, began)


async def _torment(
    rt: Runtime, lm: CountingLM, options: argparse.Namespace, began: float
) -> dict[str, Any]:  # Any: JSON
    program = small() if options.embedded else mixed(python=options.python)
    plan = await rt.load(program)
    steps = [
        f"{plan.actors}/{name}"
        for name, step in program.steps.items()
        if step.backend == "native"
    ]
    runs: list[str] = []
    for number in range(options.runs):
        ticket = {"ticket": f"ticket {number}"}
        runs.append(await rt.submit(program, ticket, key=f"run {number}"))
    killed: Counter[str] = Counter()
    states: Counter[str] = Counter()

    async def kill() -> None:
        turn = 0
        while killed.total() < options.kills:
            await trio.sleep(random.uniform(*options.every))
            victim = await _harm(rt, turn, steps)
            turn += 1
            if victim:
                killed[victim] += 1

    with trio.move_on_after(options.timeout):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            for run in runs:
                states[(await rt.result(run)).status] += 1
            nursery.cancel_scope.cancel()
    finished: dict[str, float] = {}
    for run in runs:
        for it in await rt.journal.effects(run):
            if it.kind == "model":
                finished[it.fingerprint] = it.finished_at
    assert finished.keys() <= {it["fingerprint"] for it in lm.began}
    repeated = find_repeated(lm.began, finished)
    return {
        "figure": "chaos_inside",
        "model": "embedded" if options.embedded else "fake provider",
        "runs": options.runs,
        "succeeded": states["succeeded"],
        "lost": options.runs - states.total(),
        "failed": states["failed"],
        "kills": killed.total(),
        "killed": dict(killed),
        "calls": len(finished),
        "answers_given": lm.answers,
        "in_flight_at_kills": lm.answers - len(finished) - len(repeated),
        "finished_calls_repeated": len(repeated),
        "seconds": round(time.monotonic() - began, 1),
    }
