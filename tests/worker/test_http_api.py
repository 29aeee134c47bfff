"""The worker's HTTP API, over real sockets."""

import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from hypercorn.config import Config

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")

from dspex import App, Program, Step
from dspex.providers import Request
from dspex.testing import ScriptedLM
from dspex.worker import serve
from dspex.worker.application import open_app
from dspex.worker.serve import bind, listen, make_service
from dspex.worker.service import Service
from dspex.worker.settings import WorkerSettings
from tests.integration.dspex_command import eventually
from tests.integration.http_client import Reply, ask, head, open_request, parse

TOKEN = "a-very-long-and-secret-token"
RUNS = "/v1/programs/triage/runs"
INPUTS = {"inputs": {"ticket": "My invoice is wrong"}}


def triage() -> Program:
    step = Step(module="Predict", signature="ticket -> category")
    return Program(name="triage", steps={"classify": step})


def rule(request: Request) -> str:
    return json.dumps({"category": "billing"})


@dataclass
class Worker:
    service: Service
    port: int

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await ask(self.port, method, path, body, headers=named)

    async def run(self) -> str:
        """Have a run accepted and give its id."""
        reply = await self.ask("POST", RUNS, INPUTS)
        assert reply.status == 202
        return str(reply.json["run_id"])


@asynccontextmanager
async def open_worker(
    *,
    delay: float = 0.0,
    answer: Callable[[Request], str] = rule,
    store: Path | None = None,
    app: App | None = None,
    **settings: Any,
) -> AsyncGenerator[Worker]:
    wanted = WorkerSettings(port=0, **settings)
    if app is None:
        app = App(triage(), lm=ScriptedLM(answer, delay=delay))
    async with open_app(app, store=store, max_runs=wanted.max_runs) as runtime:
        service = make_service(runtime, wanted)
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(listen, service, bind(wanted))
            yield Worker(service, int(url.rpartition(":")[2]))
            service.closing.set()


@pytest.mark.parametrize("path", [RUNS, "/login"])
async def test_a_body_that_never_ends_is_given_up(path: str) -> None:
    async with open_worker(body_timeout=0.2) as worker:
        part = head("POST", path, b'{"inputs"', {"content-length": "100"})
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", worker.port) as stream:
                await stream.send_all(part)
                raw = b"".join([chunk async for chunk in stream])
        reply = parse(raw)
        assert reply.status == 408
        assert reply.json == {"error": "the body did not arrive in 0.2 s"}
        assert (await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)).status == 200


@pytest.mark.parametrize("smuggled", [b"", head("GET", "/healthz", b"", {})])
async def test_a_body_whose_length_is_told_twice_is_refused_and_ends_it(
    smuggled: bytes,
) -> None:
    async with open_worker() as worker:
        twice = {"connection": "keep-alive", "transfer-encoding": "chunked"}
        asked = head("POST", RUNS, b"", twice) + b"0\r\n\r\n" + smuggled
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", worker.port) as stream:
                await stream.send_all(asked)
                raw = b"".join([chunk async for chunk in stream])
        assert b"HTTP/1.1 200" not in raw
        # Who sends more than it may may find the connection closed before the answer.
        assert smuggled or parse(raw).status == 400


async def test_a_client_that_reads_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "_UNREAD_SECONDS", 0.3)
    async with open_worker() as worker:
        text = {"inputs": {"ticket": "x" * 900_000}}
        run = (await worker.ask("POST", f"{RUNS}?wait=5", text)).json["run_id"]
        asked = head("GET", f"/v1/runs/{run}", b"", {"connection": "keep-alive"})
        before = living()
        with socket.create_connection(("127.0.0.1", worker.port)) as client:
            client.sendall(asked * 50)  # more than the sockets hold
            assert await eventually(lambda: living() > before, seconds=5)
            assert await eventually(lambda: living() <= before, seconds=10)


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_a_run_that_is_waited_for_longer_than_a_body_is_answered() -> None:
    async with open_worker(body_timeout=0.2, delay=0.5) as worker:
        reply = await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        assert reply.json["status"] == "succeeded"


async def test_a_run_is_accepted_at_once_and_followed_to_its_end() -> None:
    async with open_worker(delay=0.1) as worker:
        accepted = await worker.ask("POST", RUNS, INPUTS)
        assert accepted.status == 202
        run = accepted.json["run_id"]
        assert accepted.headers["location"] == f"/v1/runs/{run}"
        assert accepted.json["status"] in ("pending", "running")
        done = await worker.ask("GET", f"/v1/runs/{run}?wait=5")
        assert done.json["status"] == "succeeded"
        assert done.json["outputs"] == {"category": "billing"}
        assert done.json["steps"][0]["name"] == "classify"


