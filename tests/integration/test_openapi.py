"""The worker's API holds what its OpenAPI document says: schemathesis finds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import trio
from pydantic import SecretStr

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")

from dspex import App, Program, Step
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app
from dspex.worker.serve import bind, listen, make_service
from dspex.worker.settings import WorkerSettings

TOKEN = "a-very-long-and-secret-token"


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    step = Step(module="Predict", signature="ticket, urgency: int -> category")
    lm = ScriptedLM(lambda _: '{"category": "billing"}')
    program = Program(name="triage", steps={"classify": step})
    settings = WorkerSettings(
        port=0, token=SecretStr(TOKEN), max_wait=0.2, rate_per_minute=1e9
    )
    async with (
        open_app(App(program, lm=lm), store=tmp_path / "runs.db") as runtime,
        trio.open_nursery() as nursery,
    ):
        service = make_service(runtime, settings)
        (url,) = await nursery.start(listen, service, bind(settings))
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
            "--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "8",
            "--max-time", "12", "--seed", "1", "--no-color", "--no-shrink",
        ]  # fmt: skip
        done = await trio.run_process(
            command,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        service.closing.set()
    assert done.returncode == 0, done.stdout.decode()[-6_000:]
    assert b"Tested: 10" in done.stdout
