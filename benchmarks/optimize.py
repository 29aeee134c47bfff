"""BootstrapFewShot and Evaluate against dspy's, in the same run.

`python -m benchmarks optimize [--quick]`: a 200 ms model inside the process, the same
for both: it answers what the question asks for, and every second question wrongly. The
resumed compile is ended half-way, with its store, and done again.
"""

import argparse
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
import trio

from benchmarks._figure import figure
from dspex.modules import ChatAdapter, Module, Predict, Prediction
from dspex.modules.optimizers import (
    BootstrapFewShot,
    Dataset,
    Evaluate,
    Example,
    Report,
    open_work,
)
from dspex.providers import Capabilities, Choice, Message, Request, Response, Usage
from dspex.runtime import open_node
from dspex.runtime.journal import WRITER, Journal, open_store

SECONDS = 0.2
TRAIN, DEMOS, CONCURRENCY = 40, 20, 16


def reply(question: str) -> str:
    number = int(question.split()[-1].rstrip("?"))
    text = f"value {number}" if number % 2 == 0 else "no idea"
    return f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"


def asked(text: str) -> str:
    return text.split("[[ ## question ## ]]\n")[1].split("\n")[0]


class SlowLM:
    """The model for dspex."""

    name = "bench:slow"
    capabilities = Capabilities(json_schema=False)

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.calls = 0

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        self.calls += 1
        await trio.sleep(self.seconds)
        text = reply(asked(Request.of(request).messages[-1].text))
        return Response((Choice(text),), Usage(50, 10), "slow")


def rows(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"What is item {i}?", "answer": f"value {i}"} for i in range(count)
    ]


def program() -> Module:
    return Predict("question -> answer", adapter=ChatAdapter())


def metric(example: Example, prediction: Prediction) -> bool:
    return bool(example.answer == prediction.answer)


def peer_metric(example: Any, prediction: Any, trace: object = None) -> bool:
    return bool(example.answer == prediction.answer)


class Peer:
    """The same in dspy."""

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        import dspy

        self.dspy: Any = dspy  # Any: untyped

        class Slow(dspy.BaseLM):  # type: ignore[misc]
            def forward(
                self, prompt: object = None, messages: Any = None, **more: object
            ) -> Any:
                time.sleep(SECONDS)
                return _completion(reply(asked(messages[-1]["content"])))

        self.lm = Slow(model="slow", cache=False)
        dspy.configure(lm=self.lm, adapter=dspy.ChatAdapter(), track_usage=False)

    def examples(self, count: int) -> list[Any]:
        return [self.dspy.Example(**row).with_inputs("question") for row in rows(count)]

    def compile(self) -> list[dict[str, object]]:
        optimizer = self.dspy.BootstrapFewShot(
            metric=peer_metric,
            max_bootstrapped_demos=DEMOS,
            max_labeled_demos=16,
        )
        student = self.dspy.Predict("question -> answer")
        with contextlib.redirect_stdout(None):  # it tells what it found
            made = optimizer.compile(student, trainset=self.examples(TRAIN))
        return [dict(demo) for demo in made.demos]

    def evaluate(self, count: int) -> float:
        run = self.dspy.Evaluate(
            devset=self.examples(count),
            metric=peer_metric,
            num_threads=200,
            display_progress=False,
        )
        return float(run(self.dspy.Predict("question -> answer")).score)


def _completion(text: str) -> Any:
    message = SimpleNamespace(content=text, tool_calls=None, reasoning_content=None)
    choice = SimpleNamespace(message=message, finish_reason="stop")
    return SimpleNamespace(choices=[choice], usage={}, model="slow")


def timed(work: Any) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def measure_compile(peer: Peer) -> list[bool]:
    data = Dataset.from_rows(rows(TRAIN), inputs=["question"])

    def compile_(lm: SlowLM, concurrency: int, demos: int = DEMOS) -> Any:
        optimizer = BootstrapFewShot(
            metric=metric,
            max_bootstrapped_demos=demos,
            max_labeled_demos=16,
            concurrency=concurrency,
        )
        student = program()

        async def work() -> Any:
            return await optimizer.compile(student, data, lm=lm)

        return trio.run(work)

    ours, _, made = timed(lambda: compile_(SlowLM(), CONCURRENCY))
    # Few demos are found early, so that most of what runs ahead is for nothing.
    ahead, sequential = SlowLM(), SlowLM(0.0)
    compile_(ahead, CONCURRENCY, 4)
    compile_(sequential, 1, 4)
    theirs, _, demos = timed(peer.compile)
    same = [dict(d) for d in made.program.predictors[0].demos] == demos
    return [
        figure(
            f"compile of {TRAIN} examples, 200 ms, concurrency {CONCURRENCY}, "
            f"demos {'the same' if same else 'NOT the same'}: times faster",
            theirs / ours if same else 0.0,
            "x",
            reach=">= 8",
            against={"dspex_seconds": ours, "dspy_seconds": theirs},
        ),
        figure(
            "extra model calls by speculation, 4 demos",
            ahead.calls - sequential.calls,
            "calls",
            reach=f"<= {CONCURRENCY}",
            against={"sequential": sequential.calls},
        ),
    ]


