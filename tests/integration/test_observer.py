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
from tests.integration.browser import CHROMIUM, Page, open_browser
from tests.integration.dspex_command import dspex
from tests.integration.http_client import Reply, ask, parse
from tests.integration.observer_scene import TICKETS, open_scene, python_program
from tests.worker.test_http_api import INPUTS, RUNS, TOKEN, open_worker

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)


CLASSIFY = "triage/classify"


async def run(port: int, program: str, inputs: object) -> str:
    path = f"/v1/programs/{program}/runs?wait=60"
    reply = await ask(port, "POST", path, {"inputs": inputs}, timeout=90)
    assert reply.status == 200, reply.text
    return str(reply.json["run_id"])


@needs_chromium
async def test_the_page_shows_a_restart_a_waterfall_and_obeys_its_buttons(
    tmp_path: Path,
) -> None:
    shots = Path(os.environ.get("DSPEX_SCREENSHOTS", tmp_path))
    more = [python_program(tmp_path)]
    async with (
        open_scene(tmp_path / "runs.db", more=more) as (service, port),
        open_browser(tmp_path) as page,
    ):
        for ticket in (*TICKETS, TICKETS[0]):
            await run(port, "triage", {"ticket": ticket})
        await run(port, "triage", {"ticket": "an impossible one"})
        await run(port, "compare", {"question": "What do bees make?"})
        digest = await run(port, "digest", {"tickets": TICKETS})
        await page.look(dark=False, width=1280, height=1150)
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.until("document.querySelector('#connection').className == 'live'")
        tree = "document.querySelector('#tree').textContent"
        await page.until(f"{tree}.includes('{CLASSIFY}')")
        assert await page.evaluate(f"{tree}.includes('DspyBridge')")

        registry = service.runtime.node.registry
        for _ in range(10):
            ref = await registry.wait_for(CLASSIFY)
            ref.exit(ValueError("the answer has no field 'category'"))
            await ref.wait_exit()
        crashes = "document.querySelector('#crashes').textContent"
        await page.until(f"{crashes}.includes('restart 10 of 20 in 10 s')")
        await page.until("document.querySelector('#tree .flag.warn')")

        restart = f"button[aria-label='restart {CLASSIFY}']"
        await page.press(restart)
        await page.until(f"{crashes}.includes('restarted by the operator')")
        await page.until(f"document.querySelector({restart!r})")
        await page.until("document.querySelector('#acted').textContent")
        await page.evaluate("document.activeElement.blur()")
        await page.screenshot(shots / "observer-light.png")
        await page.look(dark=True, width=1280, height=1150)
        await page.screenshot(shots / "observer-dark.png")
        await page.look(dark=True, width=390, height=1000)
        await page.screenshot(shots / "observer-phone.png")
        wider = "document.documentElement.scrollWidth > window.innerWidth"
        assert not await page.evaluate(wider)

        await page.goto(f"http://127.0.0.1:{port}/observer/runs/{digest}")
        assert not await page.evaluate(wider)
        await page.look(dark=False, width=1280, height=800)
        await page.until("document.querySelector('.waterfall rect.live')")
        text = await page.evaluate("document.body.textContent")
        for told in ("My invoice shows", "cut off", "retried 3 attempts"):
            assert told in text
        await page.evaluate("document.querySelector('details').open = true")
        await page.screenshot(shots / "observer-run.png")

        assert page.problems == []
        own = ("http://127.0.0.1", "data:")
        outside = [url for url in page.urls if not url.startswith(own)]
        assert outside == []


