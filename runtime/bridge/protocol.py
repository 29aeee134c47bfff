"""The messages between the parent and the process that hosts dspy.

The parent sends `ToChild`, the child sends `ToParent`; each side decodes only what
the other may send, so anything else is a protocol error at once. Numbers are chosen
by the side that asks: `Run.id` by the parent, `ModelCall.id` by the child. Values are
packed by `values.pack` where the field says so.
"""

import array
import os
import socket
from typing import Any, Final, TypeVar

import msgspec

from dspex.runtime.bridge.errors import ProtocolError
from dspex.runtime.bridge.frames import frame

PROTOCOL_VERSION: Final = 2
RIGHTS_BYTES: Final = socket.CMSG_SPACE(4 * array.array("i").itemsize)

T = TypeVar("T")
JSONObject = dict[str, Any]  # Any: plain JSON, checked by whoever it is for


class _Message(
    msgspec.Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True
):
    """A message; its class name is its tag."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception on its way: `kinds` are the names of its classes, nearest first.

    `call` is the number of the model or tool call whose failure was the cause.
    """

    kinds: list[str]
    message: str
    traceback: str = ""
    call: int | None = None


class ToolInfo(msgspec.Struct, frozen=True):
    """A tool of the parent: `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: JSONObject


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
    tools: list[ToolInfo] = []
    types: dict[str, JSONObject] = {}
    own_model: str | None = None
    trace: bool = False
    stream: list[str] = []


class Optimize(_Message, frozen=True):
    """Run one of dspy's optimizers over the module that `program` names.

    `program.inputs` are not used. `metric` is `package.module:attribute`; the
    examples are packed, and `input_names` tell which of their fields are inputs.
    """

    id: int
    optimizer: str
    program: Run
    metric: str
    input_names: list[str]
    trainset: list[JSONObject]
    valset: list[JSONObject] | None = None
    settings: JSONObject = {}
    compile_settings: JSONObject = {}


class ModelReply(_Message, frozen=True):
    """The answer to `ModelCall` number `id`: a response or an error."""

    id: int
    response: JSONObject | None = None
    error: ErrorInfo | None = None


class ModelDelta(_Message, frozen=True):
    """A piece of the text that answers `ModelCall` number `id`, which asked for it."""

    id: int
    text: str


class ToolReply(_Message, frozen=True):
    """The answer to `ToolCall` number `id`: a packed value or an error."""

    id: int
    value: Any = None  # Any: packed
    error: ErrorInfo | None = None


class Cancel(_Message, frozen=True):
    """Nobody waits for run `id` any more: it shall end, and `Ended` says when."""

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
    """Run `run` asks for a model call; `request` is `Request.to_json()`.

    With `stream`, the text may come in pieces before the answer.
    """

    id: int
    run: int
    request: JSONObject
    stream: bool = False


class ToolCall(_Message, frozen=True):
    """Run `run` calls a tool of the parent; `arguments` are packed values."""

    id: int
    run: int
    name: str
    arguments: JSONObject


class Progress(_Message, frozen=True):
    """Something worth telling happened in run `id`; `event` is packed."""

    id: int
    event: JSONObject


class Ended(_Message, frozen=True):
    """The cancelled run `id` runs no more."""

    id: int


class Result(_Message, frozen=True):
    """Run `id` is done; `outputs` are packed values."""

    id: int
    outputs: JSONObject
    usage: dict[str, int]
    model_calls: int = 0
    trace: list[JSONObject] = []


class Failed(_Message, frozen=True):
    """Run `id` raised."""

    id: int
    error: ErrorInfo


class Pong(_Message, frozen=True):
    """The answer to `Ping` number `id`."""

    id: int


# Between the parent and a fork-server; descriptors travel beside the message.


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one forked process may use; None is no limit of ours.

    `memory_bytes` is what it may allocate over what dspy takes. `cpu_seconds` is for
    each run; over it the kernel kills the process. `processes` is how many processes
    it and its descendants may be together.
    """

    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    processes: int | None = None


class Fork(_Message, frozen=True):
    """Fork a process that serves on the channel; beside: channel, stderr."""

    id: int
    limits: Limits


class Forked(_Message, frozen=True):
    """`Fork` number `id` became process `pid`; beside: its pidfd."""

    id: int
    pid: int


class ForkFailed(_Message, frozen=True):
    """`Fork` number `id` did not work."""

    id: int
    problem: str


class Reaped(_Message, frozen=True):
    """Process `pid` and all it started are gone.

    `status` is its exit status, or minus the signal that killed it.
    """

    pid: int
    status: int


ToChild = Run | Optimize | ModelReply | ModelDelta | ToolReply | Cancel | Ping
ToParent = (
    Hello
    | Unavailable
    | ModelCall
    | ToolCall
    | Progress
    | Result
    | Failed
    | Ended
    | Pong
)

ToForkServer = Fork
FromForkServer = Hello | Unavailable | Forked | ForkFailed | Reaped

_encoder = msgspec.msgpack.Encoder()
# The annotations are for type checkers, which don't take a union as a type here.
_child_decoder: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_parent_decoder: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)
_fork_decoder: msgspec.msgpack.Decoder[FromForkServer] = msgspec.msgpack.Decoder(
    FromForkServer
)
_server_decoder: msgspec.msgpack.Decoder[ToForkServer] = msgspec.msgpack.Decoder(Fork)


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


def encode_fork(message: ToForkServer | FromForkServer) -> bytes:
    """Give a message for or from a fork-server; its socket keeps them apart."""
    return _encoder.encode(message)


def decode_in_fork_server(body: bytes) -> ToForkServer:
    """Read what the parent sent to the fork-server.

    Raises:
        ProtocolError: it is no message for it.
    """
    return _decode(_server_decoder, body)


def decode_from_fork_server(body: bytes) -> FromForkServer:
    """Read what the fork-server sent.

    Raises:
        ProtocolError: it is no message of it.
    """
    return _decode(_fork_decoder, body)


def descriptors(ancillary: "list[tuple[int, int, bytes]]") -> list[int]:
    """Give the descriptors that came beside a message, closed for programs we start."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a frame of {len(body)} bytes: {error}") from error
