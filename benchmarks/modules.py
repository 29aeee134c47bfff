"""What a signature costs, against dspy's adapter in the same run.

`python -m benchmarks modules [--quick]`: one JSON line for each figure. dspy and dspex
take turns in processes of their own; the model server is a process too.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import trio

from benchmarks._figure import figure
from benchmarks.providers import child, read_line, server
from dspex.modules import (
    Adapter,
    ChatAdapter,
    JSONAdapter,
    ModuleActor,
    Predict,
    Signature,
    split_steps,
)
from dspex.modules.react import ActionParser
from dspex.providers import Choice, OpenAI, Request, Response, Usage
from dspex.providers.lm import Capabilities
from dspex.runtime import open_node

TEXT = "context, question -> answer: float"
INPUTS = {"context": "Some context. " * 20, "question": "What is it?"}
DEMOS: list[Mapping[str, object]] = [
    {"context": f"Context {n}. " * 20, "question": f"Question {n}?", "answer": n / 2}
    for n in range(8)
]
COMPLETION = "[[ ## answer ## ]]\n3.5\n\n[[ ## completed ## ]]"


def cpu_per_call(work: Callable[[], object], calls: int) -> float:
    for _ in range(calls // 10 + 1):
        work()
    started = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - started) / calls


def dspex_round(calls: int) -> float:
    adapter, signature = ChatAdapter(), Signature(TEXT)
    capabilities = Capabilities(json_schema=False)

    def work() -> None:
        adapter.format(signature, demos=DEMOS, inputs=INPUTS, capabilities=capabilities)
        adapter.parse(signature, Choice(COMPLETION))

    return cpu_per_call(work, calls)


def dspy_round(calls: int) -> float:
    import dspy  # only this child process has it

    module: Any = dspy  # Any: untyped
    adapter, signature = module.ChatAdapter(), module.Signature(TEXT)

    def work() -> None:
        adapter.format(signature, demos=DEMOS, inputs=INPUTS)
        adapter.parse(signature, COMPLETION)

    return cpu_per_call(work, calls)


def adapter_cost(rounds: int, calls: int) -> bool:
    seconds: dict[str, list[float]] = {"dspex": [], "dspy": []}
    with (
        child("benchmarks.modules", "dspex", str(calls)) as ours,
        child("benchmarks.modules", "dspy", str(calls)) as theirs,
    ):
        for _ in range(rounds):
            for name, process in (("dspex", ours), ("dspy", theirs)):
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                seconds[name].append(float(read_line(process)))
    dspex, dspy = median(seconds["dspex"]), median(seconds["dspy"])
    return figure(
        "format and parse, 3 fields, 8 demos",
        dspex * 1e6,
        "us CPU",
        reach="<= 0.5 x dspy",
        against={"dspy": dspy * 1e6},
    )


class Instant:
    """A model that is there at once: what is left is the predictor's own cost."""

    name = "instant"
    capabilities = Capabilities(json_schema=False, tools=False)

    async def complete(
        self, request: object, *, timeout: float | None = None
    ) -> Response:
        return Response((Choice("[[ ## answer ## ]]\nx"),), Usage(10, 5), "instant")


async def predict_cost(calls: int) -> float:
    """Give the CPU seconds that a Predict adds to its model's call."""
    lm = Instant()
    predict = Predict("question -> answer", lm=lm, adapter="chat")
    request = Request.of("?")
    seconds: dict[str, float] = {}
    for name in ("warm-up", "bare", "predict"):
        started = time.process_time()
        for _ in range(calls):
            if name == "bare":
                await lm.complete(request)
            else:
                await predict(question="?")
        seconds[name] = time.process_time() - started
    return (seconds["predict"] - seconds["bare"]) / calls


