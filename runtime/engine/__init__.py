"""Programs as data, and the engine that runs them on backends."""

from dspex.runtime.engine.backend import Backend, Shape, StepResult
from dspex.runtime.engine.effects import (
    PLAIN,
    Codec,
    EffectKey,
    Effects,
    FinishedEffect,
    RunJournal,
)
from dspex.runtime.engine.engine import Engine
from dspex.runtime.engine.errors import (
    ConditionError,
    EffectDecodeError,
    MapError,
    MissingOutputError,
    NondeterminismError,
    NotJsonError,
    Place,
    ProgramError,
    RunFailedError,
    RunInputError,
    RunInterruptedError,
    RunTimeoutError,
    StepCrashedError,
    StepFailedError,
    StepOutputError,
    StepTimeoutError,
    TooManyDispatchesError,
    UnknownOutputError,
)
from dspex.runtime.engine.plan import Plan
from dspex.runtime.engine.planning import make_plan
from dspex.runtime.engine.program import Program, ProgramOptions, Step, StepOptions
from dspex.runtime.engine.run import Run, StepInFlight, StepRecord
from dspex.runtime.engine.step_text import StepText

__all__ = [
    "PLAIN",
    "Backend",
    "Codec",
    "ConditionError",
    "EffectDecodeError",
    "EffectKey",
    "Effects",
    "Engine",
    "FinishedEffect",
    "MapError",
    "MissingOutputError",
    "NondeterminismError",
    "NotJsonError",
    "Place",
    "Plan",
    "Program",
    "ProgramError",
    "ProgramOptions",
    "Run",
    "RunFailedError",
    "RunInputError",
    "RunInterruptedError",
    "RunJournal",
    "RunTimeoutError",
    "Shape",
    "Step",
    "StepCrashedError",
    "StepFailedError",
    "StepInFlight",
    "StepOptions",
    "StepOutputError",
    "StepRecord",
    "StepResult",
    "StepText",
    "StepTimeoutError",
    "TooManyDispatchesError",
    "UnknownOutputError",
    "make_plan",
]
