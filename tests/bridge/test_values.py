import datetime
import decimal
import enum
import math
import uuid

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.runtime.bridge import UnsupportedValueError
from dspex.runtime.bridge.values import pack, unpack

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
keys = st.text() | st.sampled_from(["$date", "$int", "$dict", "$image"])
trees = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20
)


@given(trees)
def test_values_survive_the_wire(value: object) -> None:
    wire = msgspec.msgpack.encode(pack(value, "value"))
    assert unpack(msgspec.msgpack.decode(wire)) == value


class Colour(enum.Enum):
    RED = "red"


class Urgency(enum.IntEnum):
    HIGH = 2


class Item(pydantic.BaseModel):
    name: str
    colour: Colour
    due: datetime.date


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (Colour.RED, "red"),
        (Urgency.HIGH, 2),
        (datetime.timedelta(seconds=1.5), datetime.timedelta(seconds=1.5)),
        (
            Item(name="pen", colour=Colour.RED, due=datetime.date(2026, 1, 2)),
            {"name": "pen", "colour": "red", "due": datetime.date(2026, 1, 2)},
        ),
        (uuid.UUID(int=5), uuid.UUID(int=5)),
        (decimal.Decimal("1.10"), decimal.Decimal("1.10")),
        (math.inf, math.inf),
    ],
)
def test_rich_values_arrive_as_plain_ones(value: object, expected: object) -> None:
    wire = msgspec.msgpack.encode(pack(value, "value"))
    assert unpack(msgspec.msgpack.decode(wire)) == expected


def test_a_value_that_does_not_travel_is_named_by_its_path() -> None:
    with pytest.raises(UnsupportedValueError, match=r"^input\['a'\]\[1\] is a builtin"):
        pack({"a": [1, object()]}, "input")


def test_a_key_that_does_not_travel_is_named() -> None:
    with pytest.raises(UnsupportedValueError, match="a key of input is a builtins"):
        pack({(1, 2): 3}, "input")


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(UnsupportedValueError, match="nested over 100 deep"):
        pack(loop, "input")
