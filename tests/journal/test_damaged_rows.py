"""One damaged row harms its own run; a file that is gone takes no further write."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from dspex.modules import Predict
from dspex.runtime.engine import Program, RunFailedError, Step
from dspex.runtime.engine.journaled import read_stored
from dspex.runtime.journal import (
    Fence,
    StoreMovedError,
    StoreOpenError,
    StoreRowError,
    WorkerIdentity,
)
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime
from tests.journal.conftest import effect_of, opened, run_of

ME = WorkerIdentity("here", 1, "boot")
PROGRAM = Program(
    name="p", steps={"s": Step(module=Predict.__name__, signature="q -> r")}
)


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(sql)
        other.commit()


def move(path: Path, to: Path, *, replaced: bool = False) -> None:
    path.replace(to)
    if replaced:
        path.write_bytes(b"")


def is_there(path: Path) -> bool:
    return path.exists()


async def test_a_damaged_run_fails_when_claimed_and_the_others_are_given(
    path: Path,
) -> None:
    async with opened(path) as (journal, _):
        await journal.register("w", ME)
        for n in range(3):
            await journal.accept(run_of(f"r{n}", None))
        change(path, "UPDATE run SET inputs = '{bad' WHERE id = 'r1'")
        claimed = await journal.claim("w", limit=10)
        assert [row.id for row in claimed] == ["r0", "r2"]
        with pytest.raises(StoreRowError, match="'inputs' of run 'r1' is damaged"):
            await journal.run("r1")
        (row,) = [row for row in await journal.runs() if row.id == "r1"]
        assert (row.state, row.owner, row.inputs) == ("failed", None, None)
        assert "StoreRowError" in str(row.error)
        assert [it.kind for it in await journal.events("r1")][-1] == "finished"


async def test_a_damaged_effect_or_program_is_told_by_row_and_column(
    path: Path,
) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.write(effect_of(Fence("r", "w", 1)))
        await journal.save_program("p", {"a": 1}, made_by="test")
        change(path, "UPDATE effect SET response = '{bad'")
        change(path, "UPDATE program SET body = '{bad'")
        with pytest.raises(StoreRowError, match=r"'effect.response' of run 'r'"):
            await journal.effects("r")
        with pytest.raises(StoreRowError, match="'body' of version 1 of program 'p'"):
            await journal.save_program("p", {"a": 2}, made_by="test")


async def test_a_run_is_resumed_without_a_look_at_its_requests(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        for n in range(2):
            await journal.write(effect_of(Fence("r", "w", 1), n))
        change(path, "UPDATE effect SET request = '{bad'")
        stored = await read_stored(journal, "r")
        assert stored == {("s", "fp", 0): "r", ("s", "fp", 1): "r"}
        change(path, "UPDATE effect SET response = '{bad'")
        with pytest.raises(StoreRowError, match=r"'effect.response' of run 'r'"):
            await read_stored(journal, "r")


@pytest.mark.parametrize(
    "damage", ["run SET inputs = '{bad'", "effect SET response = '{bad'"]
)
async def test_a_runtime_goes_on_beside_a_damaged_run(path: Path, damage: str) -> None:
    lm = ScriptedLM(lambda _: '{"r": "x"}')
    async with open_runtime(lm, store=path) as rt:
        bad = (await rt.run_inputs(PROGRAM, {"q": "a"})).id
    change(path, f"UPDATE {damage}")
    change(path, "UPDATE run SET state = 'pending', outputs = NULL")
    with trio.fail_after(20):
        async with open_runtime(lm, store=path) as rt:
            assert (await rt.run_inputs(PROGRAM, {"q": "b"})).status == "succeeded"
            try:
                ended = await rt.result(bad, timeout=5)
            except StoreRowError:
                assert damage.startswith("run")
            else:
                assert ended.status == "failed"
                assert isinstance(ended.error, StoreRowError | RunFailedError)
                assert "is damaged" in str(ended.error)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_store_whose_file_is_gone_accepts_nothing(
    path: Path, *, replaced: bool
) -> None:
    kept = path.with_name("kept.db")
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r0"))
        move(path, kept, replaced=replaced)
        for _ in range(2):
            with pytest.raises(StoreMovedError, match="while it was open"):
                await journal.accept(run_of("r1"))
        assert is_there(path) is replaced
        move(kept, path)
        await journal.accept(run_of("r2"))
        assert {row.id for row in await journal.runs()} == {"r0", "r2"}


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("a\0b", "it has a NUL"),
        ("x\ud800.db", "it has a lone surrogate"),
        (":memory:", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("file:x?mode=memory", "must be a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "must be a file"),
    ],
)
async def test_a_store_must_have_the_name_of_a_file(store: str, problem: str) -> None:
    with pytest.raises(StoreOpenError, match=problem):
        async with opened(store):
            pass
