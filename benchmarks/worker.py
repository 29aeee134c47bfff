"""The worker against bare starlette: `python -m benchmarks worker`.

A run with a fake model at 0 ms, awaited by `?wait=`, against one JSON endpoint of bare
starlette on hypercorn-trio. Server in a process of its own, 32 kept connections.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

CALLERS = 32

BARE = """
import trio
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
        print(url, flush=True)

trio.run(main)
"""
OURS = """
import sys
import trio
import dspex
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app
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
            print(url, flush=True)

trio.run(main, sys.argv[1])
"""


async def rate(port: int, path: str, seconds: float) -> float:
    body = json.dumps({"inputs": {"ticket": "My invoice is wrong"}}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    done = 0
    end = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            while time.perf_counter() < end:
                await stream.send_all(request)
                reply = await stream.receive_some(65_536)
                while b"\r\n\r\n" not in reply:
                    reply += await stream.receive_some(65_536)
                top, _, rest = reply.partition(b"\r\n\r\n")
                assert top.startswith(b"HTTP/1.1 200"), top
                length = int(top.lower().partition(b"content-length: ")[2].split()[0])
                while len(rest) < length:
                    rest += await stream.receive_some(65_536)
                done += 1

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(caller)
    return done / (time.perf_counter() - began)


def measure(code: str, path: str, seconds: float, *arguments: str) -> float:
    server = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().strip().rpartition(":")[2])
        trio.run(rate, port, path, min(1.0, seconds))
        return trio.run(rate, port, path, seconds)
    finally:
        server.kill()
        server.communicate()


def main(arguments: list[str]) -> int:
    """Measure and print; status 1 if the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks worker")
    parser.add_argument("--quick", action="store_true", help="1 run, 2 s each")
    quick = parser.parse_args(arguments).quick
    rounds, seconds = (1, 2.0) if quick else (5, 5.0)
    path = "/v1/programs/triage/runs?wait=10"
    found: dict[str, list[float]] = {"bare": [], "memory": [], "store": []}
    for _ in range(rounds):
        found["bare"].append(measure(BARE, "/", seconds))
        found["memory"].append(measure(OURS, path, seconds, ""))
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "runs.db")
            found["store"].append(measure(OURS, path, seconds, store))
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    holds = medians["store"] >= 0.5 * medians["bare"]
    line = {
        "figure": "runs_with_store",
        "value": round(medians["store"]),
        "unit": "1/s",
        "beside": {
            "bare_starlette": round(medians["bare"]),
            "without_store": round(medians["memory"]),
        },
        "target": ">= 0.5 x bare_starlette",
        "holds": holds,
        "runs": rounds,
    }
    print(json.dumps(line), flush=True)
    return 0 if holds else 1
