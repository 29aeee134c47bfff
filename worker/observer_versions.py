"""Observer versions: a program's versions, how their demos differ, their scores."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dspex.runtime.journal import ProgramVersion

_WIDTH: Final = 1_000.0
_HEIGHT: Final = 200.0


@dataclass(frozen=True, slots=True)
class Version:
    """One version; `changes` are lines against its parent, marked + and -."""

    number: int
    made_by: str
    created_at: float
    scores: dict[str, float]
    demos: int
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A score in the plot, which is 1000 wide and 200 high."""

    x: float
    y: float
    label: str


def versions(saved: Sequence[ProgramVersion]) -> list[Version]:
    """Give the versions, newest first."""
    bodies = {it.version: it.body for it in saved}
    return [
        Version(
            it.version,
            it.made_by,
            it.created_at,
            dict(it.scores),
            sum(len(step.get("demos") or ()) for step in _steps(it.body).values()),
            _changes(bodies.get(it.parent or it.version - 1), it.body),
        )
        for it in reversed(saved)
    ]


def plot(saved: Sequence[ProgramVersion]) -> list[Point]:
    """Give each version's first score as a point, oldest on the left."""
    scored = [(it.version, *_first(it)) for it in saved if it.scores]
    if not scored:
        return []
    top = max(max(score for _, _, score in scored), 1e-9)
    step = _WIDTH / (len(scored) + 1)
    return [
        Point(
            step * (place + 1),
            _HEIGHT - 20 - (_HEIGHT - 40) * max(0.0, score) / top,
            f"version {version}: {name} {score:g}",
        )
        for place, (version, name, score) in enumerate(scored)
    ]


def _first(version: ProgramVersion) -> tuple[str, float]:
    return next(iter(version.scores.items()))


def _steps(body: Any) -> dict[str, Any]:  # Any: JSON
    steps: dict[str, Any] = body.get("steps") or {}  # Any: JSON
    return steps


def _lines(body: Any) -> list[str]:  # Any: JSON
    found: list[str] = []
    for name, step in _steps(body).items():
        shown = {key: it for key, it in step.items() if key != "demos" and it}
        found.append(f"{name}: {json.dumps(shown, ensure_ascii=False)}")
        found.extend(
            f"{name} demo: {json.dumps(demo, ensure_ascii=False)}"
            for demo in step.get("demos") or ()
        )
    return found


def _changes(before: Any, after: Any) -> tuple[str, ...]:  # Any: JSON
    if before is None:
        return ()
    lines = difflib.ndiff(_lines(before), _lines(after))
    return tuple(line for line in lines if line[0] in "+-")
