"""The observer page in a real browser, and without its script."""

import os
from pathlib import Path

import pytest
import trio

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")
pytest.importorskip("jinja2")

from dspex import App, ChildSpec, Program, Step
from dspex.providers import Breaker, Limits, ProviderTimeoutError, RateLimiter
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app
from dspex.worker.serve import bind, listen, make_service
from dspex.worker.settings import WorkerSettings
from tests.integration.browser import CHROMIUM, open_browser
from tests.integration.dspex_command import dspex
from tests.integration.http_client import Reply, ask, parse
from tests.worker.test_http_api import INPUTS, RUNS, TOKEN, open_worker

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)


@needs_chromium
async def test_the_page_shows_a_restart_a_waterfall_and_obeys_its_buttons(
    tmp_path: Path,
) -> None:
    shots = Path(os.environ.get("DSPEX_SCREENSHOTS", tmp_path))
    async with open_worker(delay=0.05) as worker, open_browser(tmp_path) as page:
        done = await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        run = done.json["run_id"]
        await page.look(dark=False, width=1100, height=1000)
        await page.goto(f"http://127.0.0.1:{worker.port}/")
        await page.until("document.querySelector('#connection').textContent == 'live'")
        tree = "document.querySelector('#tree').textContent"
        await page.until(f"{tree}.includes('triage/classify')")

        crash = worker.service.runtime.node.registry.whereis("triage/classify")
        assert crash is not None
        crash.exit("seen by the browser")
        deaths = "document.querySelector('#deaths').textContent"
        await page.until(f"{deaths}.includes('seen by the browser')")

        restart = "button[aria-label='restart triage/classify']"
        await page.press(restart)
        await page.until(f"{deaths}.includes('restarted by the operator')")
        await page.until(f"document.querySelector({restart!r})")
        await page.screenshot(shots / "observer-light.png")
        await page.look(dark=True, width=1100, height=1000)
        await page.screenshot(shots / "observer-dark.png")
        await page.look(dark=True, width=390, height=800)
        await page.screenshot(shots / "observer-phone.png")
        wider = "document.documentElement.scrollWidth > window.innerWidth"
        assert not await page.evaluate(wider)

        await page.press(f"#run-{run}")
        await page.until("document.querySelector('.waterfall rect.live')")
        text = await page.evaluate("document.body.textContent")
        assert "My invoice is wrong" in text
        assert '{"category": "billing"}' in text
        await page.look(dark=False, width=1100, height=800)
        await page.evaluate("document.querySelector('details').open = true")
        await page.screenshot(shots / "observer-run.png")

        assert page.problems == []
        own = ("http://127.0.0.1", "data:")
        outside = [url for url in page.urls if not url.startswith(own)]
        assert outside == []


async def test_the_page_is_whole_without_its_script() -> None:
    async with open_worker() as worker:
        await worker.ask("POST", f"{RUNS}?wait=5", INPUTS)
        page = await worker.ask("GET", "/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for part in ("triage/classify", "succeeded", "one_for_one", "kill runs"):
            assert part in page.text


async def test_buttons_suspend_resume_and_kill_and_name_what_is_gone() -> None:
    async with open_worker() as worker:
        registry = worker.service.runtime.node.registry
        ref = registry.whereis("triage/classify")
        assert ref is not None
        path = f"/observer/actors/{ref.id}"
        assert (await worker.ask("POST", f"{path}/suspend")).status == 303
        assert ref.state == "suspended"
        assert (await worker.ask("POST", f"{path}/resume")).status == 303
        assert ref.state == "running"
        evil = await worker.ask("POST", f"{path}/kill", origin="http://evil.example")
        assert (evil.status, ref.is_alive) == (403, True)
        assert (await worker.ask("POST", f"{path}/kill")).status == 303
        with trio.fail_after(5):
            assert await ref.wait_exit() == "killed"
        assert (await worker.ask("POST", f"{path}/kill")).status == 404
        assert (await worker.ask("POST", f"{path}/tickle")).status == 404


async def test_a_browser_shows_the_token_once_and_then_its_session() -> None:
    async with open_worker(token=TOKEN) as worker:
        asked = await worker.ask("GET", "/")
        assert (asked.status, asked.headers["location"]) == (303, "/login")
        assert "password" in (await worker.ask("GET", "/login")).text
        wrong = await post_form(worker.port, "token=wrong")
        assert wrong.status == 401
        right = await post_form(worker.port, f"token={TOKEN}")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        session = cookie.partition(";")[0]
        assert (await worker.ask("GET", "/", cookie=session)).status == 200
        assert (await worker.ask("GET", "/", cookie="dspex_session=x")).status == 303


async def post_form(port: int, body: str) -> Reply:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            f"POST /login HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n"
            f"content-type: application/x-www-form-urlencoded\r\n\r\n{body}".encode()
        )
        raw = b""
        while chunk := await stream.receive_some(65_536):
            raw += chunk
    return parse(raw)


