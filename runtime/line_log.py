"""LineLog: what a child process writes becomes log lines with its pid."""

from collections import deque
from typing import Final

import trio

from dspex.runtime.log import get_logger

_TAIL_LINES: Final = 40
_LINE_LIMIT_BYTES: Final = 8192
_READ_BYTES: Final = 65536

_log = get_logger()


class LineLog:
    """Logs the lines that come out of a pipe and keeps the last 40 of them.

    A line over 8 kB is cut into several.
    """

    def __init__(self, fd: int, *, child: str, pid: int) -> None:
        """Take the read end of the pipe; `run` closes it."""
        self._stream = trio.lowlevel.FdStream(fd)
        self._child = child
        self._pid = pid
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        return tuple(self._tail)

    async def run(self) -> None:
        """Log until the pipe's last writer has closed it."""
        rest = b""
        try:
            while chunk := await self._stream.receive_some(_READ_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._add(line)
                if len(rest) > _LINE_LIMIT_BYTES:
                    self._add(rest)
                    rest = b""
        finally:
            if rest:
                self._add(rest)
            self.close()

    def close(self) -> None:
        """Close the read end, for who never ran it."""
        self._stream.close()

    def _add(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, _LINE_LIMIT_BYTES):
            piece = line[start : start + _LINE_LIMIT_BYTES]
            text = piece.decode(errors="replace").rstrip("\r")
            self._tail.append(text)
            _log.info("child_stderr", child=self._child, pid=self._pid, line=text)
