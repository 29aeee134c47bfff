"""Guard: what stands between a socket and the API.

A plain ASGI layer: who may come in (bearer token or session, compared in constant
time), from where (host and origin, so that no web page can drive a worker on the
reader's own machine), how often, with how large a body; and no traceback goes out.
"""

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Final, TypeAlias
from urllib.parse import unquote

import h11
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspex.runtime.log import get_logger
from dspex.worker.event_stream import STREAM, EventStream
from dspex.worker.run_stream import RunStream
from dspex.worker.settings import WorkerSettings

log = get_logger()

Headers: TypeAlias = dict[str, str]

COOKIE: Final = "dspex_session"
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/login", "/static/observer.css"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://(?P<host>[^/?#]+)(?P<path>/.*)?")
_BURST_SECONDS: Final = 10
_MIN_BURST: Final = 10.0
_MAX_CLIENTS: Final = 1_000
_MAX_SESSIONS: Final = 100
# What the server still looks at while it sends, and the log.
_KEPT: Final = ("type", "method", "http_version", "path")
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; "
        b"img-src 'self' data:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; "
        b"frame-ancestors 'none'",
    ),
)


def problem(
    status: int, text: str, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Give an error answer: always `{"error": text}`."""
    return JSONResponse({"error": text}, status, headers=headers)


class RateLimiter:
    """A token bucket for each client; the least recent clients are forgotten.

    A client that was quiet may send ten seconds' worth at once, and always ten.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._burst = max(_MIN_BURST, per_minute * _BURST_SECONDS / 60)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take one request; give 0, or in how many seconds there is room for it."""
        now = trio.current_time()
        left, since = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        wait = 0.0 if left >= 1 else (1 - left) / self._per_second
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class Sessions:
    """Browsers that have shown the token; each has a random cookie of its own."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else _digest(token)
        self._known: OrderedDict[str, None] = OrderedDict()

    def accepts(self, token: str) -> bool:
        """Whether this is the token; takes as long for any answer."""
        return self._token is None or hmac.compare_digest(_digest(token), self._token)

    def open(self) -> str:
        """Give a new session; the oldest of too many ends."""
        session = secrets.token_urlsafe(32)
        self._known[_digest(session).hex()] = None
        if len(self._known) > _MAX_SESSIONS:
            self._known.popitem(last=False)
        return session

    def knows(self, session: str) -> bool:
        """Whether the session is open."""
        return _digest(session).hex() in self._known


class Guard:
    """The outermost ASGI layer of the worker."""

    def __init__(
        self, app: ASGIApp, *, settings: WorkerSettings, sessions: Sessions
    ) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions
        self._has_token = settings.token is not None
        self._limiter = RateLimiter(settings.rate_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            # What the client sent behind it may have ended the connection already.
            with suppress(h11.LocalProtocolError):
                await send({"type": "websocket.close", "code": 1003})
            return
        if not scope["path"].startswith("/"):
            _take_absolute_form(scope)
        refusal = self._refuse(scope, _headers_of(scope))
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        send = _with_headers(send)
        try:
            stream = await self._answer(scope, receive, send)
            if stream is not None:
                # From here: the frames below would stay as long as the stream.
                await stream.send(receive, send)
        except ClientDisconnect:
            log.debug("client_left", method=scope["method"], path=scope["path"])
        except Exception:
            # Answered already, without a traceback; the log has it whole.
            log.exception("request_failed", method=scope["method"], path=scope["path"])

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may have gone by the other one, and what follows be no request.
            return problem(
                400,
                "content-length beside transfer-encoding: send one of them",
                headers={"connection": "close"},
            )
        host = headers.get("host", "")
        if (
            not self._has_token
            and host.rpartition(":")[0] not in _LOOPBACK_HOSTS
            and (host not in _LOOPBACK_HOSTS)
        ):
            # A name that someone else's DNS points at this machine.
            return problem(421, f"this worker is not {host[:100]!r}")
        path: str = scope["path"]
        if path not in OPEN_PATHS:
            client = self._identify(scope, headers)
            if client is None:
                return self._unauthorized(scope, path)
        else:
            client = _address(scope)
        wait = self._limiter.take(client)
        if wait:
            seconds = str(max(1, round(wait)))
            return problem(429, "too many requests", headers={"retry-after": seconds})
        if scope["method"] not in _SAFE_METHODS and not _is_same_origin(
            headers.get("origin"), headers.get("sec-fetch-site"), host
        ):
            return problem(403, "a page of another origin cannot do this")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._settings.max_body_bytes:
            limit = self._settings.max_body_bytes
            return problem(413, f"the body is longer than {limit} bytes")
        return None

    def _identify(self, scope: Scope, headers: Headers) -> str | None:
        """Give who this is, or None if it has not shown the token."""
        if not self._has_token:
            return _address(scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._sessions.accepts(token.strip()):
            return "token"
        session = _session_of(headers.get("cookie", ""))
        return "browser" if session and self._sessions.knows(session) else None

    def _unauthorized(self, scope: Scope, path: str) -> Response:
        address = _address(scope)
        if self._limiter.take(f"refused {address}"):
            return problem(429, "too many requests", headers={"retry-after": "60"})
        if path == "/":
            return RedirectResponse("/login", 303)
        return problem(
            401,
            "show the worker's token: Authorization: Bearer TOKEN",
            headers={"www-authenticate": "Bearer"},
        )

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send
    ) -> EventStream | RunStream | None:
        """Have the app answer, or give the stream that is its answer."""
        most, seconds = self._settings.max_body_bytes, self._settings.body_timeout
        is_read = False

        async def whole() -> Message:
            """Give the body in one piece, and then the news that the client leaves."""
            nonlocal is_read
            if is_read:
                return await receive()
            parts: list[bytes] = []
            size = 0
            with trio.move_on_after(seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return message
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise HTTPException(
                            413, f"the body is longer than {most} bytes"
                        )
                    if not message.get("more_body", False):
                        is_read = True
                        return {"type": "http.request", "body": b"".join(parts)}
            raise HTTPException(408, f"the body did not arrive in {seconds:g} s")

        await self._app(scope, whole, send)
        stream: EventStream | RunStream | None = scope.pop(STREAM, None)
        if stream is not None:
            # What was parsed and routed would stay, too.
            kept = {name: scope[name] for name in _KEPT}
            scope.clear()
            scope.update(kept)
        return stream


def _take_absolute_form(scope: Scope) -> None:
    """Make a path of a whole URL, whose host counts (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE.fullmatch(scope["raw_path"])
    if found is None:
        return  # "*", and what no path is like
    headers = [it for it in scope["headers"] if it[0] != b"host"]
    scope["headers"] = [(b"host", found["host"]), *headers]
    scope["raw_path"] = found["path"] or b"/"
    scope["path"] = unquote(scope["raw_path"].decode("ascii"))


def _headers_of(scope: Scope) -> Headers:
    """Give the headers by name; of several of one name the first, as starlette does."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _session_of(header: str) -> str | None:
    try:
        cookie = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _is_same_origin(origin: str | None, site: str | None, host: str) -> bool:
    # Programs send neither header; browsers send them with every unsafe request.
    if site is not None and site not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2] == host


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return with_headers
