"""Frames: how messages lie on the socket, the same on both sides.

A frame is its length (4 bytes, big-endian) and a msgpack body. Nothing here does
I/O: `FrameReader` takes the bytes as they come and gives the bodies they hold.
"""

from typing import Final

from dspex.runtime.bridge.errors import FrameTooLargeError, ProtocolError

FRAME_LIMIT_BYTES: Final = 64 * 1024 * 1024
_HEADER_BYTES: Final = 4


def frame(body: bytes, *, what: str) -> bytes:
    """Put the length before `body`.

    Raises:
        FrameTooLargeError: it is over the limit; `what` names it in the message.
    """
    if len(body) > FRAME_LIMIT_BYTES:
        raise FrameTooLargeError(what, len(body), FRAME_LIMIT_BYTES)
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


class FrameReader:
    """Gives whole bodies out of a stream of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Take the next bytes of the stream and give the bodies that are complete.

        Raises:
            ProtocolError: a length over the limit: this is no frame.
        """
        buffer = self._buffer
        if not buffer and len(data) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "big")
            if len(data) == end:  # one whole frame, as nearly always
                return [bytes(data[_HEADER_BYTES:])]
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= _HEADER_BYTES:
            begin = start + _HEADER_BYTES
            length = int.from_bytes(buffer[start:begin], "big")
            if length > FRAME_LIMIT_BYTES:
                raise ProtocolError(
                    f"a frame of {length} bytes was announced, the limit is "
                    f"{FRAME_LIMIT_BYTES}: the peer does not speak this protocol"
                )
            if len(buffer) - begin < length:
                break
            start = begin + length
            bodies.append(bytes(buffer[begin:start]))
        del buffer[:start]
        return bodies

    def check_end(self) -> None:
        """Check at the end of the stream that no frame is cut short.

        Raises:
            ProtocolError: it ended in the middle of a frame.
        """
        if self._buffer:
            raise ProtocolError(
                f"the stream ended {len(self._buffer)} bytes into a frame"
            )