async def test_snapshots_come_at_most_twice_a_second() -> None:
    async with open_worker() as worker:
        seen = 0
        async with await trio.open_tcp_stream("127.0.0.1", worker.port) as stream:
            await stream.send_all(
                b"GET /observer/stream HTTP/1.1\r\nhost: localhost\r\n\r\n"
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make_runs, worker.port)
                with trio.move_on_after(2.0):
                    while chunk := await stream.receive_some(65_536):
                        seen += chunk.count(b"event: snapshot")
                nursery.cancel_scope.cancel()
        assert 2 <= seen <= 5


async def make_runs(port: int) -> None:
    while True:
        await ask(port, "POST", RUNS, INPUTS)


async def test_top_shows_the_tree_of_a_running_worker() -> None:
    async with open_worker() as worker:
        url = f"http://127.0.0.1:{worker.port}"
        done = await dspex("top", "--once", "--url", url)
        assert done.status == 0, done.err
        assert "triage/classify" in done.out
        assert "0 of 20 in 10 s" in done.out
    gone = await dspex("top", "--once", "--url", url)
    assert gone.status == 2
    assert "is it running there?" in gone.err


async def test_limiters_breakers_and_versions_are_shown(tmp_path: Path) -> None:
    step = Step(module="Predict", signature="ticket -> category")
    first = Program(name="triage", steps={"classify": step})
    demo = {"ticket": "Pay me back", "category": "a refund"}
    changed = Step(module="Predict", signature="ticket -> category", demos=(demo,))
    second = Program(name="triage", steps={"classify": changed})
    broken = ScriptedLM(
        lambda _: ProviderTimeoutError("no answer", provider="x", model="y")
    )
    lm = Breaker(broken, failures=1)
    limiter = ChildSpec("limits", RateLimiter, (Limits(concurrency=3),), name="limits")
    app = App(first, lm=lm, children=[limiter])
    settings = WorkerSettings(port=0)
    async with (
        open_app(app, store=tmp_path / "runs.db") as runtime,
        trio.open_nursery() as nursery,
    ):
        service = make_service(runtime, settings)
        (url,) = await nursery.start(listen, service, bind(settings))
        port = int(url.rpartition(":")[2])
        await ask(port, "POST", f"{RUNS}?wait=5", INPUTS)
        await runtime.journal.save_program(
            "triage", second.model_dump(mode="json"), made_by="test", scores={"f1": 0.8}
        )
        page = (await ask(port, "GET", "/")).text
        versions = (await ask(port, "GET", "/observer/programs/triage")).text
        service.closing.set()
    assert "0 under way, 0 wait, 100% of its rate" in page
    assert "<small>breaker</small>" in page
    assert ">open<" in page
    assert "version 2: f1 0.8" in versions
    assert "+ classify demo: " in versions
    assert "a refund" in versions
