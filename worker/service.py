"""Service: what the worker's HTTP handlers share."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from dspex.runtime import DspexError
from dspex.worker.app import Runtime
from dspex.worker.guard import Sessions
from dspex.worker.metrics import RuntimeCollector
from dspex.worker.run_stream import Streams
from dspex.worker.settings import WorkerSettings

RETRY_AFTER_SECONDS = 1


class BadRequestError(DspexError):
    """A request cannot be understood; `status` says in which way."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Service:
    """The runtime, its settings, and how far its life is."""

    runtime: Runtime
    settings: WorkerSettings
    sessions: Sessions
    collector: RuntimeCollector
    streams: Streams
    closing: trio.Event = field(default_factory=trio.Event)
    waits: set[trio.CancelScope] = field(default_factory=set[trio.CancelScope])
    """The scopes of the requests that wait for the end of a run."""
    is_draining: bool = False

    @property
    def open_streams(self) -> set[trio.CancelScope]:
        """The scopes of the event streams that are open."""
        return self.collector.open_streams

    @property
    def has_too_many_streams(self) -> bool:
        """Whether no further stream may be opened."""
        count = len(self.open_streams) + len(self.streams.open)
        return count >= self.settings.max_streams

    async def keep_streams(self) -> None:
        """Tick for the streams until `closing` is set, then end them, and the waits."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.streams.tick)
            await self.closing.wait()
            nursery.cancel_scope.cancel()
        self.streams.end()
        for scope in self.open_streams | self.waits:
            scope.cancel()


def service_of(request: Request) -> Service:
    """Give the service of a request."""
    service: Service = request.app.state.service
    return service


def reply(
    data: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Give a JSON answer."""
    return Response(
        msgspec.json.encode(data),
        status,
        headers=headers,
        media_type="application/json",
    )


async def read_object(request: Request) -> dict[str, Any]:  # Any: JSON
    """Read a JSON object from the body.

    Raises:
        BadRequestError: it is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequestError(415, "the body must have content-type application/json")
    try:
        data: object = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadRequestError(422, "the body must be an object")
    return data  # pyright: ignore[reportUnknownVariableType] - JSON


def read_number(request: Request, name: str, default: float, most: float) -> float:
    """Read a number from the query; more than `most` is taken as `most`.

    Raises:
        BadRequestError: it is none, or below 0.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BadRequestError(422, f"{name}={text[:50]!r} is not a number from 0")
    return min(value, most)


FILES = Path(__file__).parent / "observer_files"
