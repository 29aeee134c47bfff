"""HTTP/1.1 on one socket: the state machine of h11, and a thin shell around it.

httpcore's own HTTP/1.1 connection takes three locks and opens five tracing contexts
for a call, which costs more CPU than all of h11. A pool that gives a connection to one
request at a time needs neither. What httpcore raises is raised here too.
"""

from typing import Final, cast

import h11
import httpcore

from dspex.providers.connections import Outgoing
from dspex.providers.exchange import HeaderList

_READ_BYTES: Final = 65_536
MAX_HEAD_BYTES: Final = 100 * 1024


class HTTP11Connection:
    """Carries one request after another; whoever has it waits for nobody."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._state = h11.Connection(
            h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES
        )

    async def begin(self, outgoing: Outgoing) -> "HTTP11Incoming":
        """Send a request and give its reply, once the head of it is there.

        After an error the connection is good for nothing but `aclose`.

        Raises:
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        try:
            await self._send(outgoing)
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error
        except httpcore.WriteError:
            pass  # the server may have answered before it closed: read that
        seconds = outgoing.timeouts.get("read")
        while True:
            event = await self.next_event(seconds)
            if isinstance(event, h11.Response):
                return HTTP11Incoming(self, event, seconds)

    @property
    def is_done(self) -> bool:
        """Whether the next request may be sent: the last one and its reply ended."""
        state = self._state
        return state.our_state is h11.IDLE

    def is_broken(self) -> bool:
        """Whether the server has closed it, or has sent what nobody asked for."""
        return bool(self._stream.get_extra_info("is_readable"))

    async def aclose(self) -> None:
        """Close; a request under way ends without an answer."""
        await self._stream.aclose()

    async def next_event(self, seconds: float | None) -> h11.Event:
        """Give the next part of the reply; wait `seconds` for each packet of it.

        Raises:
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        state = self._state
        while True:
            try:
                event = state.next_event()
                if event is not h11.NEED_DATA:
                    # PAUSED is for servers, and for those who ask after the end.
                    return cast("h11.Event", event)
                data = await self._stream.read(_READ_BYTES, seconds)
                if not data and state.their_state is h11.SEND_RESPONSE:
                    raise httpcore.RemoteProtocolError(
                        "Server disconnected without sending a response."
                    )
                state.receive_data(data)
            except h11.RemoteProtocolError as error:
                raise httpcore.RemoteProtocolError(str(error)) from error

    def end(self) -> None:
        """Make ready for the next request, if this one went as it should."""
        state = self._state
        if (
            state.our_state is h11.DONE
            and state.their_state is h11.DONE
            # What came after the reply would be taken for the next one.
            and not state.trailing_data[0]
        ):
            state.start_next_cycle()

    async def _send(self, outgoing: Outgoing) -> None:
        state, write = self._state, self._stream.write
        seconds = outgoing.timeouts.get("write")
        head = state.send(
            h11.Request(
                method=outgoing.method,
                target=outgoing.url.target,
                headers=list(outgoing.headers),
            )
        )
        body = outgoing.body
        if isinstance(body, bytes):
            data, end = state.send(h11.Data(data=body)), state.send(h11.EndOfMessage())
            await write(head + data + end, seconds)
            return
        await write(head, seconds)
        async for chunk in body:
            await write(state.send(h11.Data(data=chunk)), seconds)
        await write(state.send(h11.EndOfMessage()), seconds)


class HTTP11Incoming:
    """The reply to the request that a connection carries."""

    def __init__(
        self, connection: HTTP11Connection, head: h11.Response, seconds: float | None
    ) -> None:
        self.status = head.status_code
        self.headers: HeaderList = head.headers.raw_items()
        self.http_version = b"HTTP/" + head.http_version
        self._connection = connection
        self._seconds = seconds

    async def next_chunk(self) -> bytes:
        """Give the next part of the body, as it was sent; b"" at its end.

        Raises:
            httpcore.NetworkError: it broke; its other errors for the other reasons.
        """
        while True:
            event = await self._connection.next_event(self._seconds)
            if not isinstance(event, h11.Data):
                return b""
            if event.data:
                return bytes(event.data)

    async def end(self, *, is_whole: bool) -> bool:
        """Be done with it; tell whether its connection is now free for another."""
        if is_whole:
            self._connection.end()
            if self._connection.is_done:
                return True
        await self._connection.aclose()
        return False
