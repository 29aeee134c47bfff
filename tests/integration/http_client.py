"""A bare HTTP/1.1 client: a thousand of them cost next to nothing."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # Any: JSON
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def head(
    method: str, path: str, body: bytes, headers: Mapping[str, str] | None
) -> bytes:
    fields = {
        "host": "127.0.0.1",
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def ask(
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Reply:
    """Make one request on a connection of its own."""
    data = b"" if body is None else json.dumps(body).encode()
    with trio.fail_after(timeout):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(head(method, path, data, headers))
            raw = bytearray()
            while chunk := await stream.receive_some(65_536):
                raw += chunk
    return parse(bytes(raw))


def parse(raw: bytes) -> Reply:
    top, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    if not first:
        raise ConnectionError("the server closed without an answer")
    fields = {
        k.strip().lower(): v.strip() for k, _, v in (it.partition(":") for it in lines)
    }
    if fields.get("transfer-encoding") == "chunked":
        body = dechunk(body)
    return Reply(int(first.split()[1]), fields, body)


def dechunk(body: bytes) -> bytes:
    out = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        out += rest[:length]
        body = rest[length + 2 :]
        if not length:
            break
    return bytes(out)


@asynccontextmanager
async def open_request(
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[trio.SocketStream]:
    """Make a request and give its connection, with the answer unread."""
    data = b"" if body is None else json.dumps(body).encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head(method, path, data, headers))
        yield stream
