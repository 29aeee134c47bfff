"""Observer state: what the observer page shows, as plain data for its templates."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import trio

from dspex.runtime import ActorRef, ActorStarted
from dspex.runtime.crash_report import summarise
from dspex.runtime.process import Process
from dspex.runtime.reasons import describe, is_orderly
from dspex.runtime.telemetry import Event
from dspex.supervisors import Supervisor
from dspex.worker.app import Runtime
from dspex.worker.runs import RunRecord

_MAX_DEATHS: Final = 200
_SHOWN_RUNS: Final = 50
_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class Death:
    """An actor that ended; `at` is of the epoch, `when` on trio's clock."""

    at: float
    when: float
    name: str
    parent: int | None
    reason: str
    is_crash: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tree."""

    indent: int
    name: str
    kind: str
    id: int | None
    state: str
    depth: int
    high_water: int
    restarts: int
    window: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a waterfall; `left` and `width` are thousandths of the whole."""

    label: str
    kind: str
    left: float
    width: float
    seconds: float
    tokens: int
    prompt: tuple[tuple[str, str], ...] = ()
    completion: str = ""
    error: str = ""


class Watch:
    """Remembers the latest deaths, and reads the rest from the runtime when asked."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.deaths: deque[Death] = deque(maxlen=_MAX_DEATHS)
        self._detach = runtime.node.telemetry.attach(self._note)

    def close(self) -> None:
        """Listen no more."""
        self._detach()

    def _note(self, event: Event) -> None:
        if isinstance(event, ActorStarted):
            return
        parent = cast("Process", event.ref.port).parent
        self.deaths.append(
            Death(
                time.time(),
                trio.current_time(),
                event.ref.name,
                None if parent is None else parent.id,
                describe(event.reason)[:_REASON],
                not is_orderly(event.reason),
            )
        )

    def overview(self) -> dict[str, Any]:  # Any: for a template
        """Give the figures at the top."""
        table = self._runtime.table
        finished = [it.finished_at for it in table if it.finished_at is not None]
        minute_ago = time.time() - 60
        return {
            "per_minute": sum(at >= minute_ago for at in finished),
            "unfinished": len(table.unfinished),
            "counts": {k: v for k, v in table.counts.items() if v},
            "tokens": dict(table.tokens),
            "actors": len(self._runtime.node.processes()),
            "crashes": sum(it.is_crash for it in self.deaths),
            "steps": len(self._runtime.in_flight),
        }

    def tree(self) -> list[Row]:
        """Give the supervision tree, one row an actor."""
        return list(self._rows(self._runtime.root, 0, self._runtime.root.name, 0))

    def _rows(
        self,
        ref: ActorRef[Any],  # Any: of any class
        indent: int,
        name: str,
        restarts: int,
    ) -> Iterator[Row]:
        actor = ref.port.actor
        kind, window = "worker", ""
        if isinstance(actor, Supervisor):
            options = actor.decisions.options
            since = trio.current_time() - options.period
            recent = sum(
                it.parent == ref.id and it.is_crash and it.when >= since
                for it in self.deaths
            )
            kind = options.strategy
            window = f"{recent} of {options.intensity} in {options.period:g} s"
        yield Row(
            indent, name, kind, ref.id, ref.state, ref.mailbox.depth,
            ref.mailbox.high_water, restarts, window,
        )  # fmt: skip
        if isinstance(actor, Supervisor):
            for child in actor.children_info():
                if child.ref is not None:
                    label = child.ref.name
                    yield from self._rows(child.ref, indent + 1, label, child.restarts)
                else:
                    yield Row(
                        indent + 1, child.id, child.type, None, child.state, 0, 0,
                        child.restarts, "",
                    )  # fmt: skip

    def runs(self) -> list[dict[str, Any]]:  # Any: for a template
        """Give the latest runs, newest first."""
        found: list[dict[str, Any]] = []  # Any: for a template
        for record in self._runtime.table:
            end = record.finished_at or time.time()
            found.append(
                {**record.summary(), "seconds": max(0.0, end - record.accepted_at)}
            )
            if len(found) == _SHOWN_RUNS:
                break
        return found

    def find(self, id: int) -> ActorRef[Any] | None:  # Any: of any class
        """Give a live actor by its id."""
        for process in self._runtime.node.processes():
            if process.id == id:
                return process.ref
        return None


def waterfall(record: RunRecord) -> list[Bar]:
    """Give a run's steps and model calls as bars on one scale."""
    start = record.accepted_at
    whole = max((record.finished_at or time.time()) - start, 1e-6)
    open_steps: dict[str, float] = {}
    bars: list[Bar] = []

    def add(label: str, kind: str, began: float, seconds: float, **more: Any) -> None:
        left = 1_000 * max(0.0, began - start) / whole
        width = max(2.0, 1_000 * seconds / whole)
        bars.append(Bar(label, kind, left, min(width, 1_000), seconds, **more))

    for event in record.events:
        data = event.data
        step = str(data.get("step", ""))
        usage: dict[str, int] = data.get("usage") or {}
        tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
        if event.kind == "step_started":
            open_steps[step] = event.at
        elif event.kind in ("step_finished", "step_failed"):
            began = open_steps.pop(step, event.at)
            kind = "step" if event.kind == "step_finished" else "failed"
            error = str(data.get("error", ""))
            seconds = event.at - began
            add(step, kind, began, seconds, tokens=tokens, error=error)
        elif event.kind in ("call_finished", "call_failed"):
            kind = "live" if event.kind == "call_finished" else "failed"
            prompt = tuple((it["role"], it["text"]) for it in data.get("prompt", ()))
            add(
                f"{step}: {data.get('model', '')}", kind, data["began"],
                event.at - data["began"], tokens=tokens, prompt=prompt,
                completion=str(data.get("completion", "")),
                error=str(data.get("error", "")),
            )  # fmt: skip
        elif event.kind == "call_journaled":
            add(f"{step}: from the journal", "journaled", event.at, 0.0, tokens=0)
    for step, began in open_steps.items():
        add(step, "running", began, time.time() - began, tokens=0)
    return sorted(bars, key=lambda bar: (bar.left, bar.kind != "step"))


def shown_inputs(record: RunRecord) -> str:
    """Give a run's inputs as one line, secrets left out."""
    return summarise(dict(record.inputs))
