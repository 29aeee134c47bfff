"""The journal: what is acknowledged is on disk, and each run has one owner."""

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec import structs

from dspex.runtime.journal import (
    UNFINISHED,
    WRITER,
    Bodies,
    Fence,
    FinishRun,
    JournalWriter,
    LeaseLostError,
    RunCancelledError,
    RunNotFoundError,
    VersionNotFoundError,
    WorkerIdentity,
)
from dspex.runtime.journal.writes import Write
from tests.journal.conftest import effect_of, opened, run_of

FENCE = Fence("r", "w", 1)
ME = WorkerIdentity("here", 1, "boot")


def finish(fence: Fence = FENCE, *, bodies: Bodies = "keep") -> FinishRun:
    return FinishRun(fence, "succeeded", '{"b": 2}', None, "[]", 3.0, bodies=bodies)


async def test_an_answer_means_that_another_connection_can_read_it(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.write(effect_of(FENCE))
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT id, state FROM run").fetchall() == [
                ("r", "running")
            ]
            assert other.execute("SELECT response FROM effect").fetchall() == [('"r"',)]
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_writes_of_many_callers_share_commits(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        batches: list[int] = []
        write = journal.store.write

        def counted(writes: Sequence[Write]) -> list[object]:
            batches.append(len(writes))
            return write(writes)

        journal.store.write = counted  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(journal.write, effect_of(FENCE, n))
        assert sum(batches) == 100
        assert len(batches) <= 5
        assert len(await journal.effects("r")) == 100


async def test_a_run_accepted_for_a_worker_that_was_buried_is_pending(
    path: Path,
) -> None:
    async with opened(path) as (journal, _):
        await journal.register("w", ME)
        late = [msgspec.structs.replace(run_of(it), is_worker=True) for it in "rs"]
        assert await journal.accept(late[0])
        await journal.bury(["w"])
        assert await journal.accept(late[1])
        # Asked for again by a writer that died: it is the same write.
        assert await journal.accept(late[1])
        await journal.register("w2", ME)
        assert [it.id for it in await journal.claim("w2", limit=5)] == ["r", "s"]


async def test_a_killed_writer_loses_no_acknowledged_write(path: Path) -> None:
    acknowledged: set[int] = set()

    async with opened(path) as (journal, node):
        await journal.accept(run_of("r"))

        async def keep_writing(start: int) -> None:
            for n in range(start, start + 20):
                await journal.write(effect_of(FENCE, n))
                acknowledged.add(n)

        async with trio.open_nursery() as nursery:
            for start in range(0, 200, 20):
                nursery.start_soon(keep_writing, start)
            for _ in range(5):
                ref = await node.registry.wait_for(WRITER)
                ref.exit("killed by the test")
                await trio.sleep(0.01)
        assert acknowledged == set(range(200))
        kept = {row.occurrence for row in await journal.effects("r")}
        assert kept == acknowledged


async def test_an_effect_written_twice_is_there_once(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.write(effect_of(FENCE, response='"first"'))
        await journal.write(effect_of(FENCE, response='"second"'))
        assert [row.response for row in await journal.effects("r")] == ["first"]


@pytest.mark.parametrize(
    "fence", [Fence("r", "w", 2), Fence("r", "other", 1), Fence("r", "w", 0)]
)
async def test_who_does_not_hold_the_run_cannot_write(path: Path, fence: Fence) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        with pytest.raises(LeaseLostError, match=r"'r' .*another worker"):
            await journal.write(effect_of(fence))
        with pytest.raises(LeaseLostError):
            await journal.write(finish(fence))
        assert await journal.effects("r") == []
        assert (await journal.run("r")).state == "running"


async def test_a_claim_raises_the_epoch_and_refuses_the_old_owner(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        assert await journal.bury(["w"]) == 1
        assert await journal.claim("w2", limit=10) == []
        await journal.register("w2", ME)
        (claimed,) = await journal.claim("w2", limit=10)
        assert (claimed.owner, claimed.epoch, claimed.state) == ("w2", 2, "running")
        with pytest.raises(LeaseLostError):
            await journal.write(effect_of(FENCE))
        await journal.write(effect_of(Fence("r", "w2", 2)))


async def test_claims_are_oldest_first_and_give_each_run_once(path: Path) -> None:
    async with opened(path) as (journal, _):
        for n in range(10):
            await journal.accept(run_of(f"r{n}", None, at=10.0 - n))
        claimed: list[str] = []

        async def claim(owner: str) -> None:
            await journal.register(owner, ME)
            claimed.extend(row.id for row in await journal.claim(owner, limit=4))

        await claim("a")
        assert claimed == ["r9", "r8", "r7", "r6"]
        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(claim, f"w{n}")
        assert sorted(claimed) == [f"r{n}" for n in range(10)]


async def test_a_cancelled_run_is_told_to_its_owner_at_the_next_write(
    path: Path,
) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        assert await journal.cancel("r") == "cancelled"
        with pytest.raises(RunCancelledError, match="'r' was cancelled"):
            await journal.write(effect_of(FENCE))
        assert await journal.cancel("r") == "cancelled"
        assert await journal.cancel("unknown") is None


async def test_a_finished_run_stays_as_it_ended(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.write(finish())
        await journal.write(finish())
        assert await journal.cancel("r") == "succeeded"
        row = await journal.run("r")
        assert (row.state, row.outputs, row.owner) == ("succeeded", {"b": 2}, None)
        assert await journal.runs(states=UNFINISHED) == []


async def test_bodies_can_be_dropped_when_a_run_ends(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.write(effect_of(FENCE))
        await journal.write(finish(bodies="drop"))
        (row,) = await journal.effects("r")
        assert (row.request, row.response, row.seconds) == (None, None, 0.1)


async def test_bodies_can_be_hashed_when_a_run_ends(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        for n in range(2):
            await journal.write(effect_of(FENCE, n, f'"answer {n}"'))
        await journal.write(finish(bodies="hash"))
        first, second = await journal.effects("r")
        assert first.request == {"sha256": sha256(b'{"q": 1}').hexdigest()}
        assert first.response == {"sha256": sha256(b'"answer 0"').hexdigest()}
        assert second.response == {"sha256": sha256(b'"answer 1"').hexdigest()}


async def test_one_bad_write_of_a_batch_does_not_hurt_the_others(path: Path) -> None:
    async with opened(path) as (journal, node):
        await journal.accept(run_of("r"))
        nothing: Any = None
        bad = structs.replace(effect_of(FENCE, 7), path=nothing)
        failed: list[str] = []

        async def write_bad() -> None:
            try:
                await journal.write(bad)
            except Exception as error:  # noqa: BLE001 - its class is the claim
                failed.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_bad)
            for n in range(5):
                nursery.start_soon(journal.write, effect_of(FENCE, n))
        assert failed == ["StoreError"]
        assert len(await journal.effects("r")) == 5
        ref = node.registry.whereis(WRITER)
        assert ref is not None
        assert isinstance(ref.port.actor, JournalWriter)


async def test_a_beat_tells_of_others_of_lost_runs_and_of_being_unknown(
    path: Path,
) -> None:
    async with opened(path) as (journal, _):
        await journal.register("w", ME)
        await journal.register("v", ME)
        await journal.accept(run_of("r"))
        beat = await journal.beat("w", ["r", "gone"])
        assert beat.is_known
        assert [(other.id, other.beat) for other in beat.others] == [("v", 0)]
        assert beat.lost == {"gone"}
        assert not beat.has_pending
        assert await journal.bury(["w"]) == 1
        assert not (await journal.beat("w", ["r"])).is_known
        assert (await journal.beat("v", [])).has_pending


async def test_programs_are_immutable_versions_with_a_parent(path: Path) -> None:
    async with opened(path) as (journal, _):
        first = await journal.save_program("p", {"a": 1, "b": 2}, made_by="hand")
        again = await journal.save_program("p", {"b": 2, "a": 1}, made_by="other")
        assert again == first
        second = await journal.save_program(
            "p", {"a": 3}, made_by="optimizer", scores={"accuracy": 0.5}
        )
        assert (second.version, second.parent) == (2, 1)
        assert second.scores == {"accuracy": 0.5}
        back = await journal.save_program("p", {"a": 1, "b": 2}, always_new=True)
        assert (back.version, back.parent) == (3, 2)
        assert await journal.program("p") == back
        assert await journal.program("p", 1) == first
        assert [v.version for v in await journal.programs("p")] == [1, 2, 3]
        with pytest.raises(VersionNotFoundError, match="'p' in version 9"):
            await journal.program("p", 9)


async def test_pruning_forgets_old_finished_runs_and_nothing_else(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.accept(run_of("live"))
        await journal.write(effect_of(FENCE))
        await journal.write(finish())
        assert await journal.prune(older_than=10.0) == 1
        with pytest.raises(RunNotFoundError):
            await journal.run("r")
        assert await journal.effects("r") == []
        assert (await journal.run("live")).state == "running"


async def test_pruning_many_runs_takes_many_commits(path: Path) -> None:
    async with opened(path) as (journal, _):
        runs = [str(n) for n in range(450)]
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(journal.accept, run_of(run))
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(journal.write, finish(Fence(run, "w", 1)))
        answers: list[object] = []
        write = journal.store.write

        def noted(writes: Sequence[Write]) -> list[object]:
            answers.extend(found := write(writes))
            return found

        journal.store.write = noted  # type: ignore[method-assign]
        assert await journal.prune(older_than=10.0) == 450
        assert answers == [200, 200, 50]
        assert await journal.runs() == []


async def test_pages_of_runs_give_each_once_newest_first(path: Path) -> None:
    async with opened(path) as (journal, _):
        for run, at in (("b", 1.0), ("a", 2.0), ("d", 2.0), ("c", 2.0), ("e", 3.0)):
            await journal.accept(run_of(run, at=at))
        found: list[str] = []
        last: tuple[float, str] | None = None
        while page := await journal.runs(before=last, limit=2):
            found += [row.id for row in page]
            # Without bodies it is the same page.
            listed = await journal.summaries(before=last, limit=2)
            assert [it.id for it in listed] == [row.id for row in page]
            last = (page[-1].accepted_at, page[-1].id)
        assert found == ["e", "a", "c", "d", "b"]


async def test_a_write_that_was_made_is_let_go_of(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        write = effect_of(FENCE)
        references = sys.getrefcount(write)
        await journal.write(write)
        # Its answer stays with the timers until its deadline.
        assert sys.getrefcount(write) == references


async def test_what_was_written_is_there_after_the_store_was_closed(path: Path) -> None:
    async with opened(path) as (journal, _):
        await journal.accept(run_of("r"))
        await journal.write(effect_of(FENCE))
    async with opened(path) as (journal, _):
        assert (await journal.run("r")).inputs == {"a": 1}
        assert len(await journal.effects("r")) == 1
