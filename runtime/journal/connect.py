"""Connections to the store: SQLite that loses nothing, or Postgres by psycopg."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from dspex.runtime.journal.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreOpenError,
    StoreReadOnlyError,
)

BUSY_SECONDS: Final = 20.0
"""How long a write waits for other processes that write to the same file, or hold a
lock of the same database; SQLite is not fair, so one of several may wait long."""

CONNECT_SECONDS: Final = 5

# With these a server that vanished without a word is given up after BUSY_SECONDS, in
# the middle of a statement, too; the system's own numbers are hours.
_ALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": round(BUSY_SECONDS * 1_000),
}

_PAGE_BYTES: Final = 8_192

_WAL_TRIES: Final = 50
_WAL_WAIT_SECONDS: Final = 0.1

# The beginnings of SQLite's error names, and of Postgres's SQLSTATEs.
_SQLITE_FAULTS: Final = {
    "SQLITE_FULL": StoreFullError,
    "SQLITE_BUSY": StoreLockedError,
    "SQLITE_LOCKED": StoreLockedError,
    "SQLITE_READONLY": StoreReadOnlyError,
    "SQLITE_CORRUPT": StoreCorruptError,
    "SQLITE_NOTADB": StoreCorruptError,
    "SQLITE_CANTOPEN": StoreOpenError,
    "SQLITE_PERM": StoreOpenError,
    "SQLITE_AUTH": StoreOpenError,
}
_POSTGRES_FAULTS: Final = {
    "53100": StoreFullError,
    "55P03": StoreLockedError,
    "25006": StoreReadOnlyError,
    "42501": StoreReadOnlyError,
    "XX001": StoreCorruptError,
    "XX002": StoreCorruptError,
    "08": StoreOpenError,
    "28": StoreOpenError,
    "3D": StoreOpenError,
    "57P": StoreOpenError,
}


def store_url(store: str | Path) -> URL:
    """Give the URL of a store: a path is a SQLite file.

    Raises:
        StoreOpenError: neither a path nor a URL of a kind that dspex can open.
    """
    if isinstance(store, Path) or "://" not in store:
        if not str(store):
            raise StoreOpenError(repr(store), "it has no name")
        _check_name(":memory:" if "mode=memory" in str(store) else str(store))
        return URL.create("sqlite", database=str(Path(store).absolute()))
    try:
        url = make_url(store)
    except ArgumentError as error:
        raise StoreOpenError(repr(store), "it is neither a path nor a URL") from error
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or not url.database:
        raise StoreOpenError(
            str(url), "it is neither a file nor postgresql://USER@HOST/DATABASE"
        )
    is_memory = url.query.get("mode") == "memory"
    _check_name(":memory:" if is_memory else url.database)
    return url


def _check_name(name: str) -> None:
    if ":memory:" in name:
        raise StoreOpenError(ascii(name), "a store must be a file, not memory")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        problem = "no file can have this name: it has a lone surrogate"
        raise StoreOpenError(ascii(name), problem) from error
    if b"\0" in encoded:
        raise StoreOpenError(repr(name), "no file can have this name: it has a NUL")


def connect(url: URL, *, writes: bool, connections: int) -> Engine:
    """Make an engine with at most so many connections; opens none yet.

    Raises:
        StoreOpenError: psycopg is not installed.
    """
    options: dict[str, Any] = {}  # Any: create_engine's own
    if url.get_backend_name() == "sqlite":
        options["timeout"] = BUSY_SECONDS
        options["check_same_thread"] = False
    else:
        options |= _postgres_options(url)
    try:
        engine = create_engine(
            url,
            connect_args=options,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=url.get_backend_name() != "sqlite",
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StoreOpenError(
            str(url), "psycopg is not installed: pip install 'dspex[postgres]'"
        ) from error
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine, writes=writes)
    return engine


def _postgres_options(url: URL) -> dict[str, str | int]:
    """Give what bounds each wait for the server; what the URL says goes before."""
    defaults = {"connect_timeout": CONNECT_SECONDS, **_ALIVE}
    unsaid = {name: it for name, it in defaults.items() if name not in url.query}
    # Else a lock of somebody else's would be waited for without an end. The last of
    # several settings counts, so that the URL's may say otherwise.
    lock = f"-c lock_timeout={round(BUSY_SECONDS * 1_000)}"
    return {
        **unsaid,
        "options": " ".join((lock, *url.normalized_query.get("options", ()))),
    }


def _set_up_sqlite(engine: Engine, *, writes: bool) -> None:
    # Any: the connection of sqlite3, which SQLAlchemy hands out untyped.
    def on_connect(connection: Any, _: object) -> None:
        # SQLAlchemy begins transactions, not the driver.
        connection.isolation_level = None
        if writes:
            # Of a new file only. Prompts and answers seldom fit the usual 4 KiB, and
            # what overflows a page costs pages of its own.
            connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    def on_begin(connection: Any) -> None:  # Any: SQLAlchemy's Connection
        # A write transaction that begins as a read one cannot wait for its turn.
        # Not by the driver: who listens to the engine (faults of tests) hears of it.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _use_wal(connection: Any) -> None:  # Any: as above
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    # The busy timeout does not count for this statement.
    for left in range(_WAL_TRIES, -1, -1):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except Exception as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY" or not left:
                raise
        time.sleep(_WAL_WAIT_SECONDS)


@contextmanager
def faults(engine: Engine) -> Generator[None]:
    """Turn the database's own errors into StoreError."""
    driver: type[Exception] = engine.dialect.loaded_dbapi.Error
    began = time.monotonic()
    try:
        yield
    except (SQLAlchemyError, driver) as error:
        seconds = time.monotonic() - began
        raise _translate(engine.url, error, seconds=seconds) from error


def _translate(url: URL, error: Exception, *, seconds: float) -> StoreError:
    cause = getattr(error, "orig", None) or error
    code = str(
        getattr(cause, "sqlite_errorname", None)
        or getattr(cause, "sqlstate", None)
        or ""
    )
    kind = StoreError
    for table in (_SQLITE_FAULTS, _POSTGRES_FAULTS):
        for beginning, fault in table.items():
            if code.startswith(beginning):
                kind = fault
    if not code and getattr(error, "connection_invalidated", False):
        kind = StoreOpenError
    if not code and type(cause).__name__ in {"OperationalError", "ConnectionTimeout"}:
        kind = StoreOpenError
    problem = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
    if kind is StoreLockedError:
        problem = f"{problem}: another process held it for {seconds:.1f} s"
    return kind(url.render_as_string(), problem)
