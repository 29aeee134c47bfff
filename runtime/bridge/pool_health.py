"""Which of a pool's processes are of no more use: late, stopped or deaf ones."""

from dspex.runtime.bridge.bridge import DspyBridge
from dspex.runtime.bridge.errors import RunTimeoutError
from dspex.runtime.bridge.pool_forks import PoolForks
from dspex.runtime.bridge.pool_job import Job
from dspex.runtime.bridge.pool_settings import PoolSettings, PoolStatistics
from dspex.runtime.bridge.pool_worker import PoolWorker
from dspex.runtime.bridge.run_in_flight import RunInFlight
from dspex.runtime.errors import CallError, CallTimeoutError, DspexError
from dspex.runtime.log import get_logger

log = get_logger()


class PoolHealth:
    """Looks at processes and kills the sick; the pool hears of their ends."""

    def __init__(self, settings: PoolSettings, counts: PoolStatistics) -> None:
        self._settings = settings
        self._counts = counts

    def check_busy(self, worker: PoolWorker, now: float) -> None:
        """Kill a process whose run takes too long, or that a signal has stopped."""
        if worker.was_killed:
            return  # it is on its way out
        for run, job in worker.runs.items():
            if run.deadline <= now and not run.is_over:
                self._counts.timed_out += 1
                fail_run(run, job, RunTimeoutError(job.what, job.timeout))
                worker.kill()
        if worker.has_stood_still(self._settings.stopped_timeout, now):
            # It is not that it computes: it is stopped, and nobody goes on with it.
            log.warning("dspy_process_stopped", actor=worker.ref.name, pid=worker.pid)
            self._counts.unhealthy += 1
            worker.kill()

    def check_forks(self, forks: PoolForks, now: float) -> None:
        """Let a stopped fork-server go on: somebody waits for what it is to fork."""
        if forks.resume(self._settings.stopped_timeout, now):
            log.warning("fork_server_stopped")

    async def ping(self, worker: PoolWorker) -> None:
        """Ask a process without work whether it lives; kill it if it does not."""
        served = worker.served
        try:
            await worker.ref.call(DspyBridge.ping, timeout=self._settings.ping_timeout)
        except CallTimeoutError:
            # One that got work meanwhile may be busy, which is not sick.
            if not worker.busy and worker.served == served:
                log.warning("dspy_process_sick", actor=worker.ref.name, pid=worker.pid)
                self._counts.unhealthy += 1
                worker.kill()
        except CallError:
            pass  # it is dead already


def fail_run(run: RunInFlight, job: Job, error: DspexError) -> None:
    """Fail the caller of a run whose process is of no more use."""
    if not run.is_over:
        run.end()
        job.answer.fail(error)
