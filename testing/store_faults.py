"""Faults of the store: a full disk, a lock held by another, a slow sync; all real."""

import sqlite3
import threading
import time
from typing import Any, Final

from sqlalchemy import event

from dspex.runtime.journal.store import Store
from dspex.testing.fault_plan import Fault, FaultPlanError
from dspex.testing.fault_schedule import Schedule

NAME: Final = "store"


class StoreFaults:
    """Hits the commits of a store by a schedule.

    - `full`: SQLite may take no page more, and this transaction needs one: its own
      SQLITE_FULL comes, and nothing of the transaction is kept
    - `lock`: another connection holds the write lock for `seconds`
    - `slow`: `seconds` pass between COMMIT and its end, with the lock held

    Raises:
        FaultPlanError: `full` or `lock`, and the store is not SQLite.
    """

    def __init__(self, store: Store, schedule: Schedule, *, kinds: set[str]) -> None:
        self._schedule = schedule
        self._path = store.url.database or ""
        self._engine = store.engine
        if kinds & {"full", "lock"} and self._engine.dialect.name != "sqlite":
            raise FaultPlanError(f"full and lock are for SQLite, not {store.name}")
        self._lock: threading.Thread | None = None
        self._unlock = threading.Event()
        event.listen(self._engine, "before_cursor_execute", self._on_statement)
        event.listen(self._engine, "commit", self._on_commit)

    def close(self) -> None:
        """Do no more harm, and release the lock."""
        event.remove(self._engine, "before_cursor_execute", self._on_statement)
        event.remove(self._engine, "commit", self._on_commit)
        self._unlock.set()
        if self._lock is not None:
            self._lock.join()

    # Any: SQLAlchemy's own, as its events hand it out. Both run in the thread of the
    # transaction, of which there is one at a time.
    def _on_statement(self, *event: Any) -> None:
        statement: str = event[2]
        if statement.startswith("BEGIN"):
            fault = self._schedule.meet_target(NAME, "commit", counts=_is_lock)
            if fault is not None:
                self._hold(fault.seconds)

    def _on_commit(self, connection: Any) -> None:
        fault = self._schedule.meet_target(NAME, "commit", counts=_is_of_commit)
        if fault is None:
            return
        if fault.kind == "slow":
            time.sleep(fault.seconds)
        else:
            _overflow(connection)

    def _hold(self, seconds: float) -> None:
        if self._lock is not None:
            self._lock.join()
        held = threading.Event()

        def hold() -> None:
            other = sqlite3.connect(self._path, isolation_level=None, timeout=20)
            try:
                other.execute("BEGIN IMMEDIATE")
                held.set()
                self._unlock.wait(seconds)
                other.execute("ROLLBACK")
            finally:
                held.set()
                other.close()

        self._lock = threading.Thread(target=hold, daemon=True)
        self._lock.start()
        held.wait()


def _is_lock(fault: Fault) -> bool:
    return fault.on == "store" and fault.kind == "lock"


def _is_of_commit(fault: Fault) -> bool:
    return fault.on == "store" and fault.kind != "lock"


def _overflow(connection: Any) -> None:  # Any: as above
    """Ask for a page more than there may be: SQLite says that it is full."""
    run = connection.exec_driver_sql
    pages = run("PRAGMA page_count").scalar()
    most = run("PRAGMA max_page_count").scalar()
    size = run("PRAGMA page_size").scalar()
    free = run("PRAGMA freelist_count").scalar()
    run(f"PRAGMA max_page_count={pages}")
    try:
        # Rolled back with all the rest of the transaction.
        blob = f"zeroblob({(free + 2) * size})"
        run(f"CREATE TABLE dspex_fault AS SELECT {blob} AS data")
    finally:
        run(f"PRAGMA max_page_count={most}")
