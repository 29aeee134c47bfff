"""The bridge: the real dspy in processes of its own, owned by actors."""

from dspex.runtime.bridge.bridge import DspyBridge
from dspex.runtime.bridge.calls import (
    DspyCall,
    DspyResult,
    ModelHandler,
    Optimization,
    OptimizedProgram,
    ProgressHandler,
    StreamingModelHandler,
    ToolHandler,
)
from dspex.runtime.bridge.errors import (
    BridgeError,
    BridgeUnavailableError,
    ForkFailedError,
    FrameTooLargeError,
    PoolFullError,
    ProtocolError,
    QueueTimeoutError,
    RemoteError,
    RunTimeoutError,
    SessionWorkerUnavailableError,
    TooManySessionsError,
    UnsupportedValueError,
    WorkerDiedError,
    WorkerStartTimeoutError,
)
from dspex.runtime.bridge.pool import DspyPool
from dspex.runtime.bridge.pool_settings import PoolSettings, PoolStatistics
from dspex.runtime.bridge.protocol import Limits
from dspex.runtime.bridge.values import (
    Audio,
    Example,
    History,
    HostedTool,
    Image,
    ToolCalls,
)

__all__ = [
    "Audio",
    "BridgeError",
    "BridgeUnavailableError",
    "DspyBridge",
    "DspyCall",
    "DspyPool",
    "DspyResult",
    "Example",
    "ForkFailedError",
    "FrameTooLargeError",
    "History",
    "HostedTool",
    "Image",
    "Limits",
    "ModelHandler",
    "Optimization",
    "OptimizedProgram",
    "PoolFullError",
    "PoolSettings",
    "PoolStatistics",
    "ProgressHandler",
    "ProtocolError",
    "QueueTimeoutError",
    "RemoteError",
    "RunTimeoutError",
    "SessionWorkerUnavailableError",
    "StreamingModelHandler",
    "TooManySessionsError",
    "ToolCalls",
    "ToolHandler",
    "UnsupportedValueError",
    "WorkerDiedError",
    "WorkerStartTimeoutError",
]
