"""Programs as data, and the engine that runs them on backends."""

from dspex.runtime.engine.backend import Backend, Shape, StepResult
from dspex.runtime.engine.effects import Effects
from dspex.runtime.engine.engine import Engine
from dspex.runtime.engine.errors import (
    Place,
    ProgramError,
    RunInputError,
    StepFailedError,
    StepTimeoutError,
    TooManyDispatchesError,
)
from dspex.runtime.engine.plan import Plan, make_plan
from dspex.runtime.engine.program import Program, Step, StepOptions
from dspex.runtime.engine.run import Run, StepInFlight, StepRecord

__all__ = [
    "Backend",
    "Effects",
    "Engine",
    "Place",
    "Plan",
    "Program",
    "ProgramError",
    "Run",
    "RunInputError",
    "Shape",
    "Step",
    "StepFailedError",
    "StepInFlight",
    "StepOptions",
    "StepRecord",
    "StepResult",
    "StepTimeoutError",
    "TooManyDispatchesError",
    "make_plan",
]
