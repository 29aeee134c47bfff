"""The runs that wait for a process, first come first served, the brief ones before."""

import math
from collections import deque

from dspex.runtime.bridge.errors import PoolFullError, QueueTimeoutError
from dspex.runtime.bridge.pool_job import Job
from dspex.runtime.bridge.pool_settings import PoolSettings
from dspex.runtime.bridge.pool_worker import PoolWorker, Workers


class PoolQueue:
    """A bounded queue; jobs whose callers are gone are never given out."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._jobs: deque[Job] = deque()
        # Whether any job ever had a session: without, the first that finds nobody
        # free tells for all behind it.
        self._knows_sessions = False

    def __len__(self) -> int:
        return len(self._jobs)

    def check_room(self, pool: str) -> None:
        """Check that one more may wait.

        Raises:
            PoolFullError: the queue is full, also without the abandoned jobs.
        """
        if len(self._jobs) >= self._settings.queue_limit:
            self._drop_unwanted()
        if len(self._jobs) >= self._settings.queue_limit:
            raise PoolFullError(pool, self._settings.queue_limit)

    def put(self, job: Job) -> None:
        """Let a job wait; `check_room` comes first."""
        self._knows_sessions |= job.session is not None
        if job.is_brief:
            self._jobs.appendleft(job)
        else:
            self._jobs.append(job)

    @property
    def begins_briefly(self) -> bool:
        """Whether a brief run waits: those come first."""
        return bool(self._jobs) and self._jobs[0].is_brief

    def take(self, workers: Workers) -> tuple[Job, PoolWorker] | None:
        """Give the first job that some process is free for, and that process.

        A job that waits for the process of its session lets others pass.
        """
        while self._jobs and not self._jobs[0].answer.is_wanted:
            self._jobs.popleft()
        nobody_free = False
        for index, job in enumerate(self._jobs):
            if not job.answer.is_wanted or (nobody_free and job.session is None):
                continue
            worker = workers.pick(job.session, is_brief=job.is_brief)
            if worker is not None:
                del self._jobs[index]
                return job, worker
            nobody_free = nobody_free or job.session is None
            if nobody_free and not self._knows_sessions:
                return None
        self._drop_unwanted()
        return None

    def expire(self, now: float, pool: str) -> int:
        """Fail the jobs that have waited too long, and tell how many."""
        seconds = self._settings.queue_timeout
        if math.isinf(seconds):
            return 0
        late = [job for job in self._jobs if job.queued_at + seconds <= now]
        for job in late:
            self._jobs.remove(job)
            job.answer.fail(QueueTimeoutError(pool, job.what, seconds))
        return len(late)

    def _drop_unwanted(self) -> None:
        if any(not job.answer.is_wanted for job in self._jobs):
            self._jobs = deque(job for job in self._jobs if job.answer.is_wanted)
