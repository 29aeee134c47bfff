"""Where cached answers lie: in memory, or in a file that several processes share."""

import sqlite3
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import trio

from dspex.providers.errors import ConfigurationError
from dspex.runtime.log import get_logger
from dspex.runtime.threads import run_in_thread

_log = get_logger()


class CacheStore(Protocol):
    """Keeps bodies under keys, up to a size; the least recently used go first."""

    async def get(self, key: str) -> bytes | None:
        """Give what is there and not too old."""
        ...

    async def put(self, key: str, body: bytes, ttl: float | None) -> None:
        """Keep it for `ttl` seconds; None: for as long as there is room."""
        ...


class MemoryStore:
    """Keeps at most `max_bytes` of bodies in this process."""

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self.size_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """Give what is there and not too old."""
        await trio.lowlevel.checkpoint()
        entry = self._bodies.get(key)
        if entry is None:
            return None
        body, expires = entry
        if expires is not None and trio.current_time() >= expires:
            self._drop(key)
            return None
        self._bodies.move_to_end(key)
        return body

    async def put(self, key: str, body: bytes, ttl: float | None) -> None:
        """Keep it for `ttl` seconds; None: for as long as there is room."""
        await trio.lowlevel.checkpoint()
        self._drop(key)
        if len(body) > self._max_bytes:
            return
        expires = None if ttl is None else trio.current_time() + ttl
        self._bodies[key] = (body, expires)
        self.size_bytes += len(body)
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._bodies)))

    def _drop(self, key: str) -> None:
        entry = self._bodies.pop(key, None)
        if entry is not None:
            self.size_bytes -= len(entry[0])


class SQLiteStore:
    """Keeps at most `max_bytes` of bodies in a file, which processes may share.

    A file that cannot be read or written later on counts as a miss, and is logged:
    a cache must not be why a call fails.

    Raises:
        ConfigurationError: `path` cannot be opened as a database.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 1024**3) -> None:
        self._path = str(path)
        self._max_bytes = max_bytes
        self._one_thread = trio.CapacityLimiter(1)
        self._lock = threading.Lock()  # a thread that was abandoned may still run
        try:
            self._database = sqlite3.connect(
                self._path, timeout=5.0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise _cannot_open(self._path, error) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, "
                "body BLOB NOT NULL, expires REAL, used REAL NOT NULL) WITHOUT ROWID"
            )
            self._database.execute(
                "CREATE INDEX IF NOT EXISTS answer_used ON answer (used)"
            )
        except sqlite3.Error as error:
            self._database.close()
            raise _cannot_open(self._path, error) from error

    async def get(self, key: str) -> bytes | None:
        """Give what is there and not too old."""
        return await run_in_thread(
            self._get, key, limiter=self._one_thread, abandon_on_cancel=True
        )

    async def put(self, key: str, body: bytes, ttl: float | None) -> None:
        """Keep it for `ttl` seconds; None: for as long as there is room."""
        await run_in_thread(
            self._put, key, body, ttl, limiter=self._one_thread, abandon_on_cancel=True
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _get(self, key: str) -> bytes | None:
        now = time.time()
        try:
            with self._lock:
                row = self._database.execute(
                    "UPDATE answer SET used = ? WHERE key = ? "
                    "AND (expires IS NULL OR expires > ?) RETURNING body",
                    (now, key, now),
                ).fetchone()
        except sqlite3.Error as error:
            _log.warning("cache_failed", path=self._path, reason=str(error))
            return None
        return None if row is None else bytes(row[0])

    def _put(self, key: str, body: bytes, ttl: float | None) -> None:
        if len(body) > self._max_bytes:
            return
        now = time.time()
        expires = None if ttl is None else now + ttl
        try:
            with self._lock:
                self._database.execute(
                    "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)",
                    (key, body, expires, now),
                )
                self._shrink()
        except sqlite3.Error as error:
            _log.warning("cache_failed", path=self._path, reason=str(error))

    def _shrink(self) -> None:
        (size,) = self._database.execute(
            "SELECT coalesce(sum(length(body)), 0) FROM answer"
        ).fetchone()
        while size > self._max_bytes:
            (gone,) = self._database.execute(
                "DELETE FROM answer WHERE key = (SELECT key FROM answer "
                "ORDER BY used LIMIT 1) RETURNING length(body)"
            ).fetchone()
            size -= gone


def _cannot_open(path: str, error: sqlite3.Error) -> ConfigurationError:
    return ConfigurationError(
        f"the cache {path!r} cannot be opened: {error}",
        provider="cache",
        remedy="give a path in a folder you can write to, or delete the file",
    )
