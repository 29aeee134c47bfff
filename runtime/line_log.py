"""LineLog: what a child process writes becomes log lines with its pid."""

import os
from collections import deque
from contextvars import Context
from typing import Final

import trio

from dspex.runtime.log import get_logger

_TAIL_LINES: Final = 40
_LINE_LIMIT_BYTES: Final = 8192
_READ_BYTES: Final = 65536
_LINES_PER_SECOND: Final = 500
_WINDOW_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.005

_log = get_logger()


class LineLog:
    """Logs the lines that come out of a pipe and keeps the last 40 of them.

    A line over 8 kB is cut into several. Of more than 500 a second the rest is not
    logged but counted, and read at no more than 13 MB a second, so that a child which
    floods does not keep its owner busy; the last 40 are kept all the same.
    """

    def __init__(self, fd: int, *, child: str, pid: int) -> None:
        """Take the read end of the pipe; `run` closes it."""
        self._stream = trio.lowlevel.FdStream(fd)
        self._child = child
        self._pid = pid
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._window_ends = 0.0
        self._left = 0
        self._dropped = 0
        self._rest = b""
        self._context: Context | None = None

    def log_as(self, context: Context | None) -> None:
        """Log what is written from now on in a context, such as that of a run.

        What lies in the pipe, up to 64 kB, is logged before, as it was to be.
        """
        if context is self._context:
            return
        try:
            chunk = os.read(self._stream.fileno(), _READ_BYTES)
        except OSError:  # nothing, or closed
            chunk = b""
        if chunk:
            self._begin_window()
            self._rest = self._take(self._rest + chunk)
        self._context = context

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        return tuple(self._tail)

    async def run(self) -> None:
        """Log until the pipe's last writer has closed it."""
        try:
            while True:
                chunk = await self._read()
                self._begin_window()
                if chunk is None:
                    continue
                if not chunk:
                    break
                self._rest = self._take(self._rest + chunk)
                if self._dropped:
                    # Whoever floods waits for us, and not the owner for it.
                    await trio.sleep(_PAUSE_SECONDS)
        finally:
            if self._rest:
                self._add(self._rest)
            self._tell_dropped()
            self.close()

    def close(self) -> None:
        """Close the read end, for who never ran it."""
        self._stream.close()

    async def _read(self) -> bytes | None:
        """Give what comes; None if what was dropped is to be told before."""
        with trio.CancelScope() as scope:
            if self._dropped:
                scope.deadline = self._window_ends
            return bytes(await self._stream.receive_some(_READ_BYTES))
        return None

    def _begin_window(self) -> None:
        now = trio.current_time()
        if now >= self._window_ends:
            self._tell_dropped()
            self._window_ends = now + _WINDOW_SECONDS
            self._left = _LINES_PER_SECOND

    def _tell_dropped(self) -> None:
        if self._dropped:
            _log.warning(
                "child_output_dropped",
                child=self._child,
                pid=self._pid,
                lines=self._dropped,
            )
            self._dropped = 0

    def _take(self, data: bytes) -> bytes:
        """Log the lines of some bytes and give the rest after the last of them."""
        *lines, rest = data.split(b"\n", max(0, self._left))
        for line in lines:
            self._add(line)
        # Over what may be logged lines are counted, not made, but for the last few.
        over = rest.count(b"\n")
        if over:
            *last, rest = rest.rsplit(b"\n", _TAIL_LINES + 1)
            if len(last) > _TAIL_LINES:  # the first of them is all that was before
                self._dropped += over - len(last) + 1
                del last[0]
            for line in last:
                self._add(line)
        if len(rest) > _LINE_LIMIT_BYTES:
            self._add(rest)
            rest = b""
        return rest

    def _add(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, _LINE_LIMIT_BYTES):
            piece = line[start : start + _LINE_LIMIT_BYTES]
            text = piece.decode(errors="replace").rstrip("\r")
            self._tail.append(text)
            if self._left > 0:
                self._left -= 1
                if self._context is None:
                    self._log(text)
                else:
                    self._context.run(self._log, text)
            else:
                self._dropped += 1

    def _log(self, line: str) -> None:
        _log.info("child_output", child=self._child, pid=self._pid, line=line)
