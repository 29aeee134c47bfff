"""Observer state: what the page shows of the runtime, as plain data for templates."""

import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any, Final

import trio

from dspex.runtime import ActorRef
from dspex.runtime.journal import StoreError
from dspex.runtime.log import get_logger
from dspex.worker.app import Runtime
from dspex.worker.observer_crashes import Crashes
from dspex.worker.observer_tree import Row, read_tree
from dspex.worker.run_views import JSON, view_runs

log = get_logger()

SHOWN_RUNS: Final = 30
_STORE_PERIOD_SECONDS: Final = 2.0
_STORE_PATIENCE_SECONDS: Final = 1.0
_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A number at the top; `level` says if it calls for someone."""

    label: str
    value: str
    level: str = ""
    note: str = ""


class Watch:
    """Reads the runtime when asked, and remembers what cannot be asked later."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._since = time.time()
        self._stored: list[JSON] = []
        self._stored_at = -_STORE_PERIOD_SECONDS
        self.crashes = Crashes(runtime.node.telemetry)
        self.version = version("dspex")

    def close(self) -> None:
        """Listen no more."""
        self.crashes.close()

    @property
    def about(self) -> dict[str, Any]:  # Any: for a template
        """What this worker is."""
        minutes = int((time.time() - self._since) // _MINUTE)
        return {
            "version": self.version,
            "pid": os.getpid(),
            "has_store": self._runtime.has_store,
            "since": self._since,
            "minutes": minutes,
        }

    def overview(self) -> dict[str, Any]:  # Any: JSON
        """Give the figures at the top."""
        table = self._runtime.table
        finished = [it.finished_at for it in table if it.finished_at is not None]
        minute_ago = time.time() - _MINUTE
        return {
            "per_minute": sum(at >= minute_ago for at in finished),
            "unfinished": len(table.unfinished),
            "max_unfinished": table.max_unfinished,
            "counts": {k: v for k, v in table.counts.items() if v},
            "tokens": dict(table.tokens),
            "actors": len(self._runtime.node.processes()),
            "crashes": self.crashes.total,
            "steps": len(self._runtime.in_flight),
        }

    def figures(self) -> list[Figure]:
        """Give the overview as figures for the page."""
        it = self.overview()
        counts: dict[str, int] = it["counts"]
        tokens: dict[str, int] = it["tokens"]
        failed = counts.get("failed", 0)
        cancelled = counts.get("cancelled", 0)
        return [
            Figure("runs under way", f"{it['unfinished']:,}"),
            Figure("ended in 1 min", f"{it['per_minute']:,}"),
            Figure("succeeded", f"{counts.get('succeeded', 0):,}"),
            Figure("failed", f"{failed:,}", "critical" if failed else ""),
            *([Figure("cancelled", f"{cancelled:,}")] if cancelled else []),
            Figure("steps in flight", f"{it['steps']:,}"),
            Figure("tokens in", f"{tokens.get('input', 0):,}"),
            Figure("tokens out", f"{tokens.get('output', 0):,}"),
            Figure("actors", f"{it['actors']:,}"),
            Figure("crashes", f"{it['crashes']:,}", "warn" if it["crashes"] else ""),
        ]

    def tree(self) -> Row:
        """Give the supervision tree."""
        return read_tree(self._runtime.root)

    async def runs(self) -> list[JSON]:
        """Give the latest runs, newest first: those in memory, then the store's."""
        table = self._runtime.table
        found = [record.summary() for record in islice(table, SHOWN_RUNS)]
        if self._runtime.has_store:
            known = {it["run_id"] for it in found}
            stored = await self._read_stored()
            found += [it for it in stored if it["run_id"] not in known]
            found.sort(key=lambda it: it["accepted_at"], reverse=True)
        return found[:SHOWN_RUNS]

    async def _read_stored(self) -> list[JSON]:
        now = trio.current_time()
        if now - self._stored_at >= _STORE_PERIOD_SECONDS:
            self._stored_at = now
            try:
                with trio.move_on_after(_STORE_PATIENCE_SECONDS):
                    self._stored = await view_runs(
                        self._runtime,
                        status=None,
                        program=None,
                        before=None,
                        limit=SHOWN_RUNS,
                    )
            except StoreError as error:
                # The page goes on with what it had: the store's trouble is not its own.
                log.warning("observer_store_unreadable", reason=str(error))
        return self._stored

    def find(self, id: int) -> ActorRef[Any] | None:  # Any: of any class
        """Give a live actor by its id."""
        for process in self._runtime.node.processes():
            if process.id == id:
                return process.ref
        return None
