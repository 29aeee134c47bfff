"""The engine's figures: overhead of a step, long chains, wide maps, resume.

`python -m benchmarks engine [--quick]` prints one JSON line a figure. The resumed run
is one that was killed half-way, in a process of its own. CPU seconds are the least of
interleaved rounds: what else runs on the machine only adds to them. Chains and maps are
counted in CPU seconds for the same reason; nothing in them waits.
"""

import argparse
import gc
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog
import trio

from benchmarks._figure import figure
from benchmarks._resume_worker import ANSWER, Asks
from dspex.modules import Predict
from dspex.providers import Request
from dspex.runtime.engine import Program, Step, StepOptions
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime


def lm() -> ScriptedLM:
    return ScriptedLM(lambda _: ANSWER)


async def direct(times: int) -> float:
    """Give CPU seconds a call of `await predict(...)`."""
    predict = Predict("a -> b", lm=lm())
    await predict(a="warm")
    began = time.process_time()
    for n in range(times):
        await predict(a=str(n))
    return (time.process_time() - began) / times


async def by_engine(times: int) -> float:
    """Give CPU seconds a run of one step."""
    program = Program(
        name="one", steps={"s": Step(module="Predict", signature="a -> b")}
    )
    async with open_runtime(lm()) as rt:
        await rt.run(program, a="warm")
        began = time.process_time()
        for n in range(times):
            await rt.run(program, a=str(n))
        return (time.process_time() - began) / times


async def chain(steps: int) -> float:
    """Give CPU seconds of a run of a chain of steps."""
    program = Program(
        name=f"chain{steps}",
        steps={
            f"s{n}": Step(
                module="Predict",
                signature="a -> b",
                inputs={"a": f"s{n - 1}.b" if n else "inputs.a"},
            )
            for n in range(steps)
        },
        outputs={"b": f"s{steps - 1}.b"},
    )
    async with open_runtime(lm()) as rt:
        await rt.run(program, a="warm")
        gc.collect()
        began = time.process_time()
        run = await rt.run(program, a="x")
        assert run.status == "succeeded"
        return time.process_time() - began


async def wide(items: int) -> float:
    """Give CPU seconds of a run of a map over items."""
    program = Program(
        name="wide",
        steps={
            "s": Step(
                module="Predict",
                signature="a -> b",
                map={"a": "inputs.items"},
                options=StepOptions(concurrency=16),
            )
        },
    )
    async with open_runtime(lm()) as rt:
        await rt.run(program, items=["warm"])
        gc.collect()
        began = time.process_time()
        run = await rt.run(program, items=[str(n) for n in range(items)])
        assert run.status == "succeeded"
        return time.process_time() - began


async def journaled(runs: int, concurrency: int) -> float:
    """Give CPU seconds a run of one step with a store, so many at a time."""
    program = Program(
        name="one", steps={"s": Step(module="Predict", signature="a -> b")}
    )
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = Path(folder, "runs.db")
        async with open_runtime(lm(), store=store) as rt:

            async def call(first: int) -> None:
                for n in range(first, runs, concurrency):
                    await rt.run(program, a=str(n))

            await rt.run(program, a="warm")
            began = time.process_time()
            async with trio.open_nursery() as nursery:
                for first in range(concurrency):
                    nursery.start_soon(call, first)
            return (time.process_time() - began) / runs


def half_way(store: Path, effects: int) -> str:
    """Kill a worker when its run has so many effects on disk; give the run."""
    command = [sys.executable, "-m", "benchmarks._resume_worker", str(store)]
    worker = subprocess.Popen([*command, str(effects)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    run = worker.stdout.readline().decode().strip()
    worker.kill()
    worker.wait()
    return run


async def resume(effects: int) -> tuple[float, float]:
    """Give seconds until a killed run asks for what is new, and calls made again.

    The run makes twice as many calls; the worker was killed half-way.
    """
    Asks.times = 2 * effects
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = Path(folder, "runs.db")
        run = await trio.to_thread.run_sync(half_way, store, effects)
        seconds = 0.0
        began = time.perf_counter()

        def rule(_: Request) -> str:
            nonlocal seconds
            seconds = seconds or time.perf_counter() - began
            return ANSWER

        last = ScriptedLM(rule)
        async with open_runtime(last, store=store, modules={"Asks": Asks}) as rt:
            ended = await rt.result(run)
        assert ended.status == "succeeded"
        (step,) = ended.steps
        assert (step.journaled, step.live) == (effects, effects)
        return seconds, len(last.requests) - effects


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks engine")
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds, a tenth the work"
    )
    options = parser.parse_args(arguments)
    rounds, scale = (3, 10) if options.quick else (5, 1)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    plain: list[float] = []
    engine: list[float] = []
    stored: list[float] = []
    for _ in range(rounds):
        plain.append(trio.run(direct, 1_000 // scale) * 1e3)
        engine.append(trio.run(by_engine, 1_000 // scale) * 1e3)
        stored.append(trio.run(journaled, 1_000 // scale, 50) * 1e3)
    added = min(engine) - min(plain)
    peers = {"direct_call": min(plain)}
    good = figure("step_overhead", added, "ms CPU", reach="<= 0.3", against=peers)
    peers["without_store"] = min(engine)
    figure("run_with_store", min(stored), "ms CPU", against=peers)
    for name, measure in (("chain", chain), ("map", wide)):
        small: list[float] = []
        large: list[float] = []
        for _ in range(rounds):
            small.append(trio.run(measure, 100 // scale))
            large.append(trio.run(measure, 1_000 // scale))
        good &= figure(
            f"{name}_1000",
            min(large),
            "s CPU",
            reach="<= 11 x a_tenth",
            against={"a_tenth": min(small)},
        )
    seconds, again = trio.run(resume, 1_000 // scale)
    good &= figure("resume_1000", seconds, "s", reach="<= 0.5")
    good &= figure("resume_1000_calls_repeated", again, "calls", reach="<= 0")
    return 0 if good else 1