@needs_chromium
async def test_killing_is_confirmed_rows_are_found_and_a_lost_stream_is_told(
    tmp_path: Path,
) -> None:
    async with open_browser(tmp_path) as page:
        async with open_worker() as worker:
            registry = worker.service.runtime.node.registry
            doomed = registry.whereis(CLASSIFY)
            assert doomed is not None
            await page.look(dark=False, width=1100, height=900)
            await page.goto(f"http://127.0.0.1:{worker.port}/")
            await page.until("document.querySelector('#connection').className=='live'")

            kill = f"button[aria-label='kill {CLASSIFY}']"
            for choice in ("cancel", "kill"):
                await page.press(kill)
                await page.until("document.querySelector('dialog').open")
                asked = "document.querySelector('#confirm-title').textContent"
                assert await page.evaluate(asked) == f"Kill {CLASSIFY}?"
                assert doomed.is_alive
                await page.press(f"dialog button[value={choice}]")
                await page.until("!document.querySelector('dialog').open")
            with trio.fail_after(5):
                assert await doomed.wait_exit() == "killed"

            seen = "[...document.querySelectorAll('#tree tbody tr:not([hidden])')]"
            names = f"{seen}.map(it => it.dataset.name).join()"
            await type_into(page, "classify")
            await page.until(f"{names} == '{CLASSIFY}'")
            await type_into(page, "no such actor")
            await page.until("!document.querySelector('#nothing').hidden")
            await type_into(page, "")
            await page.press("#fold-modules")
            await page.until(f"!({names}).includes('{CLASSIFY}')")
            await page.until("document.querySelector('#overview').textContent")
            await trio.sleep(1.2)  # two snapshots, which must not unfold it
            assert CLASSIFY not in await page.evaluate(names)
            await page.press("#fold-modules")
            await page.until(f"({names}).includes('{CLASSIFY}')")
            assert page.problems == []
        await page.until("document.querySelector('#connection').className == 'lost'")
        told = await page.evaluate("document.querySelector('#lost').textContent")
        assert "what you see is old" in told


async def type_into(page: Page, text: str) -> None:
    filter = "document.querySelector('#filter')"
    await page.evaluate(f"{filter}.value = {text!r}")
    await page.evaluate(f"{filter}.dispatchEvent(new Event('input'))")


async def test_a_run_that_only_the_store_has_is_shown_with_all_its_marks(
    tmp_path: Path,
) -> None:
    store = tmp_path / "runs.db"
    async with open_scene(store) as (_, port):
        digest = await run(port, "digest", {"tickets": TICKETS})
        again = await run(port, "digest", {"tickets": TICKETS})
        failed = await run(port, "triage", {"ticket": "an impossible one"})
        fresh = (await ask(port, "GET", f"/observer/runs/{again}")).text
    async with open_scene(store) as (service, port):
        assert not service.runtime.table.has(digest)
        first, cached, broken = [
            (await ask(port, "GET", f"/observer/runs/{it}")).text
            for it in (digest, again, failed)
        ]
        listed = (await ask(port, "GET", "/")).text
        none = await ask(port, "GET", "/observer/runs/nowhere")
    for told in ("openai:gpt-4o-mini", "My invoice shows", "retried 3 attempts",
                 "cut off", "A customer was charged twice", "$0.0"):  # fmt: skip
        assert told in first
    for page in (fresh, cached):
        assert page.count("flag cached") == 4
        assert 'rect class="cached"' in page
    assert "no answer within 20 s" in broken
    assert 'rect class="failed"' in broken
    assert f"/observer/runs/{digest}" in listed
    assert none.status == 404


async def test_calls_that_the_journal_answered_are_marked(tmp_path: Path) -> None:
    async with open_scene(tmp_path / "runs.db", delay=0.3) as (service, port):
        path = "/v1/programs/triage/runs"
        body = {"inputs": {"ticket": TICKETS[0]}}
        begun = (await ask(port, "POST", path, body)).json["run_id"]
        registry = service.runtime.node.registry
        with trio.fail_after(10):
            while not any(it.step == "classify" for it in service.runtime.in_flight):
                await trio.sleep(0.01)
            await trio.sleep(0.1)
        ref = await registry.wait_for(CLASSIFY)
        ref.exit("planted")
        await ask(port, "GET", f"/v1/runs/{begun}?wait=10")
        page = (await ask(port, "GET", f"/observer/runs/{begun}")).text
    assert "succeeded" in page
    assert page.count("flag journaled") == 1
    assert 'rect class="journaled"' in page


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
        assert "└─ runs" in done.out
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
