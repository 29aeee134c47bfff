"""The processes of a pool: which is free, how many there should be."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from dspex.runtime.bridge.bridge import DspyBridge
from dspex.runtime.bridge.errors import (
    SessionWorkerUnavailableError,
    TooManySessionsError,
)
from dspex.runtime.bridge.pool_job import Job
from dspex.runtime.bridge.pool_settings import PoolSettings, PoolStatistics
from dspex.runtime.bridge.run_in_flight import RunInFlight
from dspex.runtime.reasons import KILL, SHUTDOWN
from dspex.runtime.ref import ActorRef


@dataclass(eq=False, slots=True)
class PoolWorker:
    """One process and what the pool knows of it. A retired one takes no more runs."""

    ref: ActorRef[DspyBridge]
    bridge: DspyBridge
    pid: int
    runs: dict[RunInFlight, Job] = field(default_factory=dict[RunInFlight, Job])
    served: int = 0
    is_retired: bool = False
    was_killed: bool = False
    born: float = field(default_factory=trio.current_time)
    idle_since: float = field(default_factory=trio.current_time)
    checked_at: float = field(default_factory=trio.current_time)
    stopped_since: float | None = None

    @property
    def busy(self) -> int:
        """How many runs it has, the cancelled ones that it has not dropped included."""
        return len(self.runs)

    @property
    def is_used(self) -> bool:
        """Whether it counts among those of `max_size`.

        One that only ends its last runs does not: it would keep new ones out for as
        long as they take. Nor does one whose runs are brief.
        """
        return not self.is_retired and not all(j.is_brief for j in self.runs.values())

    def kill(self) -> None:
        """End it at once; its Exit message takes it off the list."""
        self.is_retired = self.was_killed = True
        self.ref.exit(KILL)

    def release(self, run: RunInFlight) -> None:
        """Take note that a run ended."""
        self.runs.pop(run, None)
        self.served += 1
        self.idle_since = trio.current_time()
        if self.is_retired and not self.busy:
            self.ref.exit(SHUTDOWN)

    def retire(self) -> None:
        """Let it end when its last run has ended."""
        self.is_retired = True
        if not self.busy:
            self.ref.exit(SHUTDOWN)

    def is_worn_out(self, settings: PoolSettings, now: float) -> bool:
        """Whether it has served too often, lived too long or grown too large."""
        most, age = settings.max_calls, settings.max_age
        if most is not None and self.served >= most:
            return True
        if age is not None and now - self.born >= age:
            return True
        limit = settings.max_memory_bytes
        return limit is not None and private_bytes(self.pid) > limit

    def has_stood_still(self, seconds: float, now: float) -> bool:
        """Whether the kernel has had it stopped all the time it was looked at.

        A process that computes, waits or sleeps is not stopped: only a signal does it.
        """
        if not self.runs or not is_stopped(self.pid):
            self.stopped_since = None
        elif self.stopped_since is None:
            self.stopped_since = now
        return self.stopped_since is not None and now - self.stopped_since >= seconds


class Workers:
    """All processes of a pool, and the arithmetic of its size."""

    def __init__(self, settings: PoolSettings) -> None:
        self.starting = 0
        self._settings = settings
        self._workers: list[PoolWorker] = []
        self._sessions: dict[str, PoolWorker | None] = {}

    def __iter__(self) -> Iterator[PoolWorker]:
        return iter(list(self._workers))

    def add(self, worker: PoolWorker) -> None:
        """Count a process in."""
        self._workers.append(worker)

    def remove(self, ref: ActorRef[Any]) -> PoolWorker | None:  # Any: of any class
        """Count a process out; its sessions are lost."""
        for worker in self._workers:
            if worker.ref == ref:
                self._workers.remove(worker)
                for session, owner in self._sessions.items():
                    if owner is worker:
                        self._sessions[session] = None
                return worker
        return None

    # Which one.

    def check_session(self, session: str | None) -> None:
        """Check that the process of a session is there; a new one is fine.

        Raises:
            SessionWorkerUnavailableError: it is gone. Told once; then it is new.
            TooManySessionsError: it is new and there is no room.
        """
        if session is None:
            return
        if session not in self._sessions:
            if len(self._sessions) >= self._settings.session_limit:
                raise TooManySessionsError(session, self._settings.session_limit)
            return
        worker = self._sessions[session]
        if worker is None or worker.is_retired:
            del self._sessions[session]
            raise SessionWorkerUnavailableError(session)

    def pick(self, session: str | None, *, is_brief: bool = False) -> PoolWorker | None:
        """Give a process with room for a run: the session's own, or the last used.

        A brief run may have one beside the `max_size` that are used.
        """
        owner = self._sessions.get(session) if session is not None else None
        if owner is not None:
            free = owner.busy < self._settings.concurrency and not owner.is_retired
            return owner if free else None
        used = sum(worker.is_used for worker in self._workers)
        candidates = [
            worker
            for worker in self._workers
            if not worker.is_retired
            and not worker.bridge.is_ending
            and worker.busy < self._settings.concurrency
            and (is_brief or worker.is_used or used < self._settings.max_size)
        ]
        # An unused process rather than a second run on a used one; of the unused
        # ones the last used, so that the others may end.
        return min(candidates, key=lambda w: (w.busy, -w.idle_since), default=None)

    def assign(self, worker: PoolWorker, job: Job, run: RunInFlight) -> None:
        """Count a run in, and tie its session to the process."""
        worker.runs[run] = job
        if job.session is not None:
            self._sessions[job.session] = worker

    def end_session(self, session: str) -> None:
        """Forget a session."""
        self._sessions.pop(session, None)

    # How many.

    def wanted(self, *, queued: int) -> int:
        """How many processes there should be, spares included."""
        settings = self._settings
        used = sum(worker.is_used for worker in self._workers)
        demand = used + math.ceil(queued / settings.concurrency)
        size = min(settings.max_size, max(settings.min_size, demand))
        return size + settings.spares

    def missing(self, *, queued: int, is_one_brief: bool = False) -> int:
        """How many to start now, one for a brief run that waits included."""
        ready = [worker for worker in self._workers if not worker.is_retired]
        wanted = self.wanted(queued=queued)
        if is_one_brief:
            wanted = max(wanted, 1 + sum(worker.busy > 0 for worker in ready))
        return max(0, wanted - len(ready) - self.starting)

    def surplus(self, *, queued: int, now: float) -> list[PoolWorker]:
        """Which idle processes are more than wanted, the longest idle first."""
        live = [worker for worker in self._workers if not worker.is_retired]
        idle_too_long = [
            worker
            for worker in live
            if not worker.busy
            and now - worker.idle_since >= self._settings.idle_timeout
            and worker not in self._sessions.values()
        ]
        idle_too_long.sort(key=lambda worker: worker.idle_since)
        return idle_too_long[: max(0, len(live) - self.wanted(queued=queued))]

    def to_ping(self, now: float) -> list[PoolWorker]:
        """Which idle processes are to be asked whether they live."""
        due = [
            worker
            for worker in self._workers
            if not worker.busy
            and not worker.is_retired
            and now - worker.checked_at >= self._settings.ping_interval
        ]
        for worker in due:
            worker.checked_at = now
        return due

    def fill(self, counts: PoolStatistics, *, queued: int) -> PoolStatistics:
        """Give the counts with what there is now."""
        live = [worker for worker in self._workers if not worker.is_retired]
        return replace(
            counts,
            size=len(live),
            busy=sum(worker.busy > 0 for worker in live),
            starting=self.starting,
            queued=queued,
        )


def private_bytes(pid: int) -> int:
    """Give the memory that only this process has; 0 when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in rollup.splitlines()]
    return sum(int(line[1]) * 1024 for line in lines if line[0].startswith("Private_"))


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process: state T of the kernel."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"
