"""Limits of a forked process: memory, CPU time, number of processes."""

import os
import resource
import sys
from typing import Any

from dspex.runtime.bridge.protocol import Limits

_STARTS_A_PROCESS = frozenset(
    {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
)
_cpu_seconds: "int | None" = None
_memory_bytes: "int | None" = None


class ProcessLimitError(RuntimeError):
    """The process and its descendants are as many as they may be."""


def apply_limits(limits: Limits) -> None:
    """Limit this process, for good, and what it starts."""
    global _cpu_seconds, _memory_bytes
    _cpu_seconds, _memory_bytes = limits.cpu_seconds, limits.memory_bytes
    if limits.memory_bytes is not None:
        total = _address_space_bytes() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (total, total))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.processes is not None:
        _limit_processes(limits.processes)


def say_memory_limit() -> str:
    """Say what limit a MemoryError of this process has met; nothing without one."""
    if _memory_bytes is None:
        return ""
    megabytes = f"{_memory_bytes / 1e6:.4g}"
    return f"this process may allocate {megabytes} MB (Limits.memory_bytes)"


def start_cpu_clock() -> None:
    """Give the run that starts now its CPU time; over it comes SIGXCPU, the end."""
    if _cpu_seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + 1 + _cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _limit_processes(most: int) -> None:
    """Refuse to start a process over the limit.

    An audit hook, because the kernel's own limit counts a user's processes, not a
    worker's, and does not hold for root. It stays in forked children; a program
    that was executed no longer has it, and is killed with the worker's group.
    """
    session = os.getsid(0)

    def refuse(event: str, arguments: "tuple[Any, ...]") -> None:
        if event in _STARTS_A_PROCESS and _members(session) >= most:
            raise ProcessLimitError(
                f"{event}: this worker may have {most} processes at a time"
            )

    sys.addaudithook(refuse)


def _members(session: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                count += os.getsid(int(name)) == session
            except OSError:
                continue
    return count


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[0])
    return pages * resource.getpagesize()
