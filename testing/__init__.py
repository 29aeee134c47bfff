"""The public test kit: models and providers that behave as they are told."""

from dspex.testing.fake_provider import (
    Action,
    Answer,
    Fail,
    FakeProvider,
    Hang,
    ProviderRequest,
    Raw,
    Reset,
    Truncate,
    open_fake_provider,
)
from dspex.testing.scripted_lm import ScriptedLM, ScriptEndedError

__all__ = [
    "Action",
    "Answer",
    "Fail",
    "FakeProvider",
    "Hang",
    "ProviderRequest",
    "Raw",
    "Reset",
    "ScriptEndedError",
    "ScriptedLM",
    "Truncate",
    "open_fake_provider",
]