class AskedLM(SlowLM):
    """Knows what it was asked, and counts the calls that it answered."""

    def __init__(self, seconds: float = SECONDS) -> None:
        super().__init__(seconds)
        self.asked: list[str] = []

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        self.asked.append(Request.of(request).fingerprint())
        return await super().complete(request)


class HalfWayError(Exception):
    """The compile is ended here."""


async def compile_in(store: Path, lm: AskedLM, *, end_after: int | None) -> Report:
    """Compile with a store; leave it in the middle, as a death would."""
    taken = 0

    def on_example(_: int, is_demo: bool) -> None:
        nonlocal taken
        taken += is_demo
        if taken == end_after:
            raise HalfWayError

    optimizer = BootstrapFewShot(
        metric=metric,
        max_bootstrapped_demos=DEMOS,
        concurrency=CONCURRENCY,
        on_example=on_example,
    )
    data = Dataset.from_rows(rows(TRAIN), inputs=["question"])
    async with open_store(store) as opened, open_node() as node:
        journal = Journal(opened)
        await node.start(journal.writer(), name=WRITER)
        async with open_work(journal, name="bench", what={"train": TRAIN}) as work:
            made = await optimizer.compile(program(), data, lm=lm, journal=work)
            await work.finish({})
    return made.report


def kept_calls(store: Path) -> set[str]:
    async def read() -> set[str]:
        async with open_store(store) as opened, open_node():
            journal = Journal(opened)
            (run,) = await journal.runs()
            effects = await journal.effects(run.id)
        return {effect.fingerprint.split()[-1] for effect in effects}

    return trio.run(read)


def measure_resume() -> list[bool]:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs.db"
        first, second, third = AskedLM(0.02), AskedLM(0.02), AskedLM(0.02)
        with contextlib.suppress(HalfWayError):
            trio.run(partial(compile_in, store, first, end_after=DEMOS // 2))
        finished = kept_calls(store)
        report = trio.run(partial(compile_in, store, second, end_after=None))
        again = trio.run(partial(compile_in, store, third, end_after=None))
    repeated = finished & set(second.asked)
    is_whole = report.bootstrapped == DEMOS and 0 < len(finished) < TRAIN
    return [
        figure(
            "resume of a half-done compile: finished calls repeated",
            len(repeated) if is_whole else TRAIN,
            "calls",
            reach="<= 0",
            against={"finished before": len(finished), "asked after": second.calls},
        ),
        figure(
            "a finished compile done again: calls",
            third.calls if again.bootstrapped == DEMOS else TRAIN,
            "calls",
            reach="<= 0",
            against={"answered from the store": again.replayed},
        ),
    ]


def measure_evaluate(peer: Peer, count: int) -> list[bool]:
    data = Dataset.from_rows(rows(count), inputs=["question"])
    evaluate = Evaluate(data, metric=metric, concurrency=200)

    async def work() -> float:
        return (await evaluate(program(), lm=SlowLM())).score

    ours, cpu, score = timed(lambda: trio.run(work))
    theirs, peer_cpu, peer_score = timed(lambda: peer.evaluate(count))
    assert score == peer_score == 50
    ideal = count / 200 * SECONDS
    return [
        figure(
            f"Evaluate of {count} examples, 200 ms, concurrency 200: share of ideal",
            ideal / ours,
            "of ideal",
            reach=">= 0.8",
            against={"seconds": ours, "ideal": ideal, "dspy": theirs},
        ),
        figure(
            "CPU an item of Evaluate: times less than dspy with 200 threads",
            peer_cpu / cpu,
            "x",
            reach=">= 4",
            against={"dspex_ms": 1e3 * cpu / count, "dspy_ms": 1e3 * peer_cpu / count},
        ),
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks optimize")
    parser.add_argument("--quick", action="store_true", help="fewer examples")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    # dspy's bars of progress, and a line for each error.
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.INFO)
    peer = Peer()
    held = measure_compile(peer)
    held += measure_evaluate(peer, 400 if options.quick else 1000)
    held += measure_resume()
    return 0 if all(held) else 1
