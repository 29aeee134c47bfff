"""The load of the soak: a model with faults, and clients with several manners."""

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import trio

from dspex.providers import ToolCall
from dspex.testing import Action, Answer, Fail, Hang, ProviderRequest, Reset

FINAL: Final = ("succeeded", "failed", "cancelled")
MIX: Final = ("native",) * 10 + ("mapped",) * 4 + ("agent",) * 3 + ("python",) * 2
PROGRAMS: Final = (*MIX, "hosted")
# How a client behaves: most wait, the rest in about equal parts.
MANNERS: Final = ("wait",) * 8 + ("poll", "follow", "return", "hang up", "cancel") * 2

# Ten minutes leave some 70,000 runs to ask for.
_SETTLE_SECONDS: Final = 600.0
_SETTLERS: Final = 16

JSON = dict[str, Any]  # Any: JSON


class Model:
    """Answers by what is asked; with `is_faulty` one in thirty in a bad way."""

    def __init__(self) -> None:
        self.is_faulty = False
        self.faults: Counter[str] = Counter()

    def choose(self, request: ProviderRequest) -> Action:
        if self.is_faulty and random.random() < 1 / 30:
            fault = random.choice(_FAULTS)
            self.faults[type(fault).__name__] += 1
            return fault
        body = request.json
        if body.get("tools"):
            used = any(message["role"] == "tool" for message in body["messages"])
            call = (
                ToolCall("2", "finish", json.dumps({"advice": "be kind"}))
                if used
                else ToolCall("1", "look_up", json.dumps({"topic": "kindness"}))
            )
            return Answer("", tool_calls=(call,))
        schema = body["response_format"]["json_schema"]["schema"]
        return Answer(json.dumps(dict.fromkeys(schema["properties"], "text")))


_FAULTS: Final[tuple[Action, ...]] = (
    Fail(429, headers={"retry-after": "1"}),
    Fail(500),
    Fail(503),
    Reset(),
    Hang(),
    Answer('{"reply": "a second late"}', delay=1.0),
    Answer("not JSON at all"),
)


@dataclass
class Tally:
    """What was asked for and what came of it."""

    runs: set[str] = field(default_factory=set[str])
    keys: dict[str, tuple[str, JSON]] = field(
        default_factory=dict[str, tuple[str, JSON]]
    )
    """Of clients that hung up before they knew their run's id."""
    refused: Counter[int] = field(default_factory=Counter[int])
    left_out: int = 0
    broken_streams: int = 0


class Clients:
    """The load: each arrival is a client of its own, in one of several manners."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.tally = Tally()
        self.open = 0
        self._client = client
        self._numbers = itertools.count()

    async def one(self, manner: str) -> None:
        self.open += 1
        try:
            await self._one(manner)
        except httpx.TransportError:
            self.tally.refused[0] += 1
        finally:
            self.open -= 1

    async def _one(self, manner: str) -> None:
        number = next(self._numbers)
        program = PROGRAMS[number % len(PROGRAMS)]
        text = f"ticket {number} of somebody who has lost a parcel"
        body: JSON = {"inputs": {"ticket": text}}
        if program == "mapped":
            body = {"inputs": {"tickets": [f"{text}, {n}" for n in range(4)]}}
        path, key = f"/v1/programs/{program}/runs", f"key-{os.getpid()}-{number}"
        headers = {"idempotency-key": key}
        if manner == "hang up":
            self.tally.keys[key] = program, body
            with trio.move_on_after(random.uniform(0.0, 0.1)):
                await self._client.post(
                    path, json=body, headers=headers, params={"wait": "30"}
                )
            return
        wait = {"wait": "30"} if manner == "wait" else {}
        reply = await self._client.post(path, json=body, headers=headers, params=wait)
        if reply.status_code not in (200, 202):
            self.tally.refused[reply.status_code] += 1
            return
        run: str = reply.json()["run_id"]
        self.tally.runs.add(run)
        if manner == "cancel":
            await self._client.post(f"/v1/runs/{run}/cancel")
        elif manner == "poll":
            await self._client.get(f"/v1/runs/{run}", params={"wait": "30"})
        elif manner == "follow":
            await self._follow(run, last=0, most=1_000)
        elif manner == "return":
            await self._follow(run, last=await self._follow(run, 0, most=2), most=1_000)

    async def _follow(self, run: str, last: int, *, most: int) -> int:
        """Read events, at most so many; give the number of the last."""
        headers = {"last-event-id": str(last)}
        path = f"/v1/runs/{run}/events"
        is_ended = False
        async with self._client.stream("GET", path, headers=headers) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("id: "):
                    last, most = int(line[4:]), most - 1
                elif line.startswith("event: finished"):
                    is_ended = True
                elif not line and most <= 0:
                    return last
        self.tally.broken_streams += not is_ended
        return last

    async def settle(self) -> tuple[int, int, Counter[str]]:
        """Ask for every run; give the lost, the stuck, and the status of all."""
        tally, lost, statuses = self.tally, 0, Counter[str]()

        async def claim(key: str) -> None:
            # The same key gives the same run, or the one that was never accepted.
            program, body = tally.keys[key]
            path = f"/v1/programs/{program}/runs"
            headers = {"idempotency-key": key}
            reply = await self._client.post(path, json=body, headers=headers)
            if reply.status_code in (200, 202):
                tally.runs.add(reply.json()["run_id"])

        async def look_at(run: str) -> None:
            nonlocal lost
            reply = await self._client.get(f"/v1/runs/{run}", params={"wait": "30"})
            if reply.status_code == 200:
                statuses[reply.json()["status"]] += 1
            else:
                lost += 1

        with trio.move_on_after(_SETTLE_SECONDS):
            await _each(list(tally.keys), claim)
            await _each(list(tally.runs), look_at)
        stuck = len(tally.runs) - lost - sum(statuses[it] for it in FINAL)
        return lost, stuck, statuses


async def _each(items: list[str], work: Callable[[str], Awaitable[None]]) -> None:
    """Do the work for each, some at a time: one after the other it takes minutes."""
    todo = iter(items)

    async def worker() -> None:
        for item in todo:
            await work(item)

    async with trio.open_nursery() as nursery:
        for _ in range(_SETTLERS):
            nursery.start_soon(worker)
