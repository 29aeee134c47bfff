"""The load of `dspex chaos`: clients that submit runs and wait for them."""

import itertools
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import trio

from dspex.testing.schema_values import value_of

_RETRY_SECONDS: Final = 0.2
_WAIT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 60.0
FINAL: Final = ("succeeded", "failed", "cancelled")

JSON = dict[str, Any]  # Any: JSON


@dataclass
class Tally:
    """What came of the runs: by id the last status, and what was never answered."""

    statuses: dict[str, str] = field(default_factory=dict[str, str])
    errors: dict[str, str] = field(default_factory=dict[str, str])
    refused: list[str] = field(default_factory=list[str])
    unanswered: list[str] = field(default_factory=list[str])
    submitted: int = 0

    def note(self, view: JSON) -> None:
        """Take note of what the worker says of a run."""
        run: str = view["run_id"]
        self.statuses[run] = view["status"]
        if view.get("error"):
            self.errors[run] = str(view["error"])[:300]


class Load:
    """Clients of one worker, which may be gone for a while.

    `rows` are the inputs of runs, with their program's name, used in turn; where there
    are none, `value_of` makes them by the schema of each program.
    """

    def __init__(self, client: httpx.AsyncClient, rows: Sequence[JSON]) -> None:
        self.tally = Tally()
        self.is_over = False
        self._client = client
        self._rows = rows
        self._numbers = itertools.count(1)

    async def prepare(self) -> None:
        """Ask which programs there are.

        Raises:
            httpx.HTTPError: the worker does not say.
        """
        reply = await self._client.get("/v1/programs")
        reply.raise_for_status()
        self._programs: list[JSON] = reply.json()["programs"]

    async def run(self) -> None:
        """Submit runs and wait for each, until it `is_over`."""
        while not self.is_over:
            await self._one()

    async def settle(self) -> None:
        """Wait until every accepted run has ended."""
        for run, status in list(self.tally.statuses.items()):
            while status not in FINAL:
                status = await self._look(run)

    def _next(self) -> tuple[str, JSON]:
        number = next(self._numbers)
        if self._rows:
            row = self._rows[(number - 1) % len(self._rows)]
            name = str(row.get("program", self._programs[0]["name"]))
            return name, row["inputs"]
        program = self._programs[(number - 1) % len(self._programs)]
        text = f"sample {number}"
        return program["name"], value_of(program["inputs"], number=number, text=text)

    async def _one(self) -> None:
        name, inputs = self._next()
        key = uuid.uuid4().hex
        self.tally.submitted += 1
        reply = await self._ask(
            lambda: self._client.post(
                f"/v1/programs/{name}/runs",
                json={"inputs": inputs},
                headers={"idempotency-key": key},
            )
        )
        if reply is None:
            self.tally.unanswered.append(f"submit {name} {key}")
            return
        if reply.status_code not in (200, 202):
            self.tally.refused.append(f"{reply.status_code} {reply.text[:200]}")
            await trio.sleep(_RETRY_SECONDS)
            return
        view: JSON = reply.json()
        self.tally.note(view)
        run: str = view["run_id"]
        while not self.is_over and self.tally.statuses[run] not in FINAL:
            await self._look(run)

    async def _look(self, run: str) -> str:
        reply = await self._ask(
            lambda: self._client.get(f"/v1/runs/{run}", params={"wait": _WAIT_SECONDS})
        )
        if reply is not None and reply.status_code == 200:
            self.tally.note(reply.json())
        elif reply is not None and reply.status_code == 404:
            self.tally.statuses[run] = "lost"
            await trio.sleep(_RETRY_SECONDS)
        return self.tally.statuses[run]

    async def _ask(
        self, ask: Callable[[], Awaitable[httpx.Response]]
    ) -> httpx.Response | None:
        """Ask until there is an answer; None when there is none for a minute."""
        with trio.move_on_after(_ANSWER_SECONDS):
            while True:
                try:
                    reply = await ask()
                except httpx.TransportError:
                    # The worker is being killed, or not up again yet.
                    await trio.sleep(_RETRY_SECONDS)
                    continue
                if reply.status_code not in (429, 500, 503):
                    return reply
                await trio.sleep(_RETRY_SECONDS)
        return None


@asynccontextmanager
async def open_client(url: str, token: str | None) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of the worker."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    timeout = httpx.Timeout(_WAIT_SECONDS + 5.0)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=timeout, trust_env=False
    ) as client:
        yield client
