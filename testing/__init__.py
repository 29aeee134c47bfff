"""The public test kit: models and providers that behave as they are told."""

from dspex.testing.cassette import (
    CassetteError,
    RecordedError,
    RecordingLM,
    ReplayLM,
)
from dspex.testing.fake_actions import (
    Action,
    Answer,
    Drip,
    Fail,
    FailInStream,
    Hang,
    Huge,
    ProviderRequest,
    Raw,
    Reset,
    Truncate,
    WrongLength,
)
from dspex.testing.fake_provider import FakeProvider, open_fake_provider
from dspex.testing.scripted_lm import ScriptedLM, ScriptEndedError

__all__ = [
    "Action",
    "Answer",
    "CassetteError",
    "Drip",
    "Fail",
    "FailInStream",
    "FakeProvider",
    "Hang",
    "Huge",
    "ProviderRequest",
    "Raw",
    "RecordedError",
    "RecordingLM",
    "ReplayLM",
    "Reset",
    "ScriptEndedError",
    "ScriptedLM",
    "Truncate",
    "WrongLength",
    "open_fake_provider",
]
