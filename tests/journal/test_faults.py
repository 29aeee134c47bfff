"""Faults of the store: each ends in an error that says what to do; nothing is lost."""

import re
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import trio

from dspex.runtime.journal import (
    WRITER,
    Fence,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreOpenError,
    StoreReadOnlyError,
    StoreVersionError,
    connect,
)
from dspex.runtime.journal import journal as journals
from dspex.runtime.journal.liveness import Watch, is_gone, this_process
from dspex.runtime.journal.records import WorkerIdentity, WorkerRow
from dspex.runtime.journal.store import Store
from dspex.runtime.journal.writes import Write
from tests.journal.conftest import effect_of, opened, run_of

FENCE = Fence("r", "w", 1)


def fill(store: Store) -> None:
    """Allow the file no page more than it has."""
    store.release()
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


def empty(store: Store) -> None:
    store.release()
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")


async def test_a_full_store_refuses_writes_and_takes_them_again_later(
    path: Path,
) -> None:
    async with opened(path) as (journal, node):
        store = journal.store
        assert isinstance(store, Store)
        await journal.accept(run_of("r"))
        await journal.write(effect_of(FENCE, 1))
        writer = node.registry.whereis(WRITER)
        await trio.to_thread.run_sync(fill, store)
        big = '"' + "x" * 100_000 + '"'
        with pytest.raises(StoreFullError, match="is full; free room"):
            await journal.write(effect_of(FENCE, 2, big))
        await trio.to_thread.run_sync(empty, store)
        await journal.write(effect_of(FENCE, 3, big))
        assert [row.occurrence for row in await journal.effects("r")] == [1, 3]
        assert node.registry.whereis(WRITER) is writer


async def test_a_locked_store_is_waited_for_and_then_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.2)
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreLockedError) as caught:
                await journal.write(effect_of(FENCE))
            assert re.fullmatch(
                rf"store sqlite:///{path}: database is locked: another process held it "
                rf"for \d\.\d s; find the process that holds it \(fuser {path}\) and "
                "end its transaction",
                str(caught.value),
            )
            # Readers do not wait for writers.
            assert (await journal.run("r")).state == "running"
            other.execute("ROLLBACK")
        await journal.write(effect_of(FENCE))


async def test_a_write_behind_one_that_waits_for_a_lock_tells_of_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.4)
    monkeypatch.setattr(journals, "WRITE_SECONDS", 0.6)
    told: list[BaseException] = []

    async def write(occurrence: int) -> None:
        with pytest.raises(StoreError) as caught:
            await journal.write(effect_of(FENCE, occurrence))
        told.append(caught.value)

    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, 1)
                await trio.sleep(0.1)  # a commit is under way: this write is not in it
                nursery.start_soon(write, 2)
            other.execute("ROLLBACK")
    assert [type(error) for error in told] == [StoreLockedError] * 2
    assert "no answer to a write within 0.6 s: database is locked" in str(told[1])


async def test_a_write_that_waits_for_a_slow_disk_is_given_up_in_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "WRITE_SECONDS", 0.2)
    go_on = threading.Event()
    apply = Store.write

    def slow(store: Store, writes: Sequence[Write]) -> list[object]:
        go_on.wait(10)
        return apply(store, writes)

    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        monkeypatch.setattr(Store, "write", slow)
        with pytest.raises(StoreBusyError, match=r"within 0\.2 s; give the store time"):
            await journal.write(effect_of(FENCE, 1))
        go_on.set()
        await journal.write(effect_of(FENCE, 2))
        # Nobody waited for it any more; it was made all the same.
        assert [row.occurrence for row in await journal.effects("r")] == [1, 2]


async def test_a_store_that_may_not_be_written_says_so(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
    read_only = f"sqlite:///file:{path}?mode=ro&uri=true"
    async with opened(read_only) as (journal, _):
        assert (await journal.run("r")).state == "running"
        with pytest.raises(StoreReadOnlyError, match="make the file and its folder"):
            await journal.write(effect_of(FENCE))


GARBAGE = b"these are not the tables you are looking for" * 100


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


def contents(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def garbage(path: Path) -> Path:
    path.write_bytes(GARBAGE)
    return path


async def test_a_file_that_is_no_store_is_refused_and_left_alone(garbage: Path) -> None:
    with pytest.raises(StoreCorruptError, match="not a database; keep the file"):
        async with opened(garbage):
            pass
    assert contents(garbage) == GARBAGE


async def test_a_damaged_store_is_told_and_the_writer_lives(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
    damage(path)
    with pytest.raises(StoreCorruptError, match="malformed; keep the file"):
        async with opened(path) as (journal, _):
            await journal.run("r")


async def test_a_store_of_a_newer_dspex_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.commit()
    with pytest.raises(StoreVersionError, match="'9999', and this dspex knows up to"):
        async with opened(path):
            pass


async def test_a_database_of_somebody_else_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE run (distance int)")
        other.commit()
    with pytest.raises(StoreCorruptError, match="not those of a dspex store"):
        async with opened(path):
            pass


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("/nowhere/at/all/runs.db", "unable to open database file; check the path"),
        ("", "it has no name"),
        ("mysql://somebody@host/db", "neither a file nor postgresql"),
        ("sqlite://", "neither a file nor postgresql"),
        ("://", "neither a path nor a URL"),
    ],
)
async def test_a_store_that_cannot_be_opened_says_why(store: str, problem: str) -> None:
    with pytest.raises(StoreOpenError, match=problem):
        async with opened(store):
            pass


async def test_a_password_is_in_no_error() -> None:
    with pytest.raises(StoreError) as caught:
        async with opened("postgresql://me:secret@127.0.0.1:1/none"):
            pass
    assert "secret" not in str(caught.value)


async def test_many_processes_may_open_a_new_store_at_once(path: Path) -> None:
    async def open_it() -> None:
        async with opened(path) as (journal, _):
            await journal.runs()

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(open_it)


def other(beat: int, identity: WorkerIdentity | None = None) -> WorkerRow:
    return WorkerRow("o", beat, identity or WorkerIdentity("elsewhere", 1, "1"))


async def test_a_worker_is_dead_when_its_beat_stands_still_for_a_lease(
    autojump_clock: object,
) -> None:
    watch = Watch(10)
    assert watch.dead([other(1)]) == []
    await trio.sleep(9)
    assert watch.dead([other(1)]) == []
    assert watch.dead([other(2)]) == []
    await trio.sleep(9)
    assert watch.dead([other(2)]) == []
    await trio.sleep(2)
    assert watch.dead([other(2)]) == ["o"]


async def test_a_process_of_this_machine_that_is_gone_is_seen_at_once() -> None:
    me = this_process()
    assert not is_gone(me)
    gone = WorkerIdentity(me.host, me.pid, "another start")
    assert is_gone(gone)
    assert Watch(10).dead([other(1, gone)]) == ["o"]
    assert not is_gone(WorkerIdentity("elsewhere", me.pid, "another start"))
