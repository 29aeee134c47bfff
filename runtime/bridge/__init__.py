"""The bridge: the real dspy in a process of its own, owned by an actor."""

from dspex.runtime.bridge.bridge import DspyBridge
from dspex.runtime.bridge.calls import DspyCall, DspyResult, ModelHandler
from dspex.runtime.bridge.errors import (
    BridgeError,
    BridgeUnavailableError,
    FrameTooLargeError,
    ProtocolError,
    RemoteError,
    UnsupportedValueError,
    WorkerDiedError,
    WorkerStartTimeoutError,
)

__all__ = [
    "BridgeError",
    "BridgeUnavailableError",
    "DspyBridge",
    "DspyCall",
    "DspyResult",
    "FrameTooLargeError",
    "ModelHandler",
    "ProtocolError",
    "RemoteError",
    "UnsupportedValueError",
    "WorkerDiedError",
    "WorkerStartTimeoutError",
]
