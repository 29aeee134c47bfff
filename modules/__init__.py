"""Signatures, predictors and modules: what a DSPy user types, as supervised actors."""

from dspex.modules.actor import Execution, ModuleActor, ModuleStats
from dspex.modules.adapters.chat import ChatAdapter
from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter, Reading
from dspex.modules.errors import (
    AdapterParseError,
    Attempt,
    ConfigError,
    ForwardError,
    ForwardQueueFullError,
    ForwardResultError,
    ForwardTimeoutError,
    InputError,
    InputTypeError,
    LMNotConfiguredError,
    MissingInputError,
    SignatureError,
    SignatureSyntaxError,
    UnknownInputError,
)
from dspex.modules.fields import Field, InputField, OutputField
from dspex.modules.module import Module
from dspex.modules.predict import Predict
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Signature, to_signature

__all__ = [
    "Adapter",
    "AdapterParseError",
    "Attempt",
    "ChatAdapter",
    "ConfigError",
    "Execution",
    "Field",
    "ForwardError",
    "ForwardQueueFullError",
    "ForwardResultError",
    "ForwardTimeoutError",
    "InputError",
    "InputField",
    "InputTypeError",
    "JSONAdapter",
    "LMNotConfiguredError",
    "MissingInputError",
    "Module",
    "ModuleActor",
    "ModuleStats",
    "OutputField",
    "Predict",
    "Prediction",
    "Reading",
    "Signature",
    "SignatureError",
    "SignatureSyntaxError",
    "UnknownInputError",
    "to_signature",
]
