"""`dspex worker` as a process, with a program of one step."""

import json
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.integration.dspex_command import (
    argv,
    eventually,
)

PROGRAM = """
name: triage
steps:
  classify: {module: Predict, signature: "ticket -> category"}
"""
RUNS = "/v1/programs/triage/runs"
INPUTS = {"inputs": {"ticket": "My invoice is wrong"}}


@dataclass
class Process:
    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    async def exit_status(self) -> int:
        with trio.fail_after(20):
            return await trio.to_thread.run_sync(
                self.popen.wait, abandon_on_cancel=True
            )

    def logged(self, event: str) -> bool:
        return f'"event": "{event}"' in self.log.read_text()


@asynccontextmanager
async def open_process(
    folder: Path, url: str, *more: str, environment: dict[str, str] | None = None
) -> AsyncGenerator[Process]:
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "triage.yaml").write_text(PROGRAM)
    log = folder / "log"
    command = argv(
        "worker", "--app", programs, "--port", "0", "--lm", "openai:fake",
        "--base-url", url, *more,
    )  # fmt: skip
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            command,
            stderr=sink,
            stdout=sink,
            env=os.environ | {"OPENAI_API_KEY": "none"} | (environment or {}),
        )
    try:
        process = Process(popen, 0, log)
        up = await eventually(
            lambda: process.logged("worker_ready") or popen.poll() is not None,
            seconds=30,
        )
        assert up
        assert popen.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if '"worker_ready"' in line:
                process.port = int(json.loads(line)["url"].rpartition(":")[2])
        yield process
    finally:
        popen.kill()
        popen.wait()
