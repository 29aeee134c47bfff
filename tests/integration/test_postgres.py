"""The journal on a real Postgres server."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from dspex.runtime.journal import (
    Fence,
    FinishRun,
    LeaseLostError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreOpenError,
    StoreReadOnlyError,
    StoreRowError,
    StoreVersionError,
    WorkerIdentity,
    connect,
)
from dspex.runtime.journal import journal as journals
from dspex.worker.open_runtime import open_runtime
from tests.integration.chain_program import CHAIN, answers
from tests.integration.postgres_server import postgres_server
from tests.journal.conftest import effect_of, opened, run_of

ROOT = Path(__file__).parents[2]
ME = WorkerIdentity("here", 1, "boot")


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    with postgres_server() as found:
        yield found


@pytest.fixture
def url(server: str) -> str:
    """An empty database of the test's own."""
    psycopg: Any = pytest.importorskip("psycopg")  # Any: an extra's module
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres", f"/{name}")


async def test_the_journal_keeps_its_promises_on_postgres(url: str) -> None:
    async with opened(url) as (journal, _), opened(url) as (other, _):
        fence = Fence("r", "w", 1)
        await journal.register("w", ME)
        await journal.accept(run_of("r"))
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon((journal, other)[n % 2].write, effect_of(fence, n))
        assert len(await other.effects("r")) == 100
        assert await other.bury(["w"]) == 1
        late = msgspec.structs.replace(run_of("late", at=2.0), is_worker=True)
        assert await journal.accept(late)
        await other.register("w2", ME)
        assert [row.epoch for row in await other.claim("w2", limit=5)] == [2, 1]
        with pytest.raises(LeaseLostError):
            await journal.write(effect_of(fence, 100))
        ended = FinishRun(Fence("r", "w2", 2), "succeeded", "{}", None, "[]", 3.0)
        await other.write(ended)
        assert (await journal.run("r")).state == "succeeded"
        assert await journal.prune(older_than=0) == 1
        assert [row.id for row in await other.runs()] == ["late"]


async def test_claims_of_many_workers_give_each_run_once(url: str) -> None:
    async with opened(url) as (journal, _), opened(url) as (other, _):
        claimed: list[str] = []
        for n in range(40):
            await journal.accept(run_of(f"q{n}", None))

        async def claim(worker: int) -> None:
            it = (journal, other)[worker % 2]
            await it.register(f"c{worker}", ME)
            while rows := await it.claim(f"c{worker}", limit=3):
                claimed.extend(row.id for row in rows)

        async with trio.open_nursery() as nursery:
            for worker in range(6):
                nursery.start_soon(claim, worker)
        assert sorted(claimed) == sorted(f"q{n}" for n in range(40))


async def test_a_run_is_resumed_from_postgres(url: str) -> None:
    slow = answers(delay=0.3)
    async with open_runtime(slow, store=url) as rt:
        run = await rt.submit(CHAIN, {"ticket": "help"})
        with trio.fail_after(10):
            while len(slow.requests) < 2:
                await trio.sleep(0.02)
    lm = answers()
    async with open_runtime(lm, store=url) as rt:
        ended = await rt.result(run, timeout=10)
    assert ended.status == "succeeded"
    assert len(lm.requests) == 2


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        (
            "UPDATE alembic_version SET version_num = '9999'",
            StoreVersionError,
            "'9999', and this dspex knows up to",
        ),
        (
            "DROP TABLE alembic_version",
            StoreCorruptError,
            "its tables are not those of a dspex store",
        ),
    ],
)
async def test_a_database_that_is_no_store_of_this_dspex_is_refused(
    url: str, harm: str, error: type[StoreError], said: str
) -> None:
    async with opened(url):
        execute(url, harm)
    with pytest.raises(error, match=said):
        async with opened(url):
            pass


