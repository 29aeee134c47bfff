"""Observer versions: a program's versions, how their demos differ, their scores."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dspex.runtime.journal import ProgramVersion

_FULL: Final = 100.0
_MOST_METRICS: Final = 4
_TICKS: Final = 4
_NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Version:
    """One version; `changes` are lines against its parent, marked + and -."""

    number: int
    parent: int | None
    made_by: str
    created_at: float
    scores: dict[str, float]
    demos: int
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A score in the plot, in percent from the left and from the top."""

    x: float
    y: float
    label: str
    is_best: bool


@dataclass(frozen=True, slots=True)
class Series:
    """The scores of one metric, oldest on the left; `place` tells it from others."""

    metric: str
    place: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Scores by version, with the numbers along both sides."""

    series: tuple[Series, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]

    @property
    def told(self) -> str:
        """The plot in words."""
        return "; ".join(it.label for line in self.series for it in line.points)


def versions(saved: Sequence[ProgramVersion]) -> list[Version]:
    """Give the versions, newest first."""
    bodies = {it.version: it.body for it in saved}
    return [
        Version(
            it.version,
            it.parent or (it.version - 1 if it.version - 1 in bodies else None),
            it.made_by,
            it.created_at,
            dict(it.scores),
            sum(len(step.get("demos") or ()) for step in _steps(it.body).values()),
            _changes(bodies.get(it.parent or it.version - 1), it.body),
        )
        for it in reversed(saved)
    ]


def plot(saved: Sequence[ProgramVersion]) -> Plot | None:
    """Give the scores of the versions as a plot; None where none has a score."""
    scored = [it for it in saved if it.scores]
    if not scored:
        return None
    every, top = _scale(max(score for it in scored for score in it.scores.values()))
    metrics = list(dict.fromkeys(metric for it in scored for metric in it.scores))
    width = _FULL / len(scored)
    places = {it.version: width * (at + 0.5) for at, it in enumerate(scored)}
    series = [
        _series(metric, place, scored, places, top)
        for place, metric in enumerate(metrics[:_MOST_METRICS])
    ]
    count = round(top / every)
    up = tuple(
        (_FULL * (1 - at / count), f"{at * every:.6g}") for at in range(count + 1)
    )
    across = tuple((round(places[it.version], 2), f"v{it.version}") for it in scored)
    return Plot(tuple(series), across, up)


def _series(
    metric: str,
    place: int,
    scored: Sequence[ProgramVersion],
    places: dict[int, float],
    top: float,
) -> Series:
    values = {it.version: it.scores[metric] for it in scored if metric in it.scores}
    best = max(values.values())
    points = tuple(
        Point(
            round(places[version], 2),
            round(_FULL * (1 - max(0.0, score) / top), 2),
            f"version {version}: {metric} {score:g}",
            score == best,
        )
        for version, score in values.items()
    )
    return Series(metric, place, points)


def _scale(most: float) -> tuple[float, float]:
    """Give the distance of lines that are round numbers, and the topmost line."""
    rough = max(most, 1e-9) / _TICKS
    size = 1.0
    while size > rough:
        size /= 10
    while size * 10 <= rough:
        size *= 10
    every = next(it * size for it in _NICE if it * size >= rough * (1 - 1e-9))
    return every, every * _TICKS


def _steps(body: Any) -> dict[str, Any]:  # Any: JSON
    steps: dict[str, Any] = body.get("steps") or {}  # Any: JSON
    return steps


def _lines(body: Any) -> list[str]:  # Any: JSON
    found: list[str] = []
    for name, step in _steps(body).items():
        found.extend(
            f"{name}.{key}: {_text(value)}"
            for key, value in step.items()
            if key != "demos" and value
        )
        for demo in step.get("demos") or ():
            fields = ", ".join(f"{key}={_text(value)}" for key, value in demo.items())
            found.append(f"{name} demo: {fields}")
    return found


def _text(value: Any) -> str:  # Any: JSON
    return json.dumps(value, ensure_ascii=False)


def _changes(before: Any, after: Any) -> tuple[str, ...]:  # Any: JSON
    if before is None:
        return ()
    lines = difflib.ndiff(_lines(before), _lines(after))
    return tuple(line for line in lines if line[0] in "+-")
