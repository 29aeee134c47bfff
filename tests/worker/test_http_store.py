"""The worker's HTTP API with a store: what is shown, and what its faults become."""

import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from dspex.providers import Request
from dspex.runtime.journal import connect
from tests.integration.dspex_command import eventually
from tests.worker.test_http_api import INPUTS, RUNS, open_worker


@pytest.fixture(params=["memory", "store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "runs.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_a_cancelled_run_shows_how_far_it_was_and_is_counted(
    store: Path | None,
) -> None:
    async with open_worker(delay=60, store=store) as worker:
        run = await worker.run()
        runtime = worker.service.runtime
        assert await eventually(lambda: len(runtime.in_flight) == 1, seconds=5)
        running = (await worker.ask("GET", f"/v1/runs/{run}")).json
        assert [it["state"] for it in running["steps"]] == ["running"]
        await worker.ask("POST", f"/v1/runs/{run}/cancel")
        shown = (await worker.ask("GET", f"/v1/runs/{run}")).json
        assert [it["state"] for it in shown["steps"]] == ["cancelled"]
        assert shown["error"] == f"run {run!r} was cancelled"
        text = (await worker.ask("GET", "/metrics")).text
        assert 'dspex_runs{status="cancelled"} 1.0' in text
        assert 'dspex_runs{status="running"} 0.0' in text


async def test_a_failed_run_tells_its_error_in_words_and_is_counted(
    store: Path | None,
) -> None:
    def fail(request: Request) -> str:
        raise RuntimeError("no model today")

    async with open_worker(answer=fail, store=store) as worker:
        shown = (await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)).json
        assert shown["status"] == "failed"
        assert shown["error"].startswith("step 'classify' failed: ")
        text = (await worker.ask("GET", "/metrics")).text
        assert 'dspex_runs{status="failed"} 1.0' in text


@pytest.mark.parametrize("ends", ["succeeded", "failed", "cancelled"])
async def test_the_times_of_a_run_are_the_same_wherever_they_are_shown(
    store: Path | None, ends: str
) -> None:
    def answer(request: Request) -> str:
        if ends == "failed":
            raise RuntimeError("no model today")
        return '{"category": "billing", "reply": "ok"}'

    delay = 60 if ends == "cancelled" else 0
    async with open_worker(answer=answer, delay=delay, store=store) as worker:
        run = await worker.run()
        if ends == "cancelled":
            runtime = worker.service.runtime
            assert await eventually(lambda: len(runtime.in_flight) == 1, seconds=5)
            await worker.ask("POST", f"/v1/runs/{run}/cancel")
        shown = (await worker.ask("GET", f"/v1/runs/{run}?wait=5")).json
        (listed,) = (await worker.ask("GET", "/v1/runs")).json["runs"]
        assert shown["status"] == ends
        for name in ("accepted_at", "finished_at"):
            assert shown[name] == listed[name]


async def test_the_beginning_of_an_id_is_enough_where_one_run_has_it(
    store: Path | None,
) -> None:
    async with open_worker(store=store) as worker:
        ended = [await worker.ask("POST", f"{RUNS}?wait=5", INPUTS) for _ in range(17)]
        runs = [str(reply.json["run_id"]) for reply in ended]
        shared = Counter(run[0] for run in runs).most_common(1)[0][0]
        reply = await worker.ask("GET", f"/v1/runs/{shared}")
        assert reply.status == 404
        assert reply.json["error"] == (
            f"several runs begin with {shared!r}: write more of the id"
        )
        for path in ("", "/events"):
            reply = await worker.ask("GET", f"/v1/runs/{runs[0][:12]}{path}")
            assert reply.status == 200
            assert runs[0] in reply.text


async def test_a_store_that_is_locked_is_a_503_to_be_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.1)
    async with open_worker(store=file) as worker:
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN IMMEDIATE")
            reply = await worker.ask("POST", RUNS, INPUTS)
            other.execute("ROLLBACK")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "database is locked" in reply.json["error"]
        assert (await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)).status == 200


async def test_a_store_that_is_gone_is_a_503_and_a_damaged_row_a_500(
    file: Path,
) -> None:
    async with open_worker(store=file) as worker:
        await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        with closing(sqlite3.connect(file)) as other:
            other.execute(
                "INSERT INTO run (id, program, version, state, inputs, options, epoch,"
                " accepted_at)"
                " VALUES ('damaged', 'triage', 1, 'failed', '{', '{}', 0, 0)"
            )
            other.commit()
        reply = await worker.ask("GET", "/v1/runs/damaged")
        assert reply.status == 500
        assert "column 'inputs' of run 'damaged' is damaged" in reply.json["error"]
        os.rename(file, f"{file}.moved")
        for method, path in (("GET", "/v1/runs"), ("POST", RUNS)):
            reply = await worker.ask(method, path, INPUTS)
            assert reply.status == 503
            assert "was deleted while it was open" in reply.json["error"]
            assert "retry-after" not in reply.headers


async def test_a_worker_with_a_store_is_ready_however_many_runs_it_has(
    file: Path,
) -> None:
    async with open_worker(delay=60, store=file, max_runs=1) as worker:
        await worker.run()
        table = worker.service.runtime.table
        assert await eventually(lambda: table.is_full, seconds=5)
        assert (await worker.ask("GET", "/readyz")).json == {"status": "ready"}
        await worker.run()
