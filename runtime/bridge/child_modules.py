"""Building and running the hosted modules: by name, with parameters from the parent."""

import importlib
import inspect
import os
import sys
from itertools import takewhile
from typing import Any

import msgspec

from dspex.runtime.bridge.child_calls import Calls
from dspex.runtime.bridge.child_dspy import load_dspy
from dspex.runtime.bridge.child_settings import configured
from dspex.runtime.bridge.child_streams import stream_module
from dspex.runtime.bridge.child_types import build_types
from dspex.runtime.bridge.child_values import pack_value, unpack_value
from dspex.runtime.bridge.protocol import JSONObject, Result, Run, ToolInfo

# Any: dspy is not installed where the types of this file are checked.
Dspy = Any

_MADE_LIMIT = 128
_made: "dict[bytes, Dspy]" = {}


def run_module(run: Run, calls: Calls) -> Result:
    """Run the module once and give its packed outputs, usage and trace."""
    dspy: Dspy = load_dspy()
    module = build_module(run, calls, dspy)
    inputs = unpack_value(
        run.inputs, make_tool=lambda info: _tool(ToolInfo(**info), run, calls, dspy)
    )
    trace: list[Any] = []  # Any: dspy's trace entries
    traced = {"trace": trace} if run.trace else {}
    with configured(run, calls, **traced) as settings:
        if run.stream:
            outputs = stream_module(module, inputs, run, calls)
        else:
            outputs = module(**inputs)
    calls.check(run.id)
    return Result(
        id=run.id,
        outputs=_pack_outputs(outputs, run, dspy),
        usage=settings.usage(),
        model_calls=settings.calls,
        trace=[_pack_step(step, module) for step in trace],
    )


def build_module(run: Run, calls: Calls, dspy: Dspy) -> Dspy:
    """Build the module a run names and give it its parameters.

    Raises:
        LookupError: there is no such thing.
        TypeError: it is not a module, or its arguments don't fit.
    """
    found = find(run.module, dspy)
    if isinstance(found, dspy.Module):
        module = found.deepcopy()
    elif isinstance(found, type):
        module = _make_or_copy(found, run, calls, dspy)
    else:
        return found
    if run.state is not None:
        module.load_state(unpack_value(run.state))
    if run.demos:
        demos = [dspy.Example(**unpack_value(demo)) for demo in run.demos]
        for predictor in module.predictors():
            predictor.demos = demos
    return module


def look_up(name: str) -> "dict[str, str]":
    """Give what kind of thing a name is; hosted like any function of a user.

    Raises:
        LookupError: there is no such thing; the message says what is missing.
        TypeError: it is not callable.
    """
    found = find(name, importlib.import_module("dspy"))
    return {"kind": "class" if isinstance(found, type) else type(found).__name__}


def find(name: str, dspy: Dspy) -> Any:  # Any: a class, a module or a function
    """Find `dspy.Name` or `package.module:attribute`.

    Raises:
        LookupError: there is no such thing; the message says what is missing.
        TypeError: it is not callable.
    """
    module_name, colon, attribute = name.partition(":")
    if colon:
        found = _import(module_name, name)
    elif name.startswith("dspy."):
        found, attribute = dspy, name.removeprefix("dspy.")
    else:
        raise LookupError(f"{name!r} is neither dspy.NAME nor package.module:attribute")
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise LookupError(f"{name!r}: there is no {part!r}") from error
    if not callable(found):
        raise TypeError(f"{name!r} is a {type(found).__name__}, not callable")
    return found


def _import(module_name: str, name: str) -> Any:  # Any: a Python module
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        library = os.path.dirname(os.path.dirname(os.__file__))
        before = takewhile(lambda it: not it.startswith(library), sys.path)
        folders = ", ".join(before)
        raise LookupError(
            f"{name!r}: there is no module {module_name!r} on the search path "
            f"({folders or 'what is installed'}): add its folder by search_path=[...]"
        ) from error


def _make_or_copy(cls: Dspy, run: Run, calls: Calls, dspy: Dspy) -> Dspy:
    """Make a module, or copy one of dspy's own that was made the same way before.

    The copy shares its signature, which takes dspy longer to make than to run.
    """
    if run.tools or not cls.__module__.startswith("dspy."):
        return _make(cls, run, calls, dspy)
    recipe = [run.module, run.signature, run.instructions, run.config, run.types]
    key = msgspec.msgpack.encode(recipe)
    made = _made.get(key)
    if made is None:
        made = _make(cls, run, calls, dspy)
        if len(_made) >= _MADE_LIMIT:
            _made.pop(next(iter(_made)), None)
        _made[key] = made
    # These two write nothing to themselves when they run.
    is_plain = cls in (dspy.Predict, dspy.ChainOfThought)
    if is_plain and not run.demos and run.state is None:
        return made
    return made.deepcopy()


def _make(cls: Dspy, run: Run, calls: Calls, dspy: Dspy) -> Dspy:
    arguments = unpack_value(run.config)
    if run.tools:
        arguments["tools"] = [_tool(tool, run, calls, dspy) for tool in run.tools]
    if run.signature is None:
        module = cls(**arguments)
    else:
        module = cls(_signature(run, dspy), **arguments)
    if not isinstance(module, dspy.Module):
        raise TypeError(f"{run.module} is not a dspy module")
    return module


def _signature(run: Run, dspy: Dspy) -> Dspy:
    arguments = [run.signature]
    if run.instructions is not None:
        arguments.append(run.instructions)
    return dspy.Signature(*arguments, custom_types=build_types(run.types))


def _tool(info: ToolInfo, run: Run, calls: Calls, dspy: Dspy) -> Dspy:
    def call(**arguments: Any) -> Any:  # Any: whatever the tool takes and gives
        return calls.tool(run.id, info.name, arguments)

    properties = info.parameters.get("properties", {})
    types = build_types(
        {
            key: {**schema, "$defs": info.parameters.get("$defs", {})}
            for key, schema in properties.items()
        }
    )
    return dspy.Tool(
        call,
        name=info.name,
        desc=info.description,
        args=properties,
        arg_types=types,
    )


def _pack_outputs(outputs: Dspy, run: Run, dspy: Dspy) -> JSONObject:
    name = run.module
    if inspect.isawaitable(outputs):
        raise TypeError(f"{name} is async: give a function that is not")
    items: dict[str, Any]  # Any: whatever the module gives
    if isinstance(outputs, dspy.Example):  # a Prediction is one
        items = dict(outputs.items(include_dspy=False))
    elif type(outputs) is dict:
        items = outputs
    else:
        items = {_only_output(outputs, run): outputs}
    return {
        key: pack_value(value, f"output {key!r} of {name}")
        for key, value in items.items()
    }


def _only_output(outputs: object, run: Run) -> str:
    declared = (run.signature or "").partition("->")[2]
    names = [field.partition(":")[0].strip() for field in declared.split(",")]
    if len(names) != 1 or not names[0]:
        raise TypeError(
            f"{run.module} returned a {type(outputs).__name__}: a step returns a "
            "dspy.Prediction or a dict of outputs by name, or its one output"
        )
    return names[0]


def _pack_step(step: Any, module: Dspy) -> JSONObject:  # Any: dspy's trace entry
    predictor, inputs, prediction = step
    names = {id(p): name for name, p in module.named_predictors()}
    name = names.get(id(predictor), type(predictor).__name__)
    outputs = dict(prediction.items(include_dspy=False))
    return {
        "predictor": name,
        "inputs": pack_value(inputs, f"traced inputs of {name}"),
        "outputs": pack_value(outputs, f"traced outputs of {name}"),
    }
