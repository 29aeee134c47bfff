"""The dspy bridge: what a process of one's own costs, and what it saves."""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from benchmarks._figure import figure
from dspex.runtime import Actor, ActorRef, CallError, Node, open_node
from dspex.runtime.bridge import DspyBridge, DspyCall, DspyPool, PoolSettings
from dspex.runtime.bridge.pool_worker import private_bytes
from dspex.runtime.bridge.testing import fields, no_model, response

HERE = Path(__file__).parent
TEXT = "x" * 2048
WORK_SECONDS = 0.002
ANSWER = fields(answer="Paris")
PREDICT = DspyCall(
    module="dspy.Predict",
    signature="question -> answer",
    inputs={"question": "What is the capital of France?"},
)

PONG = """
import msgspec, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
buffer = b""
while data := sock.recv(1 << 18):
    buffer += data
    while len(buffer) >= 4 and len(buffer) >= 4 + int.from_bytes(buffer[:4], "big"):
        end = 4 + int.from_bytes(buffer[:4], "big")
        body = encoder.encode(decoder.decode(buffer[4:end]))
        buffer = buffer[end:]
        sock.sendall(len(body).to_bytes(4, "big") + body)
"""

Work = Callable[[], Awaitable[object]]


async def answer_at_once(request: dict[str, Any]) -> dict[str, Any]:
    """The fake model: as the one inside the process, it takes no time."""
    return response(ANSWER)


