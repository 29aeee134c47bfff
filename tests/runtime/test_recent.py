"""The latest things, and how large they are."""

import json
import sys
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pydantic
import pytest

from dspex.modules import Prediction
from dspex.modules.errors import Attempt
from dspex.modules.react.trajectory import Step, Trajectory
from dspex.runtime import ActorRef
from dspex.runtime.recent import Recent, memory_bytes

MB = 1_000_000


def test_as_many_are_kept_as_may_be() -> None:
    recent = Recent[int](most=3, max_bytes=1_000)
    gone = [recent.add(number, 10) for number in range(5)]
    assert gone == [[], [], [], [0], [1]]
    assert list(recent) == [2, 3, 4]
    assert len(recent) == 3
    assert recent.size_bytes == 30


def test_large_ones_take_the_place_of_several_and_the_latest_is_kept() -> None:
    recent = Recent[str](most=10, max_bytes=100)
    for name in "abc":
        assert recent.add(name, 30) == []
    assert recent.add("d", 60) == ["a", "b"]
    assert recent.add("huge", 1_000) == ["c", "d"]
    assert list(recent) == ["huge"]
    assert recent.add("e", 1) == ["huge"]
    assert recent.size_bytes == 1


class Ticket(pydantic.BaseModel):
    text: str


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value


class Struct(msgspec.Struct):
    text: str


@dataclass(slots=True)
class Slotted:
    value: object


class Halves:
    __slots__ = ("__hidden", "unset")

    def __init__(self, value: object) -> None:
        self.__hidden = value


class Both(Halves):
    """Has slots and a `__dict__`."""


class AgentError(Exception):
    def __init__(self, trajectory: Trajectory) -> None:
        super().__init__(f"gave up after {len(trajectory.steps)} steps")
        self.trajectory = trajectory


def caused(cause: Exception, *, is_told: bool) -> Exception:
    error = RuntimeError("no")
    error.__context__ = cause
    error.__cause__ = cause if is_told else None
    return error


TEXT = "x" * MB
STEP = Step("why", "search", {"q": "x"}, TEXT)


@pytest.mark.parametrize(
    "value",
    [
        TEXT,
        TEXT.encode(),
        [TEXT],
        {"a": {"b": (1, None, TEXT)}},
        Ticket(text=TEXT),
        Holder(Holder(TEXT)),
        ValueError("no", TEXT),
        {TEXT},
        Struct(TEXT),
        Slotted(Slotted(TEXT)),
        Both(TEXT),
        Attempt(TEXT, "no JSON"),
        Prediction.of([{}], facts={"trajectory": Trajectory((STEP,))}),
        AgentError(Trajectory((STEP,))),
        caused(AgentError(Trajectory((STEP,))), is_told=True),
        caused(ValueError(TEXT), is_told=False),
    ],
)
def test_the_size_of_a_value_is_that_of_its_parts(value: object) -> None:
    assert MB <= memory_bytes(value) < 1.01 * MB


def test_a_large_value_is_measured_by_its_first_parts() -> None:
    rows = [{"number": number, "text": "some words"} for number in range(200_000)]
    within = sys.getsizeof(rows) + len(json.dumps(rows))
    assert within < memory_bytes(rows) < 10 * within


def test_what_holds_itself_is_measured() -> None:
    ring: list[object] = [TEXT]
    ring.append(ring)
    assert memory_bytes(ring) > MB


def test_what_a_value_only_names_is_not_counted() -> None:
    ref = ActorRef[Any](cast("Any", Holder(TEXT)))
    assert memory_bytes([Ticket, json, json.dumps, ref]) < 500


def test_an_object_that_is_there_twice_counts_once() -> None:
    error = AgentError(Trajectory((STEP,)))
    error.__cause__ = caused(error, is_told=True)
    assert MB <= memory_bytes([error, error, error.trajectory]) < 1.01 * MB
