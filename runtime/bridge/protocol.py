"""The messages between the parent and the process that hosts dspy.

The parent sends `ToChild`, the child sends `ToParent`; each side decodes only what
the other may send, so anything else is a protocol error at once. Numbers are chosen
by the side that asks: `Run.id` by the parent, `ModelCall.id` by the child. Values are
packed by `values.pack` where the field says so.
"""

from typing import Any, Final, TypeVar

import msgspec

from dspex.runtime.bridge.errors import ProtocolError
from dspex.runtime.bridge.frames import frame

PROTOCOL_VERSION: Final = 1

T = TypeVar("T")

# Plain JSON, checked by whoever it is for.
JSONObject = dict[str, Any]


class _Message(
    msgspec.Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True
):
    """A message; its class name is its tag."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception on its way: `kinds` are the names of its classes, nearest first."""

    kinds: list[str]
    message: str
    traceback: str = ""
    call: int | None = None
    """The number of the model call whose failure was the cause."""


# From the parent.


class Run(_Message, frozen=True):
    """Run a module once. `inputs`, `demos` and `config` are packed values."""

    id: int
    module: str
    inputs: JSONObject
    signature: str | None = None
    instructions: str | None = None
    config: JSONObject = {}
    demos: list[JSONObject] = []
    state: JSONObject | None = None
    adapter: str | None = None
    lm: JSONObject = {}
    json_schema: bool = True
    native_tools: bool = False


class ModelReply(_Message, frozen=True):
    """The answer to `ModelCall` number `id`: a response or an error."""

    id: int
    response: JSONObject | None = None
    error: ErrorInfo | None = None


class Cancel(_Message, frozen=True):
    """Nobody waits for run `id` any more: it makes no further model call."""

    id: int


class Ping(_Message, frozen=True):
    """Answer with `Pong`."""

    id: int


# From the child.


class Hello(_Message, frozen=True):
    """The child is ready."""

    protocol: int
    pid: int
    python: str
    dspy: str


class Unavailable(_Message, frozen=True):
    """The child cannot host dspy."""

    python: str
    problem: str
    remedy: str


class ModelCall(_Message, frozen=True):
    """Run `run` asks for a model call; `request` is `Request.to_json()`."""

    id: int
    run: int
    request: JSONObject


class Result(_Message, frozen=True):
    """Run `id` is done; `outputs` are packed values."""

    id: int
    outputs: JSONObject
    usage: dict[str, int]
    model_calls: int = 0


class Failed(_Message, frozen=True):
    """Run `id` raised."""

    id: int
    error: ErrorInfo


class Pong(_Message, frozen=True):
    """The answer to `Ping` number `id`."""

    id: int


ToChild = Run | ModelReply | Cancel | Ping
ToParent = Hello | Unavailable | ModelCall | Result | Failed | Pong

_encoder = msgspec.msgpack.Encoder()
# The annotations are for type checkers, which don't take a union as a type here.
_child_decoder: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_parent_decoder: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)


def encode(message: ToChild | ToParent, *, what: str) -> bytes:
    """Give the frame of a message; `what` names it if it is too large.

    Raises:
        FrameTooLargeError: it is over the limit.
        ProtocolError: a text in it is not valid Unicode.
    """
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"{what}: text that is not valid Unicode") from error
    return frame(body, what=what)


def decode_in_child(body: bytes) -> ToChild:
    """Read what the parent sent.

    Raises:
        ProtocolError: it is not a message for the child.
    """
    return _decode(_child_decoder, body)


def decode_in_parent(body: bytes) -> ToParent:
    """Read what the child sent.

    Raises:
        ProtocolError: it is not a message for the parent.
    """
    return _decode(_parent_decoder, body)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a frame of {len(body)} bytes: {error}") from error
