"""The text of steps as events: over HTTP, under asyncio, in threads."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")

import dspex
from dspex import App, Program, Step
from dspex.runtime.engine import StepOptions
from dspex.worker.event_cursor import EventCursor
from dspex.worker.run_record import RunEvent
from dspex.worker.run_texts import RunTexts
from dspex.worker.runs import RunTable
from tests.integration.http_client import head, open_request, parse
from tests.integration.text_reader import TextReader
from tests.worker.test_http_api import Worker, open_worker
from tests.worker.typewriter import Typewriter

WORDS = "bees make honey out of nectar, and wax out of honey"
KEY = ("classify", None, "category")


def program() -> Program:
    step = Step(
        module="Predict",
        signature="ticket -> category",
        options=StepOptions(stream=True),
    )
    return Program(name="triage", steps={"classify": step})


def app(lm: Typewriter) -> App:
    return App(program(), lm=lm)


def said(text: str) -> str:
    return json.dumps({"category": text})


class Events:
    """Reads server-sent events, off a connection if there are not enough in `data`."""

    def __init__(
        self, stream: trio.abc.ReceiveStream | None = None, data: bytes = b""
    ) -> None:
        self._stream = stream
        self._buffer = data
        self.ids: list[int] = []
        self.kinds: list[str] = []
        self.reader = TextReader()

    async def read(self) -> bool:
        """Read one event; False at the end."""
        while (block := self._block()) is None:
            more: bytes | bytearray = b""
            if self._stream is not None:
                more = await self._stream.receive_some(65_536)
            if not more:
                return False
            self._buffer += more
        named = dict(line.split(": ", 1) for line in block.decode().splitlines())
        self.kinds.append(named["event"])
        if "id" in named:
            self.ids.append(int(named["id"]))
        if named["event"] == "delta":
            data: dict[str, Any] = json.loads(named["data"])
            for name in ("seq", "run_id", "kind", "at"):
                del data[name]
            self.reader.take(**data)
        return True

    def _block(self) -> bytes | None:
        # The frames of the chunked body and the head are left out.
        start = self._buffer.find(b"id: ")
        delta = self._buffer.find(b"event: delta")
        starts = [it for it in (start, delta) if it >= 0]
        end = self._buffer.find(b"\n\n", min(starts)) if starts else -1
        if end < 0:
            return None
        block = self._buffer[min(starts) : end]
        self._buffer = self._buffer[end + 2 :]
        return block


@asynccontextmanager
async def following(worker: Worker, run: str, **headers: str) -> AsyncGenerator[Events]:
    path = f"/v1/runs/{run}/events"
    async with open_request(worker.port, "GET", path, headers=headers) as stream:
        yield Events(stream)


async def test_a_client_is_told_text_while_it_is_written_and_no_number_of_it() -> None:
    lm = Typewriter(said(WORDS), stop_after=8)
    async with open_worker(app=app(lm)) as worker:
        run = await worker.run()
        async with following(worker, run) as events:
            with trio.fail_after(10):
                await lm.stopped.wait()
                while not events.reader.pieces:
                    assert await events.read()
                assert WORDS.startswith(events.reader.texts[KEY])
                lm.go_on.set()
                while await events.read():
                    pass
    assert events.reader.texts == {KEY: WORDS}
    assert events.ids == [1, 2, 3, 4, 5, 6]
    assert events.kinds[-1] == "finished"


async def test_who_comes_back_with_its_last_id_misses_nothing() -> None:
    lm = Typewriter(said(WORDS), stop_after=8)
    async with open_worker(app=app(lm)) as worker:
        run = await worker.run()
        with trio.fail_after(10):
            await lm.stopped.wait()
            async with following(worker, run) as first:
                while not first.reader.pieces:
                    await first.read()
            last = str(first.ids[-1])
            async with following(worker, run, **{"last-event-id": last}) as second:
                lm.go_on.set()
                while await second.read():
                    pass
            end = str(second.ids[-1])
            async with following(worker, run, **{"last-event-id": end}) as third:
                assert not await third.read()
    assert first.ids + second.ids == [1, 2, 3, 4, 5, 6]
    assert second.reader.texts == {KEY: WORDS}


async def test_a_client_that_does_not_read_gets_it_all_in_fewer_pieces() -> None:
    text = "".join(f"{number:4095d} " for number in range(2_000))
    lm = Typewriter(said(text), size=4_096)
    async with open_worker(app=app(lm)) as worker:
        run = await worker.run()
        with trio.fail_after(30):
            slow = trio.socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            await slow.connect(("127.0.0.1", worker.port))
            async with trio.SocketStream(slow) as stream:
                path = f"/v1/runs/{run}/events"
                await stream.send_all(head("GET", path, b"", None))
                # It reads nothing, and nobody waits for it.
                done = await worker.ask("GET", f"/v1/runs/{run}?wait=20")
                assert done.json["status"] == "succeeded"
                data = bytearray()
                while more := await stream.receive_some(65_536):
                    data += more
        events = Events(data=parse(bytes(data)).body)
        while await events.read():
            pass
    assert events.reader.texts == {KEY: text}
    assert 1 < events.reader.pieces < lm.written / 2
    assert events.ids == [1, 2, 3, 4, 5, 6]


def test_asyncio_is_told_text_while_it_is_written() -> None:
    lm = Typewriter(said(WORDS), pace=0.01)

    async def main() -> list[RunEvent]:
        async with dspex.aio.open_runtime(app(lm)) as rt:
            return [event async for event in rt.stream("triage", ticket="x")]

    events = asyncio.run(main())
    reader = TextReader()
    for event in events:
        reader.read(event)
    assert reader.texts == {KEY: WORDS}
    assert reader.pieces > 3
    assert [it.seq for it in events if it.kind != "delta"] == [1, 2, 3, 4, 5, 6]


def test_a_thread_is_told_text_while_it_is_written() -> None:
    lm = Typewriter(said(WORDS), pace=0.01)
    reader = TextReader()
    with dspex.sync.open_runtime(app(lm)) as rt:
        for event in rt.events(rt.submit("triage", {"ticket": "x"})):
            reader.read(event)
    assert reader.texts == {KEY: WORDS}
    assert reader.pieces > 3


async def test_a_run_that_comes_back_to_this_process_is_told_from_its_beginning() -> (
    None
):
    table = RunTable()
    cursor = EventCursor(table, None, "r", after=0)

    async def told(text: str) -> list[Any]:
        record = table.adopt("r", program(), {}, 0.0)
        record.texts = RunTexts(record, is_kept=True)
        step = record.texts.step(("classify", None), ("category",))
        step.add(step.open(), "category", text)
        return [it.data.get("text") for it in await cursor.take() or ()]

    assert await told("one") == [None, None, "one"]
    table.settle("r", None)
    assert (await told("two"))[-1] == "two"
