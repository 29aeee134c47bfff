"""dspex runs LLM programs as supervised actors: DSPy's model on OTP's reliability."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex import aio, sync
    from dspex.modules import ChainOfThought, Module, Predict, Prediction, Signature
    from dspex.providers import Anthropic, OpenAI
    from dspex.runtime import Actor, ActorRef, DspexError, open_node
    from dspex.runtime.engine import Program, Run, Step
    from dspex.supervisors import ChildSpec, DynamicSupervisor, Supervisor
    from dspex.worker.app import Runtime
    from dspex.worker.application import App
    from dspex.worker.open_runtime import open_runtime

__all__ = [
    "Actor",
    "ActorRef",
    "Anthropic",
    "App",
    "ChainOfThought",
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

# Each name is imported when it is first used: a supervision tree without a model
# should not load an HTTP client.
_HOMES = {
    "dspex.modules": ("ChainOfThought", "Module", "Predict", "Prediction", "Signature"),
    "dspex.providers": ("Anthropic", "OpenAI"),
    "dspex.runtime": ("Actor", "ActorRef", "DspexError", "open_node"),
    "dspex.runtime.engine": ("Program", "Run", "Step"),
    "dspex.supervisors": ("ChildSpec", "DynamicSupervisor", "Supervisor"),
    "dspex.worker.app": ("Runtime",),
    "dspex.worker.open_runtime": ("open_runtime",),
    "dspex.worker.application": ("App",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("aio", "sync")


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"dspex.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'dspex' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
