"""Faults of processes: real signals to the children of this process, and theirs."""

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import trio

from dspex.testing.fault_plan import Fault
from dspex.testing.fault_schedule import Schedule

_MAX_NAME: Final = 100
_LEAKED_SECONDS: Final = "86400"


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process as /proc shows it; a zombie's `command` is empty."""

    pid: int
    parent: int
    state: str
    command: str


def list_processes() -> Iterator[ProcessInfo]:
    """Give every process that this one may see."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        # pid (name) state ppid ...: the name may hold spaces and brackets.
        state, parent = stat.rpartition(")")[2].split()[:2]
        words = command.replace("\0", " ").strip()
        yield ProcessInfo(int(entry.name), int(parent), state, words)


def descendants(
    pid: int | None = None, *, without: Iterable[int] = ()
) -> list[ProcessInfo]:
    """Give the live children of a process (default: this one), and their children.

    Those in `without`, and what is below them, are left out.
    """
    left_out = set(without)
    by_parent: dict[int, list[ProcessInfo]] = {}
    for it in list_processes():
        by_parent.setdefault(it.parent, []).append(it)
    found: list[ProcessInfo] = []
    wanted = [os.getpid() if pid is None else pid]
    while wanted:
        below = by_parent.pop(wanted.pop(), [])
        children = [it for it in below if it.pid not in left_out]
        found += [it for it in children if it.state != "Z"]
        wanted += [it.pid for it in children]
    return sorted(found, key=lambda it: it.pid)


class ProcessFaults:
    """Hits processes below `root` (default: this one) and undoes what can be undone.

    `later(seconds, action)` runs an action after a while.
    """

    def __init__(
        self, later: Callable[[float, Callable[[], None]], None], *, root: int | None
    ) -> None:
        self._later = later
        self._root = root
        self._stopped: set[int] = set()
        self._leaked: list[subprocess.Popen[bytes]] = []

    def hit(self, fault: Fault) -> list[ProcessInfo]:
        """Do the harm to every process that matches; give those that were hit."""
        ours = {it.pid for it in self._leaked}
        return [
            it
            for it in descendants(self._root)
            if it.pid not in ours
            and fnmatchcase(it.command, fault.target)
            and self._harm(it.pid, fault)
        ]

    def hit_noted(self, fault: Fault, schedule: Schedule) -> None:
        """Do the harm, and have `schedule` note what was hit or what there was."""
        found = self.hit(fault)
        for it in found:
            schedule.note(fault, it.command, str(it.pid))
        if not found:
            there = (it.command[:_MAX_NAME] for it in descendants(self._root))
            schedule.miss(fault, there)

    async def hit_by_time(
        self, fault: Fault, *, index: int, seed: int, schedule: Schedule
    ) -> None:
        """Do the harm at its time, or, with `every`, again and again until cancelled.

        `schedule` notes what was hit.
        """
        await trio.sleep(fault.after)
        for count in itertools.count(1):
            if schedule.now > fault.until:
                return
            if fault.hits(count, seed=seed, index=index):
                self.hit_noted(fault, schedule)
            if fault.every is None:
                return
            await trio.sleep(fault.every)

    def close(self) -> None:
        """Let go on what was stopped, and end what was leaked."""
        for pid in list(self._stopped):
            self._go_on(pid)
        for it in self._leaked:
            it.kill()
            it.wait()
        self._leaked.clear()

    def _harm(self, pid: int, fault: Fault) -> bool:
        if fault.kind == "leak":
            self._leaked.append(_hold_output(pid))
        if not _signal(pid, signal.SIGSTOP if fault.kind == "stop" else signal.SIGKILL):
            return False
        if fault.kind == "stop":
            self._stopped.add(pid)
            self._later(fault.seconds, lambda: self._go_on(pid))
        return True

    def _go_on(self, pid: int) -> None:
        if pid in self._stopped:
            self._stopped.discard(pid)
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _hold_output(pid: int) -> "subprocess.Popen[bytes]":
    """Start what a careless child leaves behind: its pipes do not end with it."""
    opened: list[int] = []
    for number in (1, 2):
        try:
            opened.append(os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY))
        except OSError:  # gone meanwhile, or a socket
            opened.append(os.open(os.devnull, os.O_WRONLY))
    try:
        return subprocess.Popen(
            ["sleep", _LEAKED_SECONDS],
            stdin=subprocess.DEVNULL,
            stdout=opened[0],
            stderr=opened[1],
            start_new_session=True,
        )
    finally:
        for fd in opened:
            os.close(fd)
