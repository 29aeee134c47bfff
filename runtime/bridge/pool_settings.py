"""How large a pool is, how long it waits, and what it has counted."""

import math
from dataclasses import dataclass, field

from dspex.runtime.bridge.protocol import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The size and the patience of a `DspyPool`; times are seconds.

    Size: between `min_size` and `max_size` processes take runs, each `concurrency` at
    a time, and `spares` more stand ready. Over that, up to `queue_limit` runs wait, as
    long as their callers do, or `queue_timeout` if that is less. A process without work
    for `idle_timeout` ends, down to `min_size`.

    Patience: a run may take `run_timeout` unless its call says otherwise, an optimizer
    `optimize_timeout`; then its process is killed. A cancelled run has `cancel_grace`
    to stop by itself. dspy has `start_timeout` to be imported, and so has a process to
    be ready. One without work is asked every `ping_interval` and must answer within
    `ping_timeout`. One that is stopped (SIGSTOP) while it has a run is replaced after
    `stopped_timeout`.

    Wear: a process is replaced after `max_calls` runs, after `max_age`, or when it has
    more than `max_memory_bytes` of its own. `limits` are enforced by the kernel.
    """

    min_size: int = 1
    max_size: int = 8
    spares: int = 1
    concurrency: int = 1
    queue_limit: int = 100_000
    queue_timeout: float = math.inf
    idle_timeout: float = 60.0
    run_timeout: float = 600.0
    optimize_timeout: float = 14_400.0
    cancel_grace: float = 0.25
    start_timeout: float = 60.0
    ping_interval: float = 5.0
    ping_timeout: float = 2.0
    stopped_timeout: float = 2.0
    max_calls: int | None = None
    max_age: float | None = None
    max_memory_bytes: int | None = None
    session_limit: int = 1000
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check that the numbers fit together.

        Raises:
            ValueError: one of them cannot work; says which.
        """
        for name, least in (
            ("min_size", 0),
            ("max_size", max(1, self.min_size)),
            ("spares", 0),
            ("concurrency", 1),
            ("queue_limit", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} = {getattr(self, name)}: must be at least {least}"
                )


@dataclass(slots=True)
class PoolStatistics:
    """What a pool holds now, and what it has counted since it started.

    `size` processes are ready, of which `busy` have a run; `starting` are on the way;
    `queued` runs wait. Of all runs, `served` gave a result, `failed` an error,
    `timed_out` took too long, `cancelled` lost their caller, `queue_timeouts` never
    began, `rejected` met a full queue. `died` processes ended unasked, `recycled` were
    worn out, `unhealthy` did not answer or were stopped.
    """

    size: int = 0
    busy: int = 0
    starting: int = 0
    queued: int = 0
    served: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    queue_timeouts: int = 0
    rejected: int = 0
    died: int = 0
    recycled: int = 0
    unhealthy: int = 0
    fork_server_restarts: int = 0
