"""Observer: a page that shows the runtime at work, and buttons to meddle with it.

The page is whole without its script. With it, sections are replaced as they change,
at most twice a second, however much happens and however many look.
"""

from collections.abc import AsyncGenerator, Callable
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
from dspex.worker.event_stream import KEEP_ALIVE_SECONDS, frame
from dspex.worker.guard import COOKIE, problem
from dspex.worker.http_api import open_stream
from dspex.worker.observer_health import health
from dspex.worker.observer_state import Watch, shown_inputs, waterfall
from dspex.worker.observer_versions import plot, versions
from dspex.worker.service import FILES, BadRequestError, Service, reply, service_of

log = get_logger()

SECTIONS: Final = ("overview", "tree", "health", "deaths", "runs", "programs")
_PERIOD_SECONDS: Final = 0.5
_STATIC: Final = {"observer.css": "text/css", "observer.js": "text/javascript"}
_MAX_TOKEN: Final = 1_000


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


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
        )
        self._templates.filters["clock"] = _clock
        self._snapshot = b""
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
            Route("/observer/actors/{id:int}/{action}", self.act, methods=["POST"]),
        ]

    def _section(self, name: str) -> str:
        watch, runtime = self._watch, self._service.runtime
        give: dict[str, Callable[[], object]] = {
            "overview": watch.overview,
            "tree": watch.tree,
            "health": lambda: health(runtime),
            "deaths": lambda: list(reversed(watch.deaths)),
            "runs": watch.runs,
            "programs": lambda: runtime.served,
        }
        return self._templates.get_template(f"{name}.html").render(it=give[name]())

    def _render(self) -> bytes:
        # Shared: whoever asks within the period gets what the first one got.
        now = trio.current_time()
        if now - self._at >= _PERIOD_SECONDS:
            self._at = now
            sections = {name: self._section(name) for name in SECTIONS}
            self._snapshot = msgspec.json.encode(sections)
        return self._snapshot

    async def page(self, request: Request) -> Response:
        """Show everything."""
        sections = {name: self._section(name) for name in SECTIONS}
        template = self._templates.get_template("page.html")
        return HTMLResponse(template.render(sections=sections))

    async def tree(self, request: Request) -> Response:
        """Give the tree and the figures as JSON, for `dspex top`."""
        watch = self._watch
        return reply({"overview": watch.overview(), "tree": watch.tree()})

    async def stream(self, request: Request) -> Response:
        """Send the sections whenever one has changed."""
        return open_stream(service_of(request), self._frames())  # type: ignore[return-value] # an ASGI answer

    async def _frames(self) -> AsyncGenerator[bytes]:
        sent = b""
        silent = 0.0
        while True:
            snapshot = self._render()
            if snapshot != sent:
                sent, silent = snapshot, 0.0
                yield frame(snapshot, event="snapshot")
            elif silent >= KEEP_ALIVE_SECONDS:
                silent = 0.0
                yield b""
            await trio.sleep(_PERIOD_SECONDS)
            silent += _PERIOD_SECONDS

    async def run_page(self, request: Request) -> Response:
        """Show one run: its waterfall, its prompts and completions."""
        runtime = self._service.runtime
        record = runtime.table.get(request.path_params["run"])
        text = self._templates.get_template("run.html").render(
            run=record.to_json(), inputs=shown_inputs(record), bars=waterfall(record)
        )
        return HTMLResponse(text)

    async def versions_page(self, request: Request) -> Response:
        """Show a program's versions in the store, their scores and differences."""
        runtime = self._service.runtime
        name: str = request.path_params["name"]
        runtime.program(name)
        saved = await runtime.journal.programs(name) if runtime.has_store else []
        text = self._templates.get_template("versions.html").render(
            name=name, versions=versions(saved), points=plot(saved)
        )
        return HTMLResponse(text)

    async def act(self, request: Request) -> Response:
        """Restart, kill, suspend or resume an actor."""
        action: str = request.path_params["action"]
        ref = self._watch.find(request.path_params["id"])
        if ref is None:
            return problem(404, "this actor is gone; its successor has another id")
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
        template = self._templates.get_template("login.html")
        if request.method == "GET":
            return HTMLResponse(template.render(error=""))
        body = (await request.body())[:_MAX_TOKEN].decode(errors="replace")
        token = dict(_form(body)).get("token", "")
        sessions = self._service.sessions
        if not sessions.accepts(token):
            text = template.render(error="This is not the worker's token.")
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
