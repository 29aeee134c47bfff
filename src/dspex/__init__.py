"""dspex runs LLM programs as supervised actors: DSPy's model on OTP's reliability."""

from dspex.modules import Module, Predict, Prediction, Signature
from dspex.providers import OpenAI
from dspex.runtime import Actor, ActorRef, DspexError, open_node
from dspex.runtime.engine import Program, Run, Step
from dspex.supervisors import ChildSpec, DynamicSupervisor, Supervisor
from dspex.worker import aio, sync
from dspex.worker.app import Runtime, open_runtime
from dspex.worker.application import App

__all__ = [
    "Actor",
    "ActorRef",
    "App",
    "ChildSpec",
    "DspexError",
    "DynamicSupervisor",
    "Module",
    "OpenAI",
    "Predict",
    "Prediction",
    "Program",
    "Run",
    "Runtime",
    "Signature",
    "Step",
    "Supervisor",
    "aio",
    "open_node",
    "open_runtime",
    "sync",
]
