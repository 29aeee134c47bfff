"""The engine's figures: overhead of a step, long chains, wide maps, resume.

`python -m benchmarks engine [--quick]` prints one JSON line a figure.
"""

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
import trio

from dspex.modules import Module, Predict
from dspex.runtime.engine import Program, Step, StepOptions
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime

ANSWER = '{"b": "answer"}'


class Asks(Module):
    """A program as code that asks one question after another."""

    times = 1_000

    def __init__(self) -> None:
        self.ask = Predict("a -> b")

    async def forward(self, a: str) -> dict[str, object]:
        for n in range(self.times):
            await self.ask(a=f"{a} {n}")
        return {"b": "done"}


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
    """Give seconds a run of a chain of steps."""
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
        began = time.perf_counter()
        run = await rt.run(program, a="x")
        assert run.status == "succeeded"
        return time.perf_counter() - began


async def wide(items: int) -> float:
    """Give seconds a run of a map over items."""
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
        began = time.perf_counter()
        run = await rt.run(program, items=[str(n) for n in range(items)])
        assert run.status == "succeeded"
        return time.perf_counter() - began


async def resume(effects: int) -> tuple[float, int]:
    """Give seconds from opening a store to the end of a run, and model calls made."""
    Asks.times = effects + 1
    program = Program(name="asks", steps={"s": Step(module="Asks", signature="a -> b")})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "runs.db")

        def stuck(request: Any) -> str:  # Any: a Request
            return ANSWER

        first = ScriptedLM(stuck)
        async with open_runtime(first, store=store, modules={"Asks": Asks}) as rt:
            run = await rt.submit(program, {"a": "x"})
            while len(first.requests) < effects:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.001)
            kept = len(await rt.journal.effects(run))
        last = lm()
        began = time.perf_counter()
        async with open_runtime(last, store=store, modules={"Asks": Asks}) as rt:
            ended = await rt.result(run)
            seconds = time.perf_counter() - began
        assert ended.status == "succeeded"
        return seconds, max(0, len(last.requests) - (effects + 1 - kept))


def _print(
    figure: str, value: float, unit: str, target: str, good: bool, **more: Any
) -> bool:  # Any: JSON
    line = {"figure": figure, "value": round(value, 4), "unit": unit, "target": target}
    print(json.dumps({**line, "holds": good, **more}), flush=True)
    return good


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks engine")
    parser.add_argument(
        "--quick", action="store_true", help="1 round, a tenth the work"
    )
    options = parser.parse_args(arguments)
    rounds, scale = (1, 10) if options.quick else (5, 1)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    plain: list[float] = []
    engine: list[float] = []
    for _ in range(rounds):
        plain.append(trio.run(direct, 1_000 // scale))
        engine.append(trio.run(by_engine, 1_000 // scale))
    added = (statistics.median(engine) - statistics.median(plain)) * 1e3
    peer = round(statistics.median(plain) * 1e3, 3)
    good = _print(
        "step_overhead", added, "ms CPU", "<= 0.3 ms", added <= 0.3, peer=peer
    )
    for name, measure in (("chain", chain), ("map", wide)):
        small = statistics.median(
            trio.run(measure, 100 // scale) for _ in range(rounds)
        )
        large = statistics.median(
            trio.run(measure, 1_000 // scale) for _ in range(rounds)
        )
        ratio = large / small
        good &= _print(
            f"{name}_1000",
            large,
            "s",
            "10 x the steps <= 11 x the time",
            ratio <= 11,
            ratio=round(ratio, 2),
        )
    seconds, calls = trio.run(resume, 1_000 // scale)
    good &= _print(
        "resume_1000",
        seconds,
        "s",
        "<= 0.5 s, 0 finished calls",
        seconds <= 0.5 and not calls,
        finished_calls_repeated=calls,
    )
    return 0 if good else 1
