"""The worker against bare starlette: `python -m benchmarks worker`.

A run with a fake model at 0 ms, awaited by `?wait=`, against one JSON endpoint of bare
starlette on hypercorn-trio: as it is, and with the worker's settings of the garbage
collector. Server in a process of its own, 32 kept connections. Then the same with 2,000
clients that follow a run which does not end.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import trio

from benchmarks._figure import figure

CALLERS = 32

STREAMS = 2_000

BARE = """
import sys
import trio
from dspex.worker.garbage import settle_memory
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def echo(request):
    return JSONResponse(await request.json())

async def main():
    config = Config()
    config.bind, config.accesslog, config.errorlog = ["127.0.0.1:0"], None, None
    app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(serve, app, config)
        if sys.argv[1] == "tuned":
            settle_memory()
        print(url, flush=True)

trio.run(main)
"""
OURS = """
import sys
import trio
import dspex
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app
from dspex.worker.garbage import settle_memory
from dspex.worker.serve import bind, listen, make_service
from dspex.worker.settings import WorkerSettings

async def main(store):
    step = dspex.Step(module="Predict", signature="ticket -> category")
    program = dspex.Program(name="triage", steps={"classify": step})
    app = dspex.App(program, lm=ScriptedLM(lambda _: '{"category": "billing"}'))
    settings = WorkerSettings(port=0, rate_per_minute=1e9)
    async with open_app(app, store=store or None) as runtime:
        async with trio.open_nursery() as nursery:
            service = make_service(runtime, settings)
            (url,) = await nursery.start(listen, service, bind(settings))
            if not store:  # a run that nothing ends, for the streams
                runtime.table.adopt("endless", program, {}, 0.0)
            settle_memory()
            print(url, flush=True)

trio.run(main, sys.argv[1])
"""


async def rate(
    port: int, path: str, seconds: float, *, callers: int = CALLERS
) -> list[float]:
    """Give how long each call took; their number is the rate."""
    body = json.dumps({"inputs": {"ticket": "My invoice is wrong"}}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await call_until_closed(stream)

    async def call_until_closed(stream: trio.SocketStream) -> None:
        while (began := time.perf_counter()) < end:
            await stream.send_all(request)
            reply = await receive(stream)
            while b"\r\n\r\n" not in reply:
                reply += await receive(stream)
            top, _, rest = reply.partition(b"\r\n\r\n")
            assert top.startswith(b"HTTP/1.1 200"), top
            top = top.lower()
            length = int(top.partition(b"content-length: ")[2].split()[0])
            while len(rest) < length:
                rest += await receive(stream)
            took.append(time.perf_counter() - began)
            if b"connection: close" in top:  # after 1,000 requests
                return

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return took


async def receive(stream: trio.SocketStream) -> bytes:
    chunk = await stream.receive_some(65_536)
    assert chunk, "the server closed the connection"
    return bytes(chunk)


@contextmanager
def serving(code: str, *arguments: str) -> Generator[tuple[int, int]]:
    """Give the port and the process id of a server."""
    server = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline().strip().rpartition(":")[2]), server.pid
    finally:
        server.kill()
        server.communicate()


def measure(code: str, path: str, seconds: float, *arguments: str) -> float:
    with serving(code, *arguments) as (port, _):
        trio.run(rate, port, path, min(1.0, seconds))
        return len(trio.run(rate, port, path, seconds)) / seconds


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def beside_streams(
    port: int, pid: int, seconds: float
) -> tuple[float, float, float]:
    """Give the bytes of a stream, and the p99 of a call with none and with all open."""
    path = "/v1/programs/triage/runs?wait=10"
    await rate(port, path, 1.0, callers=4)
    alone = await rate(port, path, seconds, callers=4)
    before = resident_bytes(pid)
    ask = b"GET /v1/runs/endless/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    streams: list[trio.SocketStream] = []
    for _ in range(STREAMS):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(ask)
        answer = b""
        while b"accepted" not in answer:
            chunk = await stream.receive_some(65_536)
            assert chunk, answer
            answer += chunk
        streams.append(stream)
    each = (resident_bytes(pid) - before) / STREAMS
    beside = await rate(port, path, seconds, callers=4)
    for stream in streams:
        await trio.aclose_forcefully(stream)
    return each, p99(alone), p99(beside)


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks worker")
    parser.add_argument("--quick", action="store_true", help="1 run, 2 s each")
    quick = parser.parse_args(arguments).quick
    rounds, seconds = (1, 2.0) if quick else (5, 5.0)
    path = "/v1/programs/triage/runs?wait=10"
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "runs.db")
            for name, code, where, argument in (
                ("bare_starlette", BARE, "/", "plain"),
                ("bare_starlette_tuned", BARE, "/", "tuned"),
                ("without_store", OURS, path, ""),
                ("with_store", OURS, path, store),
            ):
                one = measure(code, where, seconds, argument)
                found.setdefault(name, []).append(one)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    value = medians.pop("with_store")
    good = figure(
        "runs_with_store",
        value,
        "1/s",
        reach=">= 0.5 x bare_starlette",
        against=medians,
    )
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with serving(OURS, "") as (port, pid):
        each, alone, beside = trio.run(beside_streams, port, pid, seconds)
    good &= figure("sse_client_memory", each / 1_000, "kB", reach="<= 20")
    good &= figure(
        "call_p99_beside_2000_sse_clients",
        beside * 1_000,
        "ms",
        reach="<= 1.5 x none_open",
        against={"none_open": alone * 1_000},
    )
    return 0 if good else 1
