"""The worker of the soak: a process of its own, and what must not grow in it."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import trio

from benchmarks._soak_clients import FINAL
from benchmarks.worker import resident_bytes
from dspex.testing.process_faults import descendants

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class State:
    """What must not grow, while nothing is asked of the worker."""

    resident: float
    descriptors: int
    tasks: int
    threads: int
    below: int
    kinds: Counter[str]
    """What its descriptors are."""


async def read_state(pid: int, client: httpx.AsyncClient) -> State:
    """Look at a worker at rest."""
    values = await _metrics(client)
    status = Path(f"/proc/{pid}/status").read_text()
    kinds = descriptors(pid)
    return State(
        resident=resident_bytes(pid) / 1e6,
        descriptors=kinds.total(),
        tasks=int(float(values["dspex_tasks"])),
        threads=int(status.partition("Threads:")[2].split()[0]),
        below=len(descendants(pid)),
        kinds=kinds,
    )


async def read_finished(client: httpx.AsyncClient) -> int:
    """Give how many runs have ended, well or not."""
    values = await _metrics(client)
    return sum(int(float(values[f'dspex_runs{{status="{it}"}}'])) for it in FINAL)


async def _metrics(client: httpx.AsyncClient) -> dict[str, str]:
    lines = (await client.get("/metrics")).text.splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if line[0] != "#")


def descriptors(pid: int) -> Counter[str]:
    """Give how many descriptors of each kind a process has: sockets, files by name."""
    kinds: Counter[str] = Counter()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except FileNotFoundError:  # closed meanwhile
            continue
        kinds[target.partition(":[")[0].rpartition("/")[2]] += 1
    return kinds


@asynccontextmanager
async def open_worker(
    folder: Path, log: Path, url: str
) -> AsyncGenerator[tuple[int, str]]:
    """Give the process id and the address of `dspex worker`; it is ended in order."""
    command = [sys.executable, "-m", "dspex", "worker", "--port", "0"]
    command += ["--app", "benchmarks._soak_app:app", "--store", str(folder / "runs.db")]
    command += ["--lm", "openai:fake", "--base-url", url, "--timeout", "20"]
    command += ["--log-level", "info"]
    environment = os.environ | {
        "OPENAI_API_KEY": "none",
        "DSPEX_RATE_PER_MINUTE": "1e9",
    }
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            command, stdout=sink, stderr=sink, cwd=ROOT, env=environment
        )
    try:
        with trio.fail_after(60):
            while '"worker_ready"' not in (text := log.read_text()):
                assert popen.poll() is None, text
                await trio.sleep(0.1)
        (ready,) = (it for it in text.splitlines() if '"worker_ready"' in it)
        yield popen.pid, json.loads(ready)["url"]
        popen.send_signal(signal.SIGTERM)
        with trio.move_on_after(60):
            while popen.poll() is None:
                await trio.sleep(0.1)
    finally:
        popen.kill()
        popen.wait()
