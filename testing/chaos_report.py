"""The report of `dspex chaos`: what was done, what came of it, what did not hold."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspex.runtime.journal.store import Store
from dspex.testing.chaos_load import FINAL, Tally
from dspex.testing.fault_plan import Fault
from dspex.testing.fault_schedule import FaultTally, Tallies


@dataclass
class ChaosReport:
    """Figures of one torment; `breaches` are the invariants that did not hold."""

    app: str
    plan: str
    seconds: float
    tally: Tally
    worker_starts: int = 0
    worker_exits: Counter[int] = field(default_factory=Counter[int])
    injected: Counter[str] = field(default_factory=Counter[str])
    tallies: Tallies = field(default_factory=Tallies)
    calls_answered: int = 0
    repeated: list[str] = field(default_factory=list[str])
    not_checked: list[str] = field(default_factory=list[str])
    orphans: list[str] = field(default_factory=list[str])
    last_status: int | None = None

    @property
    def counts(self) -> Counter[str]:
        """How many accepted runs there are of each status."""
        return Counter(self.tally.statuses.values())

    @property
    def breaches(self) -> list[str]:
        """What did not hold, one line each."""
        counts, tally = self.counts, self.tally
        left = sum(counts.values()) - sum(counts[it] for it in (*FINAL, "lost"))
        found = {
            f"{counts['lost']} accepted runs are lost": counts["lost"],
            f"{left} accepted runs have not ended": left,
            f"{len(tally.unanswered)} callers were never answered": tally.unanswered,
            f"{len(self.repeated)} finished model calls were made again": self.repeated,
            f"{len(self.orphans)} processes are left": self.orphans,
            f"the worker ended with status {self.last_status}": self.last_status != 0,
            "no run was accepted": not tally.statuses,
        }
        return [text for text, is_broken in found.items() if is_broken]

    @property
    def never_struck(self) -> list[str]:
        """The faults that did no harm, and why, one line each."""
        return [str(it) for it in self.tallies.values() if not it.struck]

    def take_tally(self, fault: Fault, data: Mapping[str, Any]) -> None:  # Any: JSON
        """Take note of what a worker saw of a fault until then."""
        tally = self.tallies.setdefault(fault, FaultTally(fault))
        tally.struck = max(tally.struck, data["struck"])
        tally.matched = max(tally.matched, data["matched"])
        for name in data["others"]:
            tally.pass_by(name)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data."""
        return {
            "passed": not self.breaches,
            "breaches": self.breaches,
            "app": self.app,
            "plan": self.plan,
            "seconds": round(self.seconds, 1),
            "accepted": len(self.tally.statuses),
            "runs": dict(self.counts),
            "refused": dict(Counter(self.tally.refused)),
            "unanswered": self.tally.unanswered,
            "errors": dict(Counter(self.tally.errors.values())),
            "injected": dict(self.injected),
            "never_struck": self.never_struck,
            "worker_starts": self.worker_starts,
            "worker_exits": {str(k): v for k, v in self.worker_exits.items()},
            "last_status": self.last_status,
            "calls_answered": self.calls_answered,
            "finished_calls_repeated": self.repeated,
            "orphans": self.orphans,
            "not_checked": self.not_checked,
        }

    def __str__(self) -> str:
        verdict = "; ".join(self.breaches) or "every invariant held"
        missed = self.never_struck
        if missed:
            verdict += f", but {len(missed)} of {len(self.tallies)} faults never struck"
        done = ", ".join(f"{n} x {what}" for what, n in sorted(self.injected.items()))
        runs = ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items()))
        errors = Counter(self.tally.errors.values()).most_common(5)
        exits = ", ".join(
            f"{n} x {status}" for status, n in sorted(self.worker_exits.items())
        )
        lines = [
            f"chaos on {self.app} for {self.seconds:.0f} s: {verdict}",
            f"  runs      {len(self.tally.statuses)} accepted: {runs or 'none'}",
            f"  done      {done or 'nothing'}",
            *(f"  missed    {it}" for it in missed),
            f"  worker    {self.worker_starts} starts; exits: {exits or 'none'}",
            f"  calls     {self.calls_answered} model calls answered, "
            f"{len(self.repeated)} made again although finished",
            *(f"  error     {n} x {text.partition(chr(10))[0]}" for text, n in errors),
            *(f"  unchecked {it}" for it in self.not_checked),
        ]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write it as JSON, and as text beside it."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".txt").write_text(f"{self}\n\n{self.plan}", encoding="utf-8")


def find_repeated(
    calls: Iterable[Mapping[str, Any]],  # Any: JSON
    finished: Mapping[str, float],
) -> list[str]:
    """Give the calls that began after the last answer to their request was on disk."""
    return [
        str(it["fingerprint"])
        for it in calls
        if it["began"] > finished.get(it["fingerprint"], float("inf"))
    ]


def read_finished(store: str) -> dict[str, float]:
    """Give when each model call of a store was finished last, by its fingerprint."""
    from sqlalchemy import func, select

    from dspex.runtime.journal import schema

    columns = schema.effect.c
    query = select(columns.fingerprint, func.max(columns.finished_at)).group_by(
        columns.fingerprint
    )
    opened = Store(store)
    try:
        rows = opened.read(lambda connection: list(connection.execute(query)))
    finally:
        opened.close()
    return {str(row[0]): float(row[1]) for row in rows}


def read_lines(path: Path) -> list[dict[str, Any]]:  # Any: JSON
    """Give the JSON lines of a file; none where there is no file.

    A kill may have cut the last line of a process short: it is left out.
    """
    found: list[dict[str, Any]] = []  # Any: JSON
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found
