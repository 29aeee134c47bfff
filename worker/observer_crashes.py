"""Observer crashes: who died of what, when a successor came, on an axis of time."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Final, cast

import trio

from dspex.runtime import ActorStarted
from dspex.runtime.process import Process
from dspex.runtime.reasons import describe, is_orderly
from dspex.runtime.telemetry import Event, Telemetry
from dspex.supervisors import Supervisor

_KEPT: Final = 200
_LISTED: Final = 30
_LANES: Final = 8
_REASON: Final = 300
_WIDE: Final = 1_000.0
# The spans an axis may have, and into how many parts it is ruled.
_AXES: Final = (
    (60.0, 4, "1 min"),
    (300.0, 5, "5 min"),
    (900.0, 3, "15 min"),
    (3_600.0, 4, "1 h"),
    (21_600.0, 6, "6 h"),
    (86_400.0, 4, "24 h"),
)
_QUANTA: Final = 120


@dataclass(slots=True)
class Crash:
    """An actor that ended out of order; `at` is of the epoch.

    `back_after` is in how many seconds one of its name under the same supervisor had
    started; None while there is none. `against` is the restarts of that supervisor by
    then, against its intensity.
    """

    at: float
    when: float
    name: str
    parent: str
    reason: str
    back_after: float | None = None
    against: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A crash on the axis, and how long its actor was away."""

    x: float
    width: float
    title: str
    is_back: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """The crashes of one name."""

    name: str
    count: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The latest crashes: a lane for each name, and a list, newest first."""

    total: int
    span: str
    ticks: tuple[tuple[float, str], ...]
    lanes: tuple[Lane, ...]
    more_lanes: int
    listed: tuple[Crash, ...]


class Crashes:
    """Remembers the latest crashes and counts all."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.total = 0
        self._kept: deque[Crash] = deque()
        self._away: dict[tuple[str, str], Crash] = {}
        self._detach = telemetry.attach(self._note)

    def close(self) -> None:
        """Listen no more."""
        self._detach()

    def _note(self, event: Event) -> None:
        if isinstance(event, ActorStarted):
            if self._away:
                self._note_start(event)
            return
        if is_orderly(event.reason):
            return
        now = trio.current_time()
        self.total += 1
        key = _place(event)
        crash = Crash(time.time(), now, *key, describe(event.reason)[:_REASON])
        self._away[key] = crash
        self._kept.append(crash)
        if len(self._kept) > _KEPT:
            old = self._kept.popleft()
            key = (old.name, old.parent)
            if self._away.get(key) is old:
                del self._away[key]

    def _note_start(self, event: ActorStarted) -> None:
        crash = self._away.pop(_place(event), None)
        if crash is not None:
            now = trio.current_time()
            crash.back_after = now - crash.when
            crash.against = _against(cast("Process", event.ref.port), now)

    def latest(self, count: int = _LISTED) -> list[Crash]:
        """Give the latest crashes, newest first."""
        return list(self._kept)[: -count - 1 : -1]

    def timeline(self) -> Timeline:
        """Give what the page shows; it stays the same for a little while."""
        listed = self.latest()
        if not listed:
            return Timeline(self.total, "", (), (), 0, ())
        now = time.time()
        age = now - listed[-1].at
        seconds, parts, label = next((it for it in _AXES if it[0] >= age), _AXES[-1])
        quantum = seconds / _QUANTA
        end = (now // quantum + 1) * quantum
        start = end - seconds
        by_name: dict[str, list[Crash]] = {}
        for crash in reversed(self._kept):
            if crash.at >= start:
                by_name.setdefault(crash.name, []).append(crash)
        lanes = [
            Lane(
                name,
                len(crashes),
                tuple(_mark(it, start, seconds) for it in reversed(crashes)),
            )
            for name, crashes in by_name.items()
        ]
        ticks = tuple(
            (
                round(_WIDE * place / parts, 1),
                "now"
                if place == parts
                else f"-{_short(seconds * (1 - place / parts))}",
            )
            for place in range(parts + 1)
        )
        return Timeline(
            self.total,
            label,
            ticks,
            tuple(lanes[:_LANES]),
            len(lanes[_LANES:]),
            tuple(listed),
        )


def _place(event: Event) -> tuple[str, str]:
    """Give an actor's name and its supervisor's: what a successor has, too."""
    parent = cast("Process", event.ref.port).parent
    return event.ref.name, "" if parent is None else parent.name


def _against(process: Process, now: float) -> str:
    parent = cast("Process | None", process.parent)
    if parent is None or not isinstance(parent.actor, Supervisor):
        return ""
    decisions = parent.actor.decisions
    options = decisions.options
    count = decisions.restarts_since(now)
    return f"{count} of {options.intensity} in {options.period:g} s"


def _mark(crash: Crash, start: float, seconds: float) -> Mark:
    x = _WIDE * (crash.at - start) / seconds
    away = crash.back_after
    width = _WIDE - x if away is None else _WIDE * away / seconds
    told = "no successor yet" if away is None else f"back after {away:.3g} s"
    title = f"{crash.name}: {crash.reason}; {told}"
    return Mark(round(x, 1), round(min(width, _WIDE - x), 1), title, away is not None)


def _short(seconds: float) -> str:
    for size, unit in ((3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
