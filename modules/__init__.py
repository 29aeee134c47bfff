"""Signatures, predictors and modules: what a DSPy user types, as supervised actors."""

from dspex.modules.actor import ModuleActor
from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter, Reading
from dspex.modules.adapters.tools import ToolsAdapter
from dspex.modules.adapters.xml import XMLAdapter
from dspex.modules.best_of_n import BestOfN, Refine
from dspex.modules.call import TraceStep, record_trace
from dspex.modules.chain_of_thought import ChainOfThought, SignatureEnhancer
from dspex.modules.checks import ensure, suggest
from dspex.modules.errors import (
    AdapterParseError,
    AssertionFailedError,
    Attempt,
    CodeExitError,
    ConfigError,
    FailedAttempt,
    ForwardError,
    ForwardQueueFullError,
    ForwardResultError,
    ForwardTimeoutError,
    InputError,
    InputTypeError,
    LMNotConfiguredError,
    MissingInputError,
    ParameterError,
    SignatureError,
    SignatureSyntaxError,
    StateError,
    UnknownInputError,
    UnknownParameterError,
)
from dspex.modules.fields import Field, InputField, OutputField
from dspex.modules.media import History, Image
from dspex.modules.module import Module, Predictor
from dspex.modules.module_registry import ModuleRef, ModuleRegistry
from dspex.modules.module_state import Execution, ModuleMetrics, ModuleState
from dspex.modules.parameter import Parameter, Snapshots
from dspex.modules.predict import Predict
from dspex.modules.prediction import Prediction
from dspex.modules.react.agent import ReAct
from dspex.modules.react.budget import Budget
from dspex.modules.react.errors import AgentFailedError, AgentStoppedError
from dspex.modules.saved_state import (
    dump_dspy_state,
    load_dspy_state,
    load_program,
    save_program,
)
from dspex.modules.signature import Signature, to_signature
from dspex.modules.steps import StepValidator, split_steps
from dspex.modules.streaming import FieldDelta
from dspex.modules.tools.calculator import CalculationError, calculator
from dspex.modules.tools.calls import ToolCalls
from dspex.modules.tools.errors import ToolCallError, ToolError
from dspex.modules.tools.mcp import MCPServer, MCPTool
from dspex.modules.tools.python_tool import python_tool
from dspex.modules.tools.registry import RegisteredTool, ToolRegistry
from dspex.modules.tools.tool import Tool, tool

__all__ = [
    "Adapter",
    "AdapterParseError",
    "AgentFailedError",
    "AgentStoppedError",
    "AssertionFailedError",
    "Attempt",
    "BestOfN",
    "Budget",
    "CalculationError",
    "ChainOfThought",
    "ChatAdapter",
    "CodeExitError",
    "ConfigError",
    "Execution",
    "FailedAttempt",
    "Field",
    "FieldDelta",
    "ForwardError",
    "ForwardQueueFullError",
    "ForwardResultError",
    "ForwardTimeoutError",
    "History",
    "Image",
    "InputError",
    "InputField",
    "InputTypeError",
    "JSONAdapter",
    "LMNotConfiguredError",
    "MCPServer",
    "MCPTool",
    "MissingInputError",
    "Module",
    "ModuleActor",
    "ModuleMetrics",
    "ModuleRef",
    "ModuleRegistry",
    "ModuleState",
    "OutputField",
    "Parameter",
    "ParameterError",
    "Predict",
    "Prediction",
    "Predictor",
    "ReAct",
    "Reading",
    "Refine",
    "RegisteredTool",
    "Signature",
    "SignatureEnhancer",
    "SignatureError",
    "SignatureSyntaxError",
    "Snapshots",
    "StateError",
    "StepValidator",
    "Tool",
    "ToolCallError",
    "ToolCalls",
    "ToolError",
    "ToolRegistry",
    "ToolsAdapter",
    "TraceStep",
    "UnknownInputError",
    "UnknownParameterError",
    "XMLAdapter",
    "calculator",
    "dump_dspy_state",
    "ensure",
    "load_dspy_state",
    "load_program",
    "python_tool",
    "record_trace",
    "save_program",
    "split_steps",
    "suggest",
    "to_signature",
    "tool",
]
