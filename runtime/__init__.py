"""The kernel: actors, refs, links, monitors and names, with OTP's semantics."""

from dspex.runtime.actor import (
    IGNORE,
    Actor,
    BadReturnValueError,
    Continue,
    InitAnswer,
    Leave,
    Refuse,
)
from dspex.runtime.context import current_deadline
from dspex.runtime.envelope import Deferred
from dspex.runtime.errors import (
    AlreadyStartedError,
    CalleeExitedError,
    CallError,
    CallingSelfError,
    CallTimeoutError,
    DspexError,
    MailboxFullError,
    NoProcessError,
    StartError,
    StartIgnoredError,
    StartTimeoutError,
)
from dspex.runtime.messages import TIMEOUT, Down, Exit
from dspex.runtime.named_ref import NamedRef
from dspex.runtime.node import Node, open_node
from dspex.runtime.reasons import Shutdown
from dspex.runtime.ref import ActorRef
from dspex.runtime.registry import (
    AlreadyNamedError,
    Groups,
    Names,
    NameTakenError,
    NameWaitTimeoutError,
    Registry,
)
from dspex.runtime.telemetry import ActorExited, ActorStarted, Telemetry
from dspex.runtime.timers import Timer

__all__ = [
    "IGNORE",
    "TIMEOUT",
    "Actor",
    "ActorExited",
    "ActorRef",
    "ActorStarted",
    "AlreadyNamedError",
    "AlreadyStartedError",
    "BadReturnValueError",
    "CallError",
    "CallTimeoutError",
    "CalleeExitedError",
    "CallingSelfError",
    "Continue",
    "Deferred",
    "Down",
    "DspexError",
    "Exit",
    "Groups",
    "InitAnswer",
    "Leave",
    "MailboxFullError",
    "NameTakenError",
    "NameWaitTimeoutError",
    "NamedRef",
    "Names",
    "NoProcessError",
    "Node",
    "Refuse",
    "Registry",
    "Shutdown",
    "StartError",
    "StartIgnoredError",
    "StartTimeoutError",
    "Telemetry",
    "Timer",
    "current_deadline",
    "open_node",
]
