"""ReAct: a model that reasons, calls tools and looks at what they gave."""

from dspex.modules.react.action import Action, ActionParseError, ActionParser, Finish
from dspex.modules.react.agent import ReAct
from dspex.modules.react.budget import Budget
from dspex.modules.react.errors import AgentFailedError, AgentStoppedError
from dspex.modules.react.trajectory import Step, Trajectory

__all__ = [
    "Action",
    "ActionParseError",
    "ActionParser",
    "AgentFailedError",
    "AgentStoppedError",
    "Budget",
    "Finish",
    "ReAct",
    "Step",
    "Trajectory",
]
