"""What a model call costs, against httpx and dspy in the same run.

`python -m benchmarks providers [--quick]`: client CPU, fake server and each contender
in processes of their own, rounds interleaved, medians of five (`--quick`: of two).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks._figure import figure


class Contender:
    """One client process; a round is one line in and one out."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.rounds: list[dict[str, float]] = []

    def round(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.rounds.append(json.loads(read_line(self._process)))

    def median(self, fact: str) -> float:
        return median(facts[fact] for facts in self.rounds)


@contextmanager
def child(*arguments: str) -> Generator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        process.wait(10)


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended with status {process.wait()}")
    return line


@contextmanager
def server(delay: float) -> Generator[str]:
    with child("benchmarks._model_server", str(delay)) as process:
        yield f"http://127.0.0.1:{int(read_line(process))}/v1"


def compete(
    url: str, rounds: int, **contenders: tuple[str, int, int]
) -> dict[str, Contender]:
    """Run the contenders (program, calls a round, concurrency) in turns."""
    with ExitStack() as stack:
        running: dict[str, Contender] = {}
        for name, (program, calls, concurrency) in contenders.items():
            process = stack.enter_context(
                child(
                    "benchmarks._model_clients",
                    program,
                    url,
                    str(calls),
                    str(concurrency),
                )
            )
            read_line(process)  # ready
            running[name] = Contender(process)
        for _ in range(rounds):
            for contender in running.values():
                contender.round()
        return running


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks providers")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and calls")
    parser.add_argument("--only", default="", help="of " + ", ".join(MEASURES))
    options = parser.parse_args(argv)
    rounds = 2 if options.quick else 5
    held: list[bool] = []
    for name, measure in MEASURES.items():
        if name in options.only.split(",") or not options.only:
            held.extend(measure(rounds))
    return 0 if all(held) else 1


def measure_cpu(rounds: int) -> list[bool]:
    with server(0) as url:
        ran = compete(
            url,
            rounds,
            complete=("complete", 2000, 100),
            httpx=("httpx", 2000, 100),
            sockets=("sockets", 2000, 100),
        )
    ours, theirs, bare = (
        ran[name].median("cpu_us") for name in ("complete", "httpx", "sockets")
    )
    return [
        figure(
            "CPU per lm.complete, 0 ms server, 100 concurrent",
            ours,
            "us",
            reach="<= 0.6 x httpx",
            against={"httpx": theirs, "sockets": bare},
        )
    ]


def measure_predict(rounds: int) -> list[bool]:
    with server(0) as url:
        ran = compete(
            url,
            rounds,
            predict=("predict", 1000, 100),
            dspy_sync=("dspy_sync", 300, 1),
            dspy_async=("dspy_async", 600, 100),
        )
    ours, sync, acall = (
        ran[name].median("cpu_us") for name in ("predict", "dspy_sync", "dspy_async")
    )
    return [
        figure(
            "CPU per native Predict call, 0 ms server, 100 concurrent",
            ours,
            "us",
            reach="<= 0.7 x sync and <= 0.4 x acall",
            against={"sync": sync, "acall": acall},
        )
    ]


def measure_rate(rounds: int) -> list[bool]:
    with server(0.2) as url:
        ran = compete(
            url,
            rounds,
            predict=("predict", 5000, 500),
            dspy=("dspy_async", 1500, 500),
            at_500=("complete", 5000, 500),
            at_2000=("complete", 10000, 2000),
        )
    ours, theirs = (ran[name].median("calls_per_s") for name in ("predict", "dspy"))
    few, many = (ran[name].median("cpu_us") for name in ("at_500", "at_2000"))
    return [
        figure(
            "Predict calls/s, 200 ms server, 500 concurrent",
            ours,
            "1/s",
            reach=">= 3 x acall and >= 0.6 x ideal",
            against={"acall": theirs, "ideal": 2500},
        ),
        figure(
            "CPU per lm.complete, 200 ms server, 2,000 concurrent",
            many,
            "us",
            reach="<= 1.2 x at_500",
            against={"at_500": few},
        ),
    ]


def measure_pool(rounds: int) -> list[bool]:
    with server(0) as url:
        ran = compete(
            url,
            rounds,
            few=("many_open", 2000, 10),
            many=("many_open", 2000, 1000),
        )
    few, many = (ran[name].median("cpu_us") for name in ("few", "many"))
    return [
        figure(
            "CPU per lm.complete with 1,000 connections open",
            many,
            "us",
            reach="<= 1.2 x with_10",
            against={"with_10": few},
        )
    ]


def measure_memory(rounds: int) -> list[bool]:
    calls = 100_000 if rounds >= 5 else 10_000
    with server(0) as url:
        ran = compete(url, 1, memory=("memory", calls, 100))
    (facts,) = ran["memory"].rounds
    return [
        figure(
            f"memory after {calls:,} calls, against a tenth of them",
            facts["late_mib"],
            "MiB",
            reach="<= 1.05 x early",
            against={"early": facts["early_mib"]},
        )
    ]


def measure_first_token(rounds: int) -> list[bool]:
    with server(0.05) as url:
        ran = compete(url, rounds, lm=("first_token", 60, 1))
    median_ms, p99_ms = (ran["lm"].median(name) for name in ("median_ms", "p99_ms"))
    return [
        figure(
            "time to the first streamed token over the server's own",
            median_ms,
            "ms",
            reach="<= 2",
            against={"p99": p99_ms},
        )
    ]


MEASURES = {
    "cpu": measure_cpu,
    "predict": measure_predict,
    "rate": measure_rate,
    "pool": measure_pool,
    "first_token": measure_first_token,
    "memory": measure_memory,
}
