"""Liveness: which process a worker is, and which workers of a store are dead.

No clocks are compared. A worker's beat grows while it lives; who sees it unchanged for
a whole lease on its own monotonic clock calls it dead. On the same machine a process
that is gone is seen at once.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import trio

from dspex.runtime.journal.records import WorkerIdentity, WorkerRow


def this_process() -> WorkerIdentity:
    """Give the identity of this process: machine, boot, pid and start time."""
    return WorkerIdentity(_machine(), os.getpid(), _started(os.getpid()) or "")


def is_gone(identity: WorkerIdentity) -> bool:
    """Whether the process is known to be gone; False where that cannot be seen."""
    if identity.host != _machine():
        return False
    return _started(identity.pid) != identity.started


def _machine() -> str:
    # The pid namespace too: in another one the same pid is another process.
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        namespace = Path()
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str | None:
    """Give when a process was started, in its kernel's ticks; None if it is gone."""
    state_and_more = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not state_and_more or state_and_more[0] in {"Z", "X"}:
        return None
    return state_and_more[19]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class Watch:
    """Tells which of the other workers are dead."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._seen: dict[str, tuple[int, float]] = {}

    def dead(self, others: Iterable[WorkerRow]) -> list[str]:
        """Take note of the others' beats; give those that have missed a lease."""
        now = trio.current_time()
        before, self._seen = self._seen, {}
        found: list[str] = []
        for other in others:
            beat, since = before.get(other.id, (other.beat, now))
            if beat != other.beat:
                since = now
            self._seen[other.id] = (other.beat, since)
            if now - since > self._lease_seconds or is_gone(other.identity):
                found.append(other.id)
        return found