async def test_a_client_that_asks_on_after_connection_close_is_no_failed_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Config, "keep_alive_max_requests", 1)
    asked = head("GET", "/healthz", b"", {"connection": "keep-alive"})

    def ask_on() -> None:  # in a thread: it asks again while the worker still writes
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", worker.port)) as client:
                answer = b""
                while b"connection: close" not in answer.lower():
                    client.sendall(asked)
                    answer = b""
                    while not answer.endswith(b"}"):
                        answer += client.recv(65_536)
                with suppress(OSError):
                    client.sendall(asked)
                    assert client.recv(65_536) == b""

    with structlog.testing.capture_logs() as logs:
        async with (
            open_worker(rate_per_minute=1e9) as worker,
            trio.open_nursery() as nursery,
        ):
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, ask_on)
    assert [it for it in logs if it["log_level"] == "error"] == []


async def test_wait_gives_the_result_in_one_request() -> None:
    async with open_worker() as worker:
        done = await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        assert (done.status, done.json["status"]) == (200, "succeeded")


async def test_an_output_without_json_form_is_a_failed_run_not_a_500() -> None:
    async with open_worker(answer=lambda _: r'{"category": "x\ud800"}') as worker:
        done = await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        assert (done.status, done.json["status"]) == (200, "failed")
        assert "StepOutputError: output 'category'" in done.json["error"]
        again = await worker.ask("GET", f"/v1/runs/{done.json['run_id']}")
        assert again.json["error"] == done.json["error"]


async def test_wait_that_is_over_gives_202() -> None:
    async with open_worker(delay=60) as worker:
        late = await worker.ask("POST", f"{RUNS}?wait=0.05", INPUTS)
        assert (late.status, late.json["status"]) == (202, "running")


async def test_an_idempotency_key_gives_the_same_run_again() -> None:
    async with open_worker() as worker:
        first = await worker.ask("POST", f"{RUNS}?wait=5", INPUTS, idempotency_key="k1")
        again = await worker.ask("POST", f"{RUNS}?wait=5", INPUTS, idempotency_key="k1")
        other = {"inputs": {"ticket": "Another one"}}
        clash = await worker.ask("POST", RUNS, other, idempotency_key="k1")
        assert again.json == first.json
        assert clash.status == 409
        assert "k1" in clash.json["error"]
        assert len((await worker.ask("GET", "/v1/runs")).json["runs"]) == 1


async def test_events_come_as_they_happen_and_go_on_after_the_last_id() -> None:
    async with open_worker() as worker:
        run = await worker.run()
        whole = await worker.ask("GET", f"/v1/runs/{run}/events")
        assert whole.headers["content-type"] == "text/event-stream"
        kinds = [line[7:] for line in whole.text.splitlines() if line[:6] == "event:"]
        assert kinds == [
            "accepted", "started", "step_started", "call_finished",
            "step_finished", "finished",
        ]  # fmt: skip
        rest = await worker.ask("GET", f"/v1/runs/{run}/events", last_event_id="4")
        ids = [line for line in rest.text.splitlines() if line.startswith("id:")]
        assert ids == ["id: 5", "id: 6"]


async def test_a_run_can_be_cancelled() -> None:
    async with open_worker(delay=60) as worker:
        run = await worker.run()
        cancelled = await worker.ask("POST", f"/v1/runs/{run}/cancel")
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        again = await worker.ask("POST", f"/v1/runs/{run}/cancel")
        assert again.json["status"] == "cancelled"


async def test_runs_are_listed_newest_first_by_status_and_page() -> None:
    async with open_worker() as worker:
        ids = [await worker.run() for _ in range(3)]
        await worker.ask("GET", f"/v1/runs/{ids[-1]}?wait=5")
        listed = (await worker.ask("GET", "/v1/runs")).json["runs"]
        assert [it["run_id"] for it in listed] == ids[::-1]
        page = (await worker.ask("GET", f"/v1/runs?before={ids[2]}&limit=1")).json
        assert [it["run_id"] for it in page["runs"]] == [ids[1]]
        none = (await worker.ask("GET", "/v1/runs?status=failed")).json["runs"]
        assert none == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/v1/programs/other/runs", INPUTS, 404, "loaded are: triage"),
        ("POST", RUNS, {"inputs": {}}, 422, "'ticket'"),
        ("POST", RUNS, {"inputs": {"ticket": 1}}, 422, "'ticket'"),
        ("POST", RUNS, {"inputs": {"ticket": "x", "more": 1}}, 422, "'more'"),
        ("POST", RUNS, {"input": {}}, 422, "inputs"),
        ("POST", RUNS, [], 422, "object"),
        ("POST", f"{RUNS}?wait=soon", INPUTS, 422, "wait='soon'"),
        ("GET", "/v1/runs/nope", None, 404, "nope"),
        ("GET", "/v1/runs/nope/events", None, 404, "nope"),
        ("POST", "/v1/runs/nope/cancel", None, 404, "nope"),
        ("GET", "/v1/runs?status=lost", None, 422, "status"),
        ("GET", "/nowhere", None, 404, "not found"),
        ("DELETE", "/v1/runs", None, 405, "not allowed"),
    ],
)
async def test_a_bad_request_gets_a_clear_answer(
    method: str, path: str, body: object, status: int, said: str
) -> None:
    async with open_worker() as worker:
        reply = await worker.ask(method, path, body)
        assert reply.status == status
        assert said in reply.json["error"]
        assert "Traceback" not in reply.text


