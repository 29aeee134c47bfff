"""The kernel: actors, refs, links, monitors and names, with OTP's semantics."""

from dspex.runtime.actor import IGNORE, Actor, InitAnswer, Leave, Refuse
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
)
from dspex.runtime.messages import Down, Exit
from dspex.runtime.node import Node, open_node
from dspex.runtime.reasons import Shutdown
from dspex.runtime.ref import ActorRef
from dspex.runtime.registry import NameTakenError, NameWaitTimeoutError, Registry

__all__ = [
    "IGNORE",
    "Actor",
    "ActorRef",
    "AlreadyStartedError",
    "CallError",
    "CallTimeoutError",
    "CalleeExitedError",
    "CallingSelfError",
    "Deferred",
    "Down",
    "DspexError",
    "Exit",
    "InitAnswer",
    "Leave",
    "MailboxFullError",
    "NameTakenError",
    "NameWaitTimeoutError",
    "NoProcessError",
    "Node",
    "Refuse",
    "Registry",
    "Shutdown",
    "StartError",
    "StartIgnoredError",
    "open_node",
]
