"""The HTTP API: programs, runs, their events, health and metrics."""

import re
from collections.abc import AsyncGenerator
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from dspex.runtime.engine import Plan, RunInputError
from dspex.runtime.journal import (
    AmbiguousRunError,
    RunNotFoundError,
    StoreBusyError,
    StoreError,
    StoreLockedError,
    StoreRowError,
)
from dspex.runtime.log import get_logger
from dspex.worker.errors import ProgramNotFoundError
from dspex.worker.event_stream import EventStream
from dspex.worker.guard import Guard, problem
from dspex.worker.metrics import make_registry, render
from dspex.worker.openapi import describe_api, input_schema, output_schema
from dspex.worker.run_record import Status
from dspex.worker.run_spans import trace_of
from dspex.worker.run_stream import RunStream
from dspex.worker.run_views import find_run, is_finished, view_run, view_runs
from dspex.worker.runs import KeyReusedError, TooManyRunsError
from dspex.worker.service import (
    RETRY_AFTER_SECONDS,
    BadRequestError,
    Service,
    read_number,
    read_object,
    reply,
    service_of,
)

log = get_logger()

_RETRY: Final = {"retry-after": str(RETRY_AFTER_SECONDS)}
_MAX_KEY: Final = 200
_KEY: Final = re.compile(f"[!-~]{{1,{_MAX_KEY}}}")
_MAX_LIST: Final = 200
_MAX_DIGITS: Final = 18
# As the OpenAPI document says.
_MAX_NUMBER: Final = 10**15
_STATUSES: Final[dict[str, Status]] = {
    "pending": "pending",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


def make_api(service: Service, routes: list[BaseRoute]) -> ASGIApp:
    """Give the worker's ASGI app; `routes` are served beside the API's own."""
    app = Starlette(
        routes=[
            Route("/v1/programs", list_programs),
            Route("/v1/programs/{name}", show_program),
            Route("/v1/programs/{name}/runs", create_run, methods=["POST"]),
            Route("/v1/runs", list_runs),
            Route("/v1/runs/{run}", show_run),
            Route("/v1/runs/{run}/events", stream_events),
            Route("/v1/runs/{run}/cancel", cancel_run, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
            *routes,
        ],
        exception_handlers={
            HTTPException: _http_error,
            BadRequestError: _bad_request,
            ProgramNotFoundError: _not_found,
            RunNotFoundError: _not_found,
            AmbiguousRunError: _not_found,
            StoreError: _no_store,
            StoreRowError: _damaged,
            RunInputError: _bad_input,
            KeyReusedError: _conflict,
            TooManyRunsError: _full,
            Exception: _failed,
        },
    )
    app.state.service = service
    app.state.registry = make_registry(service.collector)
    return Guard(app, settings=service.settings, sessions=service.sessions)


async def list_programs(request: Request) -> Response:
    """List the programs that can be run."""
    plans = service_of(request).runtime.served
    return reply({"programs": [_program(plan) for plan in plans]})


async def show_program(request: Request) -> Response:
    """Show one program: its steps, what it takes and gives."""
    runtime = service_of(request).runtime
    name: str = request.path_params["name"]
    runtime.program(name)
    (plan,) = (it for it in runtime.served if it.program.name == name)
    return reply(_program(plan))


def _program(plan: Plan) -> dict[str, Any]:  # Any: JSON
    return {
        "name": plan.program.name,
        "description": plan.program.description,
        "digest": plan.program.digest,
        "inputs": input_schema(plan),
        "outputs": output_schema(plan),
        "steps": [
            {
                "name": name,
                "module": step.module,
                "signature": step.signature,
                "backend": step.backend,
                "demos": len(step.demos),
            }
            for name, step in plan.program.steps.items()
        ],
    }


async def create_run(request: Request) -> Response:
    """Accept a run: 202 with its id, or with `?wait=` 200 when it ends in time."""
    service = service_of(request)
    if service.is_draining:
        return problem(503, "the worker is stopping", headers=_RETRY)
    wait = read_number(request, "wait", 0.0, service.settings.max_wait)
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise BadRequestError(
            422, f"idempotency-key is not 1 to {_MAX_KEY} visible ASCII characters"
        )
    name: str = request.path_params["name"]
    service.runtime.program(name)
    body = await read_object(request)
    inputs: object = body.get("inputs")
    if not isinstance(inputs, dict) or len(body) != 1:
        raise BadRequestError(422, 'the body must be {"inputs": {...}}')
    with trace_of(request.headers):
        run = await service.runtime.submit(
            name,
            cast("dict[str, Any]", inputs),  # JSON's keys are strings
            key=key,
        )
    view = await view_run(service.runtime, run, wait=wait, waits=service.waits)
    where = {"location": f"/v1/runs/{run}"}
    return reply(view, 200 if is_finished(view) else 202, where)


async def list_runs(request: Request) -> Response:
    """List runs, newest first; `before` is the id that the page goes on after."""
    query = request.query_params
    status, program, before = (query.get(it) for it in ("status", "program", "before"))
    if status is not None and status not in _STATUSES:
        raise BadRequestError(422, f"status is not one of {', '.join(_STATUSES)}")
    asked = query.get("limit", "50")
    is_number = asked.isascii() and asked.isdigit() and len(asked) <= _MAX_DIGITS
    if not is_number or int(asked) > _MAX_NUMBER:
        raise BadRequestError(422, f"limit={asked[:50]!r} is not a whole number from 0")
    found = await view_runs(
        service_of(request).runtime,
        status=None if status is None else _STATUSES[status],
        program=program,
        before=before,
        limit=min(int(asked), _MAX_LIST),
    )
    return reply({"runs": found})


async def show_run(request: Request) -> Response:
    """Show a run; with `?wait=` its end is waited for."""
    service = service_of(request)
    wait = read_number(request, "wait", 0.0, service.settings.max_wait)
    run = await find_run(service.runtime, request.path_params["run"])
    return reply(await view_run(service.runtime, run, wait=wait, waits=service.waits))


async def cancel_run(request: Request) -> Response:
    """Cancel a run; one that is finished stays as it is."""
    service = service_of(request)
    run = await find_run(service.runtime, request.path_params["run"])
    await service.runtime.cancel(run)
    return reply(await view_run(service.runtime, run))


async def stream_events(request: Request) -> RunStream | Response:
    """Send a run's events as they happen, from the one after Last-Event-ID."""
    service = service_of(request)
    run = await find_run(service.runtime, request.path_params["run"])
    last = request.headers.get("last-event-id", "0")
    if not (last.isascii() and last.isdigit() and len(last) <= _MAX_DIGITS):
        raise BadRequestError(422, f"last-event-id {last[:50]!r} is not a number")
    if service.has_too_many_streams:
        return _too_many_streams()
    cursor = service.runtime.read_events(run, after=int(last))
    return RunStream(cursor, service.streams)


def open_stream(
    service: Service, frames: AsyncGenerator[bytes]
) -> EventStream | Response:
    """Answer with a stream, unless as many as may be are open."""
    if service.has_too_many_streams:
        return _too_many_streams()
    return EventStream(frames, open_streams=service.open_streams)


def _too_many_streams() -> Response:
    return problem(503, "too many event streams are open", headers=_RETRY)


async def healthz(request: Request) -> Response:
    """Tell that the worker's loop turns."""
    return reply({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Tell whether a run would be accepted now."""
    service = service_of(request)
    if service.is_draining:
        return reply({"status": "draining"}, 503, _RETRY)
    runtime = service.runtime
    # With a store every run is accepted: it waits there.
    if not runtime.has_store and runtime.table.is_full:
        return reply({"status": "full"}, 503, _RETRY)
    return reply({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Give the figures that Prometheus reads."""
    text = render(request.app.state.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi(request: Request) -> Response:
    """Describe this API and the programs that are loaded."""
    service = service_of(request)
    return reply(
        describe_api(service.runtime.served, has_token=bool(service.settings.token))
    )


def _no_store(request: Request, error: Exception) -> Response:
    log.warning("store_unusable", path=request.url.path, reason=str(error))
    # The others do not pass by themselves.
    passes = isinstance(error, StoreLockedError | StoreBusyError)
    return problem(503, str(error), headers=_RETRY if passes else None)


def _damaged(request: Request, error: Exception) -> Response:
    return problem(500, str(error))


def _failed(request: Request, error: Exception) -> Response:
    # The guard logs it whole; the client gets no traceback.
    return problem(500, "the worker failed on this request; its log tells why")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return problem(error.status_code, error.detail.lower(), headers=headers)


def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    return problem(error.status, str(error))


def _not_found(request: Request, error: Exception) -> Response:
    return problem(404, str(error))


def _bad_input(request: Request, error: Exception) -> Response:
    return problem(422, str(error))


def _conflict(request: Request, error: Exception) -> Response:
    return problem(409, str(error))


def _full(request: Request, error: Exception) -> Response:
    return problem(503, str(error), headers=_RETRY)