async def test_a_body_that_is_no_json_or_too_long_is_refused() -> None:
    async with open_worker(max_body_bytes=1_000) as worker:
        bad = f"POST {RUNS} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        json_type = b"content-type: application/json\r\n"
        cases = {
            b"content-length: 3\r\n\r\n{ab": 415,
            json_type + b"content-length: 3\r\n\r\n{ab": 400,
            json_type + b"content-length: 2000\r\n\r\n": 413,
            json_type
            + b"transfer-encoding: chunked\r\n\r\n7d0\r\n"
            + b"x" * 2_000
            + b"\r\n0\r\n\r\n": 413,
        }
        for rest, status in cases.items():
            async with await trio.open_tcp_stream("127.0.0.1", worker.port) as stream:
                await stream.send_all(bad.encode() + rest)
                with trio.fail_after(5):
                    assert parse(await stream.receive_some(65_536)).status == status


async def test_a_full_worker_says_when_to_come_back() -> None:
    async with open_worker(delay=60, max_runs=2) as worker:
        await worker.run()
        assert (await worker.ask("GET", "/readyz")).status == 200
        await worker.run()
        full = await worker.ask("POST", RUNS, INPUTS)
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        assert (await worker.ask("GET", "/readyz")).json == {"status": "full"}


async def test_too_many_requests_get_429() -> None:
    replies: list[Reply] = []
    async with open_worker(rate_per_minute=1) as worker:  # ten at once

        async def look() -> None:
            replies.append(await worker.ask("GET", "/v1/runs"))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(look)
    assert sorted(it.status for it in replies) == [*[200] * 10, 429, 429]
    assert all("retry-after" in it.headers for it in replies if it.status == 429)


async def test_only_who_has_the_token_comes_in() -> None:
    async with open_worker(token=TOKEN) as worker:
        assert (await worker.ask("GET", "/healthz")).status == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": TOKEN},
        ):
            refused = await worker.ask("GET", "/v1/runs", None, **headers)
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        good = await worker.ask("GET", "/v1/runs", authorization=f"Bearer {TOKEN}")
        assert good.status == 200


async def test_pages_of_other_origins_cannot_drive_a_worker_on_loopback() -> None:
    async with open_worker() as worker:
        evil = await worker.ask("POST", RUNS, INPUTS, origin="http://evil.example")
        assert evil.status == 403
        cross = await worker.ask("POST", RUNS, INPUTS, sec_fetch_site="cross-site")
        assert cross.status == 403
        rebound = await worker.ask("GET", "/v1/runs", host="evil.example")
        assert rebound.status == 421
        own = await worker.ask(
            "POST", RUNS, INPUTS, origin=f"http://127.0.0.1:{worker.port}",
            host=f"127.0.0.1:{worker.port}",
        )  # fmt: skip
        assert own.status == 202


async def test_streams_beyond_the_limit_are_refused_and_places_are_given_back() -> None:
    async with open_worker(delay=60, max_streams=1) as worker:
        run = await worker.run()
        path = f"/v1/runs/{run}/events"
        async with open_request(worker.port, "GET", path) as stream:
            assert b"200" in await stream.receive_some(1_000)
            assert (await worker.ask("GET", path)).status == 503
        with trio.fail_after(5):
            while worker.service.open_streams:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_metrics_health_and_the_description_of_the_api() -> None:
    async with open_worker() as worker:
        await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        metrics = (await worker.ask("GET", "/metrics")).text
        assert 'dspex_runs{status="succeeded"} 1.0' in metrics
        assert "dspex_runs_accepted_total 1.0" in metrics
        assert 'dspex_tokens_total{kind="output"} 2.0' in metrics
        described = (await worker.ask("GET", "/openapi.json")).json
        body = described["paths"][RUNS]["post"]["requestBody"]["content"]
        inputs = body["application/json"]["schema"]["properties"]["inputs"]
        assert inputs["properties"] == {"ticket": {"type": "string"}}
        shown = (await worker.ask("GET", "/v1/programs/triage")).json
        assert shown["steps"][0]["module"] == "Predict"


async def test_a_worker_that_drains_accepts_no_run() -> None:
    async with open_worker() as worker:
        worker.service.is_draining = True
        refused = await worker.ask("POST", RUNS, INPUTS)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert (await worker.ask("GET", "/readyz")).status == 503
        assert (await worker.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("has_store", [False, True])
async def test_who_waits_for_a_run_when_the_worker_ends_is_told_how_far_it_is(
    tmp_path: Path, has_store: bool
) -> None:
    store = tmp_path / "runs.db" if has_store else None
    async with open_worker(delay=60, store=store) as worker:

        async def end() -> None:
            assert await eventually(lambda: bool(worker.service.waits), seconds=5)
            worker.service.closing.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            with trio.fail_after(5):
                told = await worker.ask("POST", f"{RUNS}?wait=50", INPUTS)
        assert told.status == 202
        assert told.json["run_id"]
        assert not worker.service.waits
