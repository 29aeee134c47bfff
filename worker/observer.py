"""Observer: a page that shows the runtime at work, and buttons to meddle with it.

The page is whole without its script. With it, sections are replaced as they change,
at most twice a second, however much happens and however many look.
"""

import time
from collections.abc import AsyncGenerator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

import jinja2
import msgspec
import trio
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import BaseRoute, Route

from dspex.runtime import DspexError
from dspex.runtime.log import get_logger
from dspex.runtime.sys import resume, suspend
from dspex.worker.event_stream import frame
from dspex.worker.guard import COOKIE, problem
from dspex.worker.http_api import open_stream
from dspex.worker.observer_health import health
from dspex.worker.observer_state import Watch
from dspex.worker.observer_tree import flatten
from dspex.worker.observer_versions import plot, versions
from dspex.worker.observer_waterfall import short_time, waterfall
from dspex.worker.service import FILES, BadRequestError, Service, reply, service_of

log = get_logger()

SECTIONS: Final = ("overview", "tree", "crashes", "runs", "health", "programs")
_BEAT_SECONDS: Final = 2.0
_PERIOD_SECONDS: Final = 0.5
_STATIC: Final = {"observer.css": "text/css", "observer.js": "text/javascript"}
_GONE: Final = "this actor is gone; its successor has another id"
_MAX_TOKEN: Final = 1_000


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class Observer:
    """Renders the page and its changes; one rendering serves every reader."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watch = Watch(service.runtime)
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FILES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(clock=_clock, day=_day, short=short_time)
        self._rendering = trio.Lock()
        self._shown: dict[str, str] = {}
        self._at = -_PERIOD_SECONDS

    def routes(self) -> list[BaseRoute]:
        """Give the routes to be served beside the API."""
        return [
            Route("/", self.page),
            Route("/v1/tree", self.tree),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/static/{name}", self.static),
            Route("/observer/stream", self.stream),
            Route("/observer/runs/{run}", self.run_page),
            Route("/observer/programs/{name}", self.versions_page),
            Route("/observer/actors/{id:int}/kill", self.confirm_page),
            Route("/observer/actors/{id:int}/{action}", self.act, methods=["POST"]),
        ]

    async def _sections(self, *, fresh: bool = False) -> dict[str, str]:
        # Shared: whoever asks within the period gets what the first one got.
        async with self._rendering:
            now = trio.current_time()
            if fresh or now - self._at >= _PERIOD_SECONDS:
                watch, runtime = self._watch, self._service.runtime
                shown: dict[str, object] = {
                    "overview": watch.figures(),
                    "tree": list(flatten(watch.tree())),
                    "crashes": watch.crashes.timeline(),
                    "runs": await watch.runs(),
                    "health": health(runtime),
                    "programs": runtime.served,
                }
                self._shown = {
                    name: self._render(f"{name}.html", it=shown[name], now=time.time())
                    for name in SECTIONS
                }
                self._at = now
            return self._shown

    def _render(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(values)

    async def page(self, request: Request) -> Response:
        """Show everything."""
        sections = await self._sections(fresh=True)
        text = self._render("page.html", sections=sections, about=self._watch.about)
        return HTMLResponse(text)

    async def tree(self, request: Request) -> Response:
        """Give the tree and the figures as JSON, for `dspex top`."""
        watch = self._watch
        parts = [asdict(it) for it in health(self._service.runtime)]
        crashes = [asdict(it) for it in watch.crashes.latest(10)]
        return reply(
            {
                "overview": watch.overview(),
                "tree": watch.tree().to_json(),
                "health": parts,
                "crashes": crashes,
            }
        )

    async def stream(self, request: Request) -> Response:
        """Send the sections that have changed, and a beat when none has."""
        return open_stream(service_of(request), self._frames())  # type: ignore[return-value] # an ASGI answer

    async def _frames(self) -> AsyncGenerator[bytes]:
        sent: dict[str, str] = {}
        silent = 0.0
        while True:
            sections = await self._sections()
            changed = {
                it: text for it, text in sections.items() if sent.get(it) != text
            }
            if changed:
                sent, silent = sections, 0.0
                yield frame(msgspec.json.encode(changed), event="snapshot")
            elif silent >= _BEAT_SECONDS:
                silent = 0.0
                yield frame(b"{}", event="beat")
            await trio.sleep(_PERIOD_SECONDS)
            silent += _PERIOD_SECONDS

    async def run_page(self, request: Request) -> Response:
        """Show one run: its waterfall, its prompts and completions."""
        found = await waterfall(self._service.runtime, request.path_params["run"])
        return HTMLResponse(self._render("run.html", it=found, about=self._watch.about))

    async def versions_page(self, request: Request) -> Response:
        """Show a program's versions in the store, their scores and differences."""
        runtime = self._service.runtime
        name: str = request.path_params["name"]
        runtime.program(name)
        saved = await runtime.journal.programs(name) if runtime.has_store else []
        text = self._render(
            "versions.html",
            name=name,
            versions=versions(saved),
            plot=plot(saved),
            has_store=runtime.has_store,
            about=self._watch.about,
        )
        return HTMLResponse(text)

    async def confirm_page(self, request: Request) -> Response:
        """Ask whether an actor shall be killed."""
        ref = self._watch.find(request.path_params["id"])
        if ref is None:
            return problem(404, _GONE)
        text = self._render("confirm.html", ref=ref, about=self._watch.about)
        return HTMLResponse(text)

    async def act(self, request: Request) -> Response:
        """Restart, kill, suspend or resume an actor."""
        action: str = request.path_params["action"]
        ref = self._watch.find(request.path_params["id"])
        if ref is None:
            return problem(404, _GONE)
        log.warning("operator_acted", action=action, actor=ref.name)
        try:
            if action == "restart":
                ref.exit("restarted by the operator")
            elif action == "kill":
                ref.exit("kill")
            elif action == "suspend":
                await suspend(ref)
            elif action == "resume":
                await resume(ref)
            else:
                raise BadRequestError(404, f"there is no action {action!r}")
        except DspexError as error:
            if isinstance(error, BadRequestError):
                raise
            return problem(409, str(error))
        return RedirectResponse("/", 303)

    async def login(self, request: Request) -> Response:
        """Ask for the token, and give a browser that knows it a session."""
        if request.method == "GET":
            return HTMLResponse(self._render("login.html", error=""))
        body = (await request.body())[:_MAX_TOKEN].decode(errors="replace")
        token = dict(_form(body)).get("token", "")
        sessions = self._service.sessions
        if not sessions.accepts(token):
            text = self._render("login.html", error="This is not the worker's token.")
            return HTMLResponse(text, 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, sessions.open(), httponly=True, samesite="strict")
        return answer

    async def static(self, request: Request) -> Response:
        """Give the page's style and script."""
        name: str = request.path_params["name"]
        if name not in _STATIC:
            return problem(404, "not found")
        return FileResponse(FILES / name, media_type=_STATIC[name])


def _form(body: str) -> list[tuple[str, str]]:
    return parse_qsl(body, max_num_fields=10)
