"""An MCP server as a child process: its messages, and its end.

MCP's own client starts a server that outlives a killed parent, stops reading for good
at a byte that is no UTF-8, and reads a large answer in quadratic time.
"""

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any, Final

import trio

from dspex.runtime.child_pipes import child_pipes
from dspex.runtime.child_process import GUARD, ChildProcess
from dspex.runtime.log import get_logger

log = get_logger()

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""How long one message of a server may be."""

_READ_BYTES: Final = 262_144
_GRACE_SECONDS: Final = 2.0


class LineTooLongError(ValueError):
    """A server writes one line without end."""


class MCPProcess:
    """A running server: `streams` for MCP's session; `closed` when it is silent."""

    def __init__(self, child: ChildProcess, reads: int, writes: int) -> None:
        """Use `open_mcp_process`."""
        anyio = import_module("anyio")
        self.child = child
        self.closed = trio.Event()
        self._tended = trio.CancelScope(shield=True)
        self._messages = import_module("mcp.shared.message").SessionMessage
        self._parse = import_module("mcp.types").jsonrpc_message_adapter.validate_json
        self._reads = trio.lowlevel.FdStream(reads)
        self._writes = trio.lowlevel.FdStream(writes)
        # Any: the extra is not always there to be typed.
        self._received: Any
        self._to_send: Any
        self._received, received = anyio.create_memory_object_stream(0)
        to_send, self._to_send = anyio.create_memory_object_stream(0)
        self.streams: tuple[Any, Any] = (received, to_send)  # Any: as above

    async def tend(self) -> None:
        """Run the server until `end`, whoever is cancelled meanwhile.

        Raises:
            LineTooLongError: as the member of a group.
        """
        with self._tended:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.child.run)
                nursery.start_soon(self.read)
                nursery.start_soon(self.write)

    async def read(self) -> None:
        """Hand on what the server writes, until it ends.

        Raises:
            LineTooLongError: there is no end to a line of it.
        """
        pieces: list[bytes] = []
        size = 0
        async with self._reads:
            try:
                while chunk := await self._reads.receive_some(_READ_BYTES):
                    *lines, rest = bytes(chunk).split(b"\n")
                    for line in lines:
                        await self._hand_on(b"".join([*pieces, line]))
                        pieces, size = [], 0
                    pieces.append(rest)
                    size += len(rest)
                    if size > MAX_LINE_BYTES:
                        raise LineTooLongError(
                            f"it wrote a line of more than {MAX_LINE_BYTES} bytes"
                        )
            finally:
                self.close()

    async def _hand_on(self, line: bytes) -> None:
        try:
            message: object = self._messages(self._parse(line, by_name=False))
        except ValueError as error:
            log.warning("mcp_line_unreadable", child=self.child.name, line=line[:200])
            message = error
        with suppress(*_closed()):  # the session is gone: what comes is let go
            await self._received.send(message)

    async def write(self) -> None:
        """Send the session's messages to the server, until one of them ends."""
        async for item in self._to_send:
            text: str = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                await self._writes.send_all(text.encode() + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.close()  # so that the session does not wait for answers
                return

    def close(self) -> None:
        """Tell the session that nothing more comes."""
        self.closed.set()
        self._received.close()

    async def end(self) -> None:
        """Close the server's stdin, let it end by itself for a moment, then stop it."""
        await self._writes.aclose()
        with trio.move_on_after(_GRACE_SECONDS):
            await self.child.wait()
        self._to_send.close()
        self._tended.cancel()


@asynccontextmanager
async def open_mcp_process(
    command: Sequence[str],
    *,
    name: str,
    env: Mapping[str, str],
    cwd: str | None,
) -> AsyncGenerator[MCPProcess]:
    """Run a server for the length of the block; its process group goes with it.

    Raises:
        ChildStartError: there is no such folder.
        LineTooLongError: as the member of a group.
    """
    defaults: Mapping[str, str] = import_module(
        "mcp.client.stdio"
    ).get_default_environment()
    with child_pipes() as pipes:
        asked, answered = pipes.to_child(), pipes.from_child()
        child = ChildProcess.start(
            [sys.executable, "-I", str(GUARD), *command],
            name=name,
            env={**defaults, **env},
            cwd=cwd,
            stdin=asked.theirs,
            stdout=answered.theirs,
        )
    process = MCPProcess(child, answered.ours, asked.ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.tend)
        try:
            yield process
        finally:
            with trio.CancelScope(shield=True):
                await process.end()


def _closed() -> tuple[type[Exception], ...]:
    anyio = import_module("anyio")
    return (anyio.ClosedResourceError, anyio.BrokenResourceError)
