"""Errors of agents.

DspexError
├── AgentFailedError   an agent ended without a result; has its trajectory
└── AgentStoppedError  an agent has spent what it may; has its trajectory
"""

from collections.abc import Mapping
from typing import Any

from dspex.modules.react.trajectory import Trajectory
from dspex.runtime.errors import DspexError


class AgentFailedError(DspexError):
    """An agent ended by an error, which is its `__cause__`.

    `trajectory` is what it did until then. `reason` is "running" when its loop was
    broken off, else why that had ended before the answer could not be read from it.
    """

    def __init__(self, cause: Exception, trajectory: Trajectory, reason: str) -> None:
        count = len(trajectory.steps)
        super().__init__(f"the agent failed after {count} steps: {cause}")
        self.cause = cause
        self.trajectory = trajectory
        self.reason = reason


class AgentStoppedError(DspexError):
    """An agent that is a step has spent its tokens, seconds or money: `reason`.

    `trajectory` is what it did until then, with dspy's keys.
    """

    def __init__(self, reason: str, steps: int, trajectory: Mapping[str, Any]) -> None:
        super().__init__(
            f"the agent was stopped by {reason} after {steps} steps, without outputs; "
            "give it a larger budget, or take its facts [success, trajectory]"
        )
        self.reason = reason
        self.trajectory = trajectory
