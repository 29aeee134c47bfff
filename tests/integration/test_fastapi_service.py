"""The FastAPI example on uvicorn: load, clients that leave, deaths, SIGTERM."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from dspex.testing import Action, FakeProvider, ProviderRequest, open_fake_provider
from tests.integration.dspex_command import (
    ROOT,
    dspy_processes,
    eventually,
    is_alive,
    kill,
    schema_answers,
)
from tests.integration.http_client import Reply, ask, open_request

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

TICKET = {"ticket": "My invoice is wrong"}


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    async def answer(self) -> Reply:
        return await ask(self.port, "POST", "/tickets", TICKET, timeout=60)


@asynccontextmanager
async def open_service(
    provider: FakeProvider, folder: Path, *, store: Path | None = None
) -> AsyncGenerator[Service]:
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "examples.fastapi_service.service:app",
             "--port", "0", "--no-access-log", "--timeout-graceful-shutdown", "20"],
            cwd=ROOT,
            env=os.environ | {
                "TRIAGE_MODEL": "fake", "TRIAGE_BASE_URL": provider.url,
                "OPENAI_API_KEY": "none",
            } | ({} if store is None else {"TRIAGE_STORE": str(store)}),
            stdout=sink,
            stderr=sink,
        )  # fmt: skip
    try:
        found: list[str] = []

        def is_up() -> bool:
            found[:] = re.findall(r"running on http://127.0.0.1:(\d+)", log.read_text())
            return bool(found) or process.poll() is not None

        assert await eventually(is_up, seconds=60)
        assert found, log.read_text()
        yield Service(process, int(found[0]), log)
    finally:
        process.kill()
        process.wait()


async def test_load_leaving_clients_and_a_dead_dspy_process(tmp_path: Path) -> None:
    async with (
        open_fake_provider(schema_answers()) as provider,
        open_service(provider, tmp_path) as service,
    ):
        first = await service.answer()
        assert first.status == 200, service.log.read_text()
        assert first.json["category"]

        statuses: list[int] = []

        async def one() -> None:
            statuses.append((await service.answer()).status)

        async with trio.open_nursery() as nursery:
            for _ in range(1_000):
                nursery.start_soon(one)
        assert statuses == [200] * 1_000

        provider.plan(schema_answers(delay=0.3))
        statuses.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
            await trio.sleep(0.45)  # in their second step, in the dspy process
            for pid in dspy_processes(service.process.pid):
                kill(pid)
        assert statuses == [200] * 10

        def hang(request: ProviderRequest) -> Action:
            return schema_answers(delay=60)(request)

        provider.plan(hang)
        before = provider.disconnects
        async with open_request(service.port, "POST", "/tickets", TICKET):
            asked = len(provider.requests)
            assert await eventually(
                lambda: len(provider.requests) > asked - 1, seconds=5
            )
            await trio.sleep(0.3)
        assert await eventually(lambda: provider.disconnects > before, seconds=5)

        provider.plan(schema_answers())
        stream = await ask(service.port, "POST", "/tickets/stream", TICKET)
        assert stream.text.count("step_finished") == 2
        assert stream.text.count('"kind": "finished"') == 1
        told = re.findall(r'"field": "reply", "text": "([^"]*)"', stream.text)
        assert "".join(told) == "We are on it."


@pytest.mark.parametrize("path", ["/tickets", "/tickets/stream"])
async def test_a_client_that_leaves_cancels_its_run_also_in_a_store(
    path: str, tmp_path: Path
) -> None:
    store = tmp_path / "runs.db"
    async with (
        open_fake_provider(schema_answers(delay=60)) as provider,
        open_service(provider, tmp_path, store=store) as service,
    ):
        async with open_request(service.port, "POST", path, TICKET):
            assert await eventually(lambda: len(provider.requests) == 1, seconds=10)
        assert await eventually(lambda: provider.disconnects == 1, seconds=5)
        with closing(sqlite3.connect(store)) as kept:

            def state() -> object:
                return kept.execute("SELECT state FROM run").fetchall()

            assert await eventually(lambda: state() == [("cancelled",)], seconds=5)
        assert "Traceback" not in service.log.read_text()


async def test_sigterm_lets_calls_under_way_finish(tmp_path: Path) -> None:
    async with (
        open_fake_provider(schema_answers()) as provider,
        open_service(provider, tmp_path) as service,
    ):
        assert (await service.answer()).status == 200
        provider.plan(schema_answers(delay=0.5))
        asked = len(provider.requests)
        statuses: list[int] = []

        async def one() -> None:
            statuses.append((await service.answer()).status)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
            assert await eventually(
                lambda: len(provider.requests) >= asked + 20, seconds=10
            )
            left = dspy_processes(service.process.pid)
            service.process.send_signal(signal.SIGTERM)
        assert statuses == [200] * 20
        # uvicorn raises the signal again when it has shut down in order.
        status = await trio.to_thread.run_sync(service.process.wait)
        assert status in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in service.log.read_text()
        assert not any(is_alive(pid) for pid in left)


async def test_a_store_that_is_gone_is_told_and_taken_again(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    async with (
        open_fake_provider(schema_answers()) as provider,
        open_service(provider, tmp_path, store=store) as service,
    ):
        assert (await service.answer()).status == 200
        store.rename(tmp_path / "aside.db")
        refused = await service.answer()
        assert refused.status == 503
        assert refused.json == {"detail": "no ticket can be answered now"}
        told = f"store sqlite:///{store}: its file was deleted"
        assert told in service.log.read_text()
        (tmp_path / "aside.db").rename(store)
        assert (await service.answer()).status == 200
        assert "Traceback" not in service.log.read_text()
