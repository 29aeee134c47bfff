"""A FastAPI service that answers support tickets, with the runtime inside.

    uvicorn examples.fastapi_service.service:app

The model is the embedded one, or any server that speaks OpenAI's API: TRIAGE_MODEL,
TRIAGE_BASE_URL. TRIAGE_STORE names a file (or postgresql://...) that keeps the runs.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

import dspex
from dspex import Run
from dspex.providers import LM
from dspex.runtime.journal import StoreError
from dspex.worker.aio import AioRuntime
from dspex.worker.errors import RuntimeClosedError

T = TypeVar("T")

log = logging.getLogger("uvicorn.error")

_TOLD = ("step", "field", "text", "offset", "attempt")

PROGRAM = Path(__file__).parents[1] / "triage/program.yaml"


class Ticket(BaseModel):
    ticket: str = Field(min_length=1, max_length=4_000)


class Reply(BaseModel):
    category: str
    reply: str


def model() -> LM | None:
    name = os.environ.get("TRIAGE_MODEL")
    if name is None:
        return None
    url = os.environ.get("TRIAGE_BASE_URL", "https://api.openai.com/v1")
    return dspex.OpenAI(name, base_url=url, timeout=30)


@asynccontextmanager
async def lifespan(service: FastAPI) -> AsyncGenerator[None]:
    # Here and not at import: each worker process has a runtime of its own.
    app = dspex.App(PROGRAM, lm=model())
    # With a store an accepted ticket is answered, whatever happens to this process,
    # unless its client leaves.
    store = os.environ.get("TRIAGE_STORE")
    async with dspex.aio.open_runtime(app, store=store) as rt:
        service.state.runtime = rt
        yield


app = FastAPI(title="Triage", lifespan=lifespan)


@app.exception_handler(RuntimeClosedError)
@app.exception_handler(StoreError)
async def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Say that no ticket can be answered now; the log says why and what to do."""
    log.error("%s", error)
    return JSONResponse({"detail": "no ticket can be answered now"}, status_code=503)


def runtime(request: Request) -> AioRuntime:
    rt: AioRuntime = request.app.state.runtime
    return rt


Rt = Annotated[AioRuntime, Depends(runtime)]


@app.post("/tickets")
async def answer(ticket: Ticket, request: Request, rt: Rt) -> Reply:
    """Answer a ticket; a client that leaves costs no further model call."""
    run = await while_connected(request, followed_run(rt, ticket))
    if run.error is not None:
        raise HTTPException(502, "the ticket could not be answered")
    return Reply(category=run.outputs["category"], reply=run.outputs["reply"])


@app.post("/tickets/stream")
async def stream(ticket: Ticket, rt: Rt) -> StreamingResponse:
    """Tell by server-sent events what is done with a ticket, the reply as it comes."""

    async def events() -> AsyncIterator[str]:
        # A client that leaves cancels the run: the stream is closed with this one.
        async with aclosing(rt.stream("triage", ticket=ticket.ticket)) as told:
            async for event in told:
                fields = {it: event.data[it] for it in _TOLD if it in event.data}
                data = json.dumps({"kind": event.kind, **fields})
                # Text has no number of its own.
                head = "" if event.kind == "delta" else f"id: {event.seq}\n"
                yield f"{head}data: {data}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/tree")
async def tree(rt: Rt) -> str:
    """Show the supervision tree."""
    return str(await rt.tree())


async def followed_run(rt: AioRuntime, ticket: Ticket) -> Run:
    """Give the finished run; it ends with this call, also where a store has it.

    `rt.run` is enough where a run that was accepted may as well be finished.
    """
    async with aclosing(rt.stream("triage", ticket=ticket.ticket)) as events:
        run = [event.run async for event in events][-1]
    return await rt.result(run)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Give the work's result; cancel it when the client leaves."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(work)
    leaving = asyncio.create_task(left())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499, "the client has left")
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)
