"""The public test kit: models and providers that behave as they are told."""

from dspex.testing.cassette import (
    CassetteError,
    RecordedError,
    RecordingLM,
    ReplayLM,
)
from dspex.testing.explore import (
    Exploration,
    Failure,
    HungError,
    ScenarioError,
    explore,
    replay,
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
from dspex.testing.fault_plan import (
    KINDS,
    Fault,
    FaultKind,
    FaultPlan,
    FaultPlanError,
    FaultTarget,
    Injected,
)
from dspex.testing.fault_schedule import FaultTally
from dspex.testing.faults import Faults, InjectedCrashError, inject
from dspex.testing.fitting_answer import fitting_answer
from dspex.testing.invariants import (
    assert_every_caller_answered,
    assert_every_fault_struck,
    assert_no_orphans,
    assert_no_repeated_effects,
    assert_restarted,
)
from dspex.testing.model_faults import FaultyLM, faulty_provider
from dspex.testing.scripted_lm import ScriptedLM, ScriptEndedError

__all__ = [
    "KINDS",
    "Action",
    "Answer",
    "CassetteError",
    "Drip",
    "Exploration",
    "Fail",
    "FailInStream",
    "Failure",
    "FakeProvider",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "FaultPlanError",
    "FaultTally",
    "FaultTarget",
    "Faults",
    "FaultyLM",
    "Hang",
    "Huge",
    "HungError",
    "Injected",
    "InjectedCrashError",
    "ProviderRequest",
    "Raw",
    "RecordedError",
    "RecordingLM",
    "ReplayLM",
    "Reset",
    "ScenarioError",
    "ScriptEndedError",
    "ScriptedLM",
    "Truncate",
    "WrongLength",
    "assert_every_caller_answered",
    "assert_every_fault_struck",
    "assert_no_orphans",
    "assert_no_repeated_effects",
    "assert_restarted",
    "explore",
    "faulty_provider",
    "fitting_answer",
    "inject",
    "open_fake_provider",
    "replay",
]