async def concurrent_forwards(url: str, count: int, rounds: int) -> tuple[float, float]:
    """Give the seconds of `count` forwards, and of as many bare model calls."""
    async with OpenAI("model", base_url=url, api_key="k", timeout=60) as lm:
        adapter = ChatAdapter()
        predict = Predict("question -> answer", adapter=adapter, repairs=0)
        request = adapter.format(
            predict.signature,
            demos=[],
            inputs={"question": "?"},
            capabilities=lm.capabilities,
        )

        async def bare() -> None:
            await lm.complete(request)

        async with open_node() as node:
            actor = ModuleActor(predict, lm, max_concurrency=count)
            ref = await node.start(actor)

            async def forward() -> None:
                inputs = {"question": "?"}
                await ref.call(ModuleActor.forward, inputs, timeout=60)

            times: dict[str, list[float]] = {"bare": [], "forward": []}
            for _ in range(rounds + 1):
                for name, work in (("bare", bare), ("forward", forward)):
                    started = trio.current_time()
                    async with trio.open_nursery() as nursery:
                        for _ in range(count):
                            nursery.start_soon(work)
                    times[name].append(trio.current_time() - started)
    # The first round opens the connections.
    return median(times["forward"][1:]), median(times["bare"][1:])


def concurrency(rounds: int) -> bool:
    # As a long-running process should; it is for calls and forwards alike.
    gc.collect()
    gc.freeze()
    with server(0.2) as url:
        forward, bare = trio.run(concurrent_forwards, url, 1_000, rounds)
    return figure(
        "1,000 concurrent forwards on one actor, 200 ms server",
        1_000 / forward,
        "1/s",
        reach=">= 0.8 x limit",
        against={"limit": 1_000 / max(0.2, bare), "ideal": 5_000},
    )


def linear(name: str, work: Callable[[int], object]) -> bool:
    def seconds(size: int) -> float:
        times: list[float] = []
        for _ in range(3):
            started = time.process_time()
            work(size)
            times.append(time.process_time() - started)
        return max(min(times), 1e-6)

    work(1_000)
    small, large = seconds(10_000), seconds(100_000)
    return figure(
        f"parse of 100 kB, {name}",
        large * 1e3,
        "ms CPU",
        reach="<= 12 x tenth",
        against={"tenth": small * 1e3},
    )


def parsers() -> bool:
    two = Signature("q -> reasoning, answer")

    def read(adapter: Adapter, text: str) -> None:
        adapter.parse(two, Choice(text))

    def chat(size: int) -> None:
        body = "a line of text\n" * (size // 15)
        read(ChatAdapter(), f"[[ ## reasoning ## ]]\n{body}\n[[ ## answer ## ]]\nx")

    def loose(size: int) -> None:
        body = "a line [[ of ]] text\n" * (size // 21)
        read(ChatAdapter(), f"**[[ ## reasoning ## ]]** {body} [[ ## answer ## ]] x")

    def whole_json(size: int) -> None:
        body = "a line of text\n" * (size // 15)
        read(JSONAdapter(), json.dumps({"reasoning": body, "answer": "x"}))

    def broken_json(size: int) -> None:
        body = "a line of text " * (size // 15)
        read(JSONAdapter(), f"{{'reasoning': '{body}', 'answer': 'x'")

    def quoted_json(size: int) -> None:
        # No run of plain words in it is long enough to be left out of the repair.
        body = 'a "quoted" word, ' * (size // 17)
        read(JSONAdapter(), f'{{"reasoning": "{body}", "answer": "x"}}')

    def action(size: int) -> None:
        ActionParser().parse(
            f"Thought: t\nAction[s](text={json.dumps('x ' * (size // 2))})"
        )

    def steps(size: int) -> None:
        split_steps("".join(f"{n}. a step\n" for n in range(size // 11)))

    return all(
        [
            linear("chat", chat),
            linear("chat, loose markers", loose),
            linear("JSON", whole_json),
            linear("JSON to repair", broken_json),
            linear("JSON to repair, quotes and commas", quoted_json),
            linear("action", action),
            linear("reasoning steps", steps),
        ]
    )


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("dspex", "dspy"):
        work = dspex_round if argv[0] == "dspex" else dspy_round
        for _ in sys.stdin:
            print(work(int(argv[1])), flush=True)
        return 0
    parser = argparse.ArgumentParser(prog="benchmarks modules")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(argv).quick
    held = [
        adapter_cost(2 if quick else 5, 200 if quick else 1_000),
        figure(
            "what Predict adds to its model call",
            trio.run(predict_cost, 1_000 if quick else 5_000) * 1e6,
            "us CPU",
            reach="<= 120",
        ),
        concurrency(1 if quick else 3),
        parsers(),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
