import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.runtime.bridge import FrameTooLargeError, ProtocolError
from dspex.runtime.bridge.frames import FRAME_LIMIT_BYTES, FrameReader, frame
from dspex.runtime.bridge.protocol import (
    Hello,
    Ping,
    decode_in_child,
    decode_in_parent,
    encode,
)


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_any_cut_of_the_stream_gives_the_same_bodies(
    bodies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(frame(body, what="x") for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader()
    got: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    reader.check_end()
    assert got == bodies


def test_a_frame_over_the_limit_is_refused_by_name() -> None:
    with pytest.raises(FrameTooLargeError, match=r"the inputs of x takes 67\.1 MB"):
        frame(bytes(FRAME_LIMIT_BYTES + 1), what="the inputs of x")


def test_the_largest_frame_passes() -> None:
    (body,) = FrameReader().feed(frame(bytes(FRAME_LIMIT_BYTES), what="x"))
    assert len(body) == FRAME_LIMIT_BYTES


def test_an_announced_length_over_the_limit_is_no_frame() -> None:
    with pytest.raises(ProtocolError, match="does not speak this protocol"):
        FrameReader().feed(b"HTTP/1.1 200 OK")


def test_an_end_inside_a_frame_is_told() -> None:
    reader = FrameReader()
    reader.feed(frame(b"abc", what="x")[:-1])
    with pytest.raises(ProtocolError, match="6 bytes into a frame"):
        reader.check_end()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1garbage", id="no msgpack"),
        pytest.param(msgspec.msgpack.encode(["ping"]), id="no message"),
        pytest.param(msgspec.msgpack.encode({"type": "Quit"}), id="unknown type"),
        pytest.param(msgspec.msgpack.encode({"type": "Ping"}), id="no id"),
        pytest.param(msgspec.msgpack.encode({"type": "Ping", "id": "1"}), id="bad id"),
    ],
)
def test_what_is_no_message_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {len(body)} bytes"):
        decode_in_child(body)


def test_a_side_does_not_take_its_own_messages() -> None:
    hello = encode(Hello(1, 2, "3.11", "3.4.1"), what="hello")[4:]
    ping = encode(Ping(1), what="ping")[4:]
    with pytest.raises(ProtocolError):
        decode_in_child(hello)
    with pytest.raises(ProtocolError):
        decode_in_parent(ping)


def test_text_that_is_not_unicode_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match="hello: text that is not valid Unicode"):
        encode(Hello(1, 2, "\ud800", ""), what="hello")