async def times(work: Work, count: int) -> list[float]:
    for _ in range(max(3, count // 10)):
        await work()
    seconds: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await work()
        seconds.append(time.perf_counter() - began)
    return seconds


def hosted(function: str, **inputs: object) -> DspyCall:
    return DspyCall(module=f"_bridge_hosted:{function}", inputs=inputs)


async def run(pool: ActorRef[DspyPool], call: DspyCall) -> dict[str, Any]:
    result = await pool.call(DspyPool.run, call, answer_at_once, timeout=60)
    return result.outputs


async def start(node: Node, **settings: Any) -> ActorRef[DspyPool]:
    return await node.start(DspyPool(PoolSettings(**settings), search_path=[HERE]))


async def bare_echo(count: int) -> list[float]:
    """Ping-pong of the same message over a socketpair, nothing around it."""
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
        [sys.executable, "-c", PONG, str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
    message = {"type": "Run", "id": 1, "inputs": {"text": TEXT}}
    with trio.socket.from_stdlib_socket(ours) as sock:

        async def ping() -> None:
            body = encoder.encode(message)
            await sock.send(len(body).to_bytes(4, "big") + body)
            buffer = b""
            while len(buffer) < 4 + len(body):
                buffer += await sock.recv(1 << 18)
            decoder.decode(buffer[4:])

        seconds = await times(ping, count)
    child.wait()
    return seconds


def predict_alone(count: int, pause: float = 0.0) -> float:
    """The median of dspy's own seconds, in a process that knows of no bridge."""
    done = subprocess.run(
        [
            sys.executable,
            str(HERE / "_bridge_bare.py"),
            "alone",
            str(count),
            str(pause),
        ],
        capture_output=True,
        check=True,
    )
    seconds: list[float] = json.loads(done.stdout)
    return statistics.median(seconds[count // 10 :])


async def bare_predict(count: int) -> list[float]:
    """The same forwarded Predict with nothing around it: what two processes must cost.

    A process that does one prediction after the other and waits for the model in a
    plain read; a parent that is one task with a socket.
    """
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
        [sys.executable, str(HERE / "_bridge_bare.py"), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
    with trio.socket.from_stdlib_socket(ours) as sock:

        async def ask(message: dict[str, Any]) -> dict[str, Any]:
            body = encoder.encode(message)
            await sock.send(len(body).to_bytes(4, "big") + body)
            answer: dict[str, Any] = decoder.decode((await sock.recv(1 << 18))[4:])
            return answer

        async def predict() -> None:
            await ask({"inputs": dict(PREDICT.inputs)})
            await ask({"text": ANSWER})

        seconds = await times(predict, count)
    child.wait()
    return seconds


async def echo(node: Node, count: int) -> bool:
    bare = statistics.median(await bare_echo(count))
    bridge = await node.start(DspyBridge(search_path=[HERE]))

    async def ping() -> None:
        await bridge.call(DspyBridge.run, hosted("echo", text=TEXT), no_model)

    ours = statistics.median(await times(ping, count))
    bridge.exit("shutdown")
    # `bare` is a socketpair ping-pong with the same codec.
    return figure(
        "echo_2kb_p50",
        ours * 1e6,
        "us",
        reach="<= 3 x bare",
        against={"bare": bare * 1e6},
    )


async def predict(node: Node, count: int) -> bool:
    alone = predict_alone(count)
    # The same, called as often as over the bridge: with the caches gone cold between.
    woken = predict_alone(count // 4, pause=0.0003)
    pool = await start(node, spares=0)
    ours = statistics.median(await times(lambda: run(pool, PREDICT), count))
    peers = {
        "forwarded": ours * 1e3,
        "alone": alone * 1e3,
        "alone_after_a_pause": woken * 1e3,
        "bare_forwarded": statistics.median(await bare_predict(count)) * 1e3,
    }
    more = (ours - alone) * 1e3
    pool.exit("kill")
    return figure("predict_over_alone", more, "ms", reach="<= 0.3", against=peers)


async def throughput(node: Node, count: int) -> bool:
    good = await _pool_of_two(node, "predict_rate_pool_of_2", PREDICT, count)
    # Of a Predict most is on the way; of this most is the process's own.
    work = hosted("work", seconds=WORK_SECONDS)
    return good & await _pool_of_two(node, "work_2ms_rate_pool_of_2", work, count)


async def _pool_of_two(node: Node, name: str, call: DspyCall, count: int) -> bool:
    rates: dict[int, float] = {}
    cpu: dict[str, float] = {}
    for size in (1, 2):
        pool = await start(node, min_size=size, max_size=size, spares=0)
        await times(lambda p=pool: run(p, call), 20)  # type: ignore[misc]
        left = iter(range(count))

        async def worker(p: ActorRef[DspyPool] = pool) -> None:
            for _ in left:  # noqa: B023 - ended before the next round
                await run(p, call)

        pids = await pool.call(DspyPool.pids)
        used = sum(map(cpu_seconds, pids)), time.process_time()
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(worker)
        rates[size] = count / (time.perf_counter() - began)
        children = sum(map(cpu_seconds, pids)) - used[0]
        cpu[f"children_cpu_ms_of_{size}"] = children / count * 1e3
        cpu[f"parent_cpu_ms_of_{size}"] = (time.process_time() - used[1]) / count * 1e3
        pool.exit("kill")
    return figure(
        name,
        rates[2],
        "1/s",
        reach=">= 1.6 x pool_of_1",
        against={"pool_of_1": rates[1], **cpu},
    )


def cpu_seconds(pid: int) -> float:
    """The CPU time of all threads of a process, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


async def recovery(node: Node, count: int) -> bool:
    rounds = max(5, count // 50)
    good = True
    for label, spares, reach in (("warm_spare", 1, 50), ("fork_server", 0, 150)):
        pool = await start(node, min_size=1, max_size=1, spares=spares)
        await run(pool, PREDICT)
        seconds: list[float] = []
        for _ in range(rounds):
            victim = (await run(pool, hosted("pid")))["pid"]
            os.kill(victim, signal.SIGKILL)
            began = time.perf_counter()
            while True:
                try:
                    await run(pool, PREDICT)
                    break
                except CallError:
                    await trio.lowlevel.checkpoint()
            seconds.append(time.perf_counter() - began)
            await trio.sleep(0.1)
        value = statistics.median(seconds) * 1e3
        name = f"crash_to_answer_{label}_p50"
        good &= figure(name, value, "ms", reach=f"<= {reach}")
        pool.exit("kill")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        bridge = await node.start(DspyBridge())
        await bridge.call(DspyBridge.run, PREDICT, answer_at_once, timeout=60)
        seconds.append(time.perf_counter() - began)
        bridge.exit("shutdown")
    value = statistics.median(seconds) * 1e3
    return good & figure("crash_to_answer_cold_p50", value, "ms")


async def memory(node: Node, count: int) -> bool:
    pool = await start(node, min_size=4, max_size=4, spares=0)
    async with trio.open_nursery() as nursery:
        for _ in range(min(count, 40)):
            nursery.start_soon(run, pool, PREDICT)
    pids = await pool.call(DspyPool.pids)
    mine = statistics.mean(private_bytes(pid) for pid in pids) / 2**20
    pss = statistics.mean(pss_bytes(pid) for pid in pids) / 2**20
    bridge = await node.start(DspyBridge())
    await bridge.call(DspyBridge.run, PREDICT, answer_at_once, timeout=60)
    cold = private_bytes(await bridge.call(DspyBridge.pid)) / 2**20
    bridge.exit("shutdown")
    pool.exit("kill")
    return figure(
        "private_memory_forked",
        mine,
        "MiB",
        reach="<= 15",
        against={"cold": cold, "pss_forked": pss},
    )


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class Native(Actor):
    async def answer(self) -> int:
        return 42


async def isolation(node: Node, count: int) -> bool:
    native = await node.start(Native())
    pool = await start(node, spares=0)

    async def p99() -> float:
        seconds: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            await native.call(Native.answer)
            seconds.append(time.perf_counter() - began)
            await trio.sleep(0.0005)
        return statistics.quantiles(seconds, n=100)[98]

    await p99()
    idle = await p99()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, pool, hosted("burn", seconds=count * 0.002 + 1))
        await trio.sleep(0.2)
        busy = await p99()
        nursery.cancel_scope.cancel()
    pool.exit("kill")
    return figure(
        "native_call_p99_burning",
        busy * 1e6,
        "us",
        reach="<= 2 x idle",
        against={"idle": idle * 1e6},
    )


MEASURES: dict[str, Callable[[Node, int], Awaitable[bool]]] = {
    "echo": echo,
    "predict": predict,
    "throughput": throughput,
    "recovery": recovery,
    "memory": memory,
    "isolation": isolation,
}


async def measure(names: list[str], count: int) -> list[bool]:
    async with open_node() as node:
        return [await MEASURES[name](node, count) for name in names]


def main(argv: list[str]) -> int:
    """Measure and print; status 1 if a figure misses what it should reach."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bridge")
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--count", type=int, default=1000, help="calls a figure")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    options = parser.parse_args(argv)
    if unknown := set(options.figures) - set(MEASURES):
        parser.error(f"unknown figures: {', '.join(sorted(unknown))}")
    count: int = max(40, options.count // (10 if options.quick else 1))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    held = trio.run(measure, options.figures or list(MEASURES), count)
    return 0 if all(held) else 1