async def test_faults_of_the_server_are_told_and_pass(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.2)
    psycopg: Any = pytest.importorskip("psycopg")  # Any: an extra's module
    name = url.rpartition("/")[2]
    fence = Fence("r", "w", 1)
    async with opened(url) as (journal, _):
        await journal.accept(run_of("r"))
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE run")
            with pytest.raises(StoreLockedError, match="lock timeout"):
                await journal.write(effect_of(fence))
            with pytest.raises(StoreLockedError, match="lock timeout"):
                await journal.run("r")
        await journal.write(effect_of(fence))
        execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        execute(url, DISCONNECT)
        with pytest.raises(StoreReadOnlyError, match="read-only transaction"):
            await journal.write(effect_of(fence, 1))
        assert (await journal.run("r")).state == "running"
        execute(url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        execute(url, DISCONNECT)
        await journal.write(effect_of(fence, 2))
        execute(url, "UPDATE run SET inputs = '{'")
        with pytest.raises(StoreRowError, match="'inputs' of run 'r' is damaged"):
            await journal.run("r")


DISCONNECT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def execute(url: str, sql: str) -> None:
    psycopg: Any = pytest.importorskip("psycopg")  # Any: an extra's module
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET transaction_read_only = off; " + sql)


async def test_a_read_from_a_server_that_hangs_is_given_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    psycopg: Any = pytest.importorskip("psycopg")  # Any: as above
    backends = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    async with opened(url) as (journal, _):
        await journal.accept(run_of("r"))
        assert (await journal.run("r")).id == "r"
        with psycopg.connect(url) as connection:
            pids = [row[0] for row in connection.execute(backends).fetchall()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            monkeypatch.setattr(journals, "READ_SECONDS", 0.2)
            with pytest.raises(StoreBusyError, match=r"read within 0\.2 s"):
                await journal.run("r")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        assert (await journal.run("r")).id == "r"


async def test_no_server_is_told_at_once() -> None:
    with pytest.raises(StoreOpenError, match="check the path or URL"):
        async with opened("postgresql://dspex@127.0.0.1:1/postgres"):
            pass


async def test_two_workers_on_postgres_survive_kills(url: str) -> None:
    arguments = ["--kills", "2", "--runs", "16", "--workers", "2", "--store", url]
    arguments += ["--every", "0.8", "1.5", "--timeout", "80", "--delay", "0.8"]
    done = await trio.run_process(
        [sys.executable, "-m", "benchmarks", "chaos", *arguments],
        cwd=ROOT,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    figures = next(
        json.loads(it) for it in done.stdout.splitlines() if b'"kills"' in it
    )
    assert (figures["succeeded"], figures["finished_calls_repeated"]) == (16, 0)


@pytest.mark.parametrize(
    ("query", "bounds", "lock_timeout"),
    [
        ("", (5, 5, 3, 20_000), "20s"),
        ("?options=-c%20work_mem%3D1MB", (5, 5, 3, 20_000), "20s"),
        ("?options=-c%20lock_timeout%3D2s", (5, 5, 3, 20_000), "2s"),
        ("?keepalives_idle=60&tcp_user_timeout=90000", (60, 5, 3, 90_000), "20s"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the names of Linux's options")
def test_a_server_that_vanishes_is_given_up_unless_the_url_says_otherwise(
    url: str, query: str, bounds: tuple[int, ...], lock_timeout: str
) -> None:
    engine = connect.connect(connect.store_url(url + query), writes=True, connections=1)
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    with engine.connect() as connection:
        # Any: psycopg's connection, which SQLAlchemy hands out untyped.
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=driver.fileno()) as link:
            options = [getattr(socket, name) for name in names]
            found = [link.getsockopt(socket.IPPROTO_TCP, it) for it in options]
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            link.detach()
        shown = connection.exec_driver_sql("SHOW lock_timeout").scalar()
    engine.dispose()
    assert tuple(found) == bounds
    assert shown == lock_timeout
