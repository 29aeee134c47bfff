"""The contenders, each in a process of its own.

`python -m benchmarks._model_clients NAME URL CALLS CONCURRENCY`: prints "ready", then
for each line on stdin makes CALLS calls and prints one JSON line: CPU and wall
seconds of this process for one call, and what else the contender has to say.
"""

import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import trio

PROMPT = "What is the capital of France? Answer with one word, and nothing else."
# A name that dspy knows: it looks an unknown one up in its whole table of prices.
MODEL = "gpt-4o-mini"
PAYLOAD = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
HEADERS = {"authorization": "Bearer sk-benchmark"}

Call = Callable[[int], Awaitable[object]]
Facts = dict[str, float]


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def read_line() -> str:
    return await trio.to_thread.run_sync(sys.stdin.readline)


async def drive(call: Call, calls: int, concurrency: int) -> None:
    """Answer each line on stdin with the cost of `calls` calls."""
    await run_calls(call, concurrency * 2, concurrency)  # opens the connections
    print("ready", flush=True)
    while await read_line():
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        await run_calls(call, calls, concurrency)
        report(time.process_time() - cpu, time.perf_counter() - wall, calls)


async def run_calls(call: Call, calls: int, concurrency: int) -> None:
    left = iter(range(calls))

    async def worker(number: int) -> None:
        for _ in left:
            await call(number)

    async with trio.open_nursery() as nursery:
        for number in range(concurrency):
            nursery.start_soon(worker, number)


def report(cpu: float, wall: float, calls: int, **more: float) -> None:
    facts = {"cpu_us": cpu / calls * 1e6, "calls_per_s": calls / wall} | more
    print(json.dumps(facts), flush=True)


async def complete(url: str, calls: int, concurrency: int) -> None:
    from dspex.providers import OpenAI

    async with OpenAI(MODEL, api_key="sk-benchmark", base_url=url) as lm:
        await drive(lambda _: lm.complete(PROMPT), calls, concurrency)


async def predict(url: str, calls: int, concurrency: int) -> None:
    from dspex.modules import Predict
    from dspex.providers import OpenAI

    async with OpenAI(MODEL, api_key="sk-benchmark", base_url=url) as lm:
        module = Predict("question -> answer", lm=lm)
        await drive(lambda _: module(question=PROMPT), calls, concurrency)


async def httpx_post(url: str, calls: int, concurrency: int) -> None:
    """Ten clients, each with a tenth of the connections."""
    clients = [
        httpx.AsyncClient(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None)
        )
        for _ in range(10)
    ]

    async def call(number: int) -> None:
        reply = await clients[number % 10].post(
            f"{url}/chat/completions", json=PAYLOAD, headers=HEADERS
        )
        reply.json()["choices"][0]["message"]["content"]

    await drive(call, calls, concurrency)


async def bare_sockets(url: str, calls: int, concurrency: int) -> None:
    host, port = url.split("/")[2].split(":")
    body = json.dumps(PAYLOAD).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    streams: dict[int, trio.SocketStream] = {}

    async def call(number: int) -> None:
        if number not in streams:
            streams[number] = await trio.open_tcp_stream(host, int(port))
        stream = streams[number]
        await stream.send_all(request)
        reply = bytearray()
        while not reply.endswith(b"}"):
            reply += await stream.receive_some()

    await drive(call, calls, concurrency)


async def many_open(url: str, calls: int, concurrency: int) -> None:
    """Ten callers on a pool that has `concurrency` connections open."""
    from dspex.providers import OpenAI

    async with OpenAI(MODEL, api_key="sk-benchmark", base_url=url) as lm:

        async def call(_: int) -> object:
            return await lm.complete(PROMPT)

        together = trio.Event()

        async def open_one() -> None:
            await together.wait()
            await lm.complete(PROMPT)

        async with trio.open_nursery() as nursery:
            for _ in range(concurrency):
                nursery.start_soon(open_one)
            together.set()
        await drive(call, calls, 10)


async def first_token(url: str, calls: int, concurrency: int) -> None:
    """Milliseconds from the server's first write to the first delta, the median.

    The server writes into each delta when it was sent, by the clock of this machine.
    """
    from dspex.providers import OpenAI, TextDelta

    late: list[float] = []
    async with OpenAI(MODEL, api_key="sk-benchmark", base_url=url) as lm:

        async def call(_: int) -> None:
            async with lm.stream(PROMPT) as stream:
                first = await anext(stream)
                now = time.monotonic()
                assert isinstance(first, TextDelta)
                late.append((now - float(first.text)) * 1e3)
                await stream.read()

        await run_calls(call, concurrency * 2, concurrency)
        print("ready", flush=True)
        while await read_line():
            late.clear()
            cpu, wall = time.process_time(), time.perf_counter()
            await run_calls(call, calls, concurrency)
            report(
                time.process_time() - cpu,
                time.perf_counter() - wall,
                calls,
                median_ms=median(late),
                p99_ms=quantiles(late, n=100)[98],
            )


async def memory(url: str, calls: int, concurrency: int) -> None:
    """Resident memory after a tenth of the calls, and after all of them."""
    from dspex.providers import OpenAI

    async with OpenAI(MODEL, api_key="sk-benchmark", base_url=url) as lm:
        print("ready", flush=True)
        while await read_line():
            await run_calls(lambda _: lm.complete(PROMPT), calls // 10, concurrency)
            gc.collect()
            early = rss_mib()
            await run_calls(lambda _: lm.complete(PROMPT), calls * 9 // 10, concurrency)
            gc.collect()
            report(0.0, 1.0, calls, early_mib=early, late_mib=rss_mib())


def dspy_program(url: str) -> Any:  # Any: dspy is untyped
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    dspy: Any = importlib.import_module("dspy")  # Any: it has no types
    lm = dspy.LM(
        f"openai/{MODEL}",
        api_base=url,
        api_key="sk-benchmark",
        cache=False,
        num_retries=0,
    )
    dspy.configure(lm=lm, disable_history=True)
    return dspy.Predict("question -> answer")


def dspy_sync(url: str, calls: int, concurrency: int) -> None:
    program = dspy_program(url)
    for _ in range(5):
        program(question=PROMPT)
    print("ready", flush=True)
    while sys.stdin.readline():
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            program(question=PROMPT)
        report(time.process_time() - cpu, time.perf_counter() - wall, calls)


async def dspy_async(url: str, calls: int, concurrency: int) -> None:
    program = dspy_program(url)

    async def run(count: int) -> None:
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                await program.acall(question=PROMPT)

        await asyncio.gather(*(worker() for _ in range(min(concurrency, count))))

    await run(concurrency)
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        cpu, wall = time.process_time(), time.perf_counter()
        await run(calls)
        report(time.process_time() - cpu, time.perf_counter() - wall, calls)


TRIO = {
    "complete": complete,
    "predict": predict,
    "httpx": httpx_post,
    "sockets": bare_sockets,
    "many_open": many_open,
    "first_token": first_token,
    "memory": memory,
}


def main() -> None:
    name, url = sys.argv[1:3]
    calls, concurrency = map(int, sys.argv[3:5])
    if name == "dspy_sync":
        dspy_sync(url, calls, concurrency)
    elif name == "dspy_async":
        asyncio.run(dspy_async(url, calls, concurrency))
    else:
        trio.run(TRIO[name], url, calls, concurrency)


if __name__ == "__main__":
    main()
