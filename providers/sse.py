"""Server-sent events, read without I/O: bytes in, events out.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from dataclasses import dataclass
from typing import Final

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024


class EventTooLongError(ValueError):
    """An event does not end within `MAX_EVENT_BYTES`."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `event` is "message" when the server gave no name."""

    event: str
    data: bytes


class EventParser:
    """Takes the bytes of a stream in any pieces and gives its events."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at_start = True
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Take some bytes and give the events that are whole now.

        Raises:
            EventTooLongError: the server sends one endless event.
        """
        buffer = self._buffer
        buffer += chunk
        if self._at_start and len(buffer) >= 3:
            self._at_start = False
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
        if len(buffer) + self._size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event is over {MAX_EVENT_BYTES} bytes")
        # A lone \r at the end may be the first half of \r\n: it waits.
        end = max(buffer.rfind(b"\n"), buffer.rfind(b"\r", 0, len(buffer) - 1)) + 1
        if end == 0:
            return []
        complete = bytes(buffer[:end])
        del buffer[:end]
        events: list[ServerEvent] = []
        if b"\r" in complete:
            complete = complete.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for line in complete[:-1].split(b"\n"):
            if line:
                self._take_field(line)
            elif self._data:
                data = b"\n".join(self._data)
                events.append(ServerEvent(self._event or "message", data))
                self._data.clear()
                self._size = 0
                self._event = ""
            else:
                self._event = ""
        return events

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif name == b"event":
            self._event = value.decode("utf-8", errors="replace")
