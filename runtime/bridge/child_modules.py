"""Building and running the hosted modules: by name, with parameters from the parent."""

import importlib
from typing import Any

from dspex.runtime.bridge.child_engine import AsyncParentEngine, ParentEngine
from dspex.runtime.bridge.errors import UnsupportedValueError
from dspex.runtime.bridge.protocol import JSONObject, Run
from dspex.runtime.bridge.values import pack, unpack

# Any: dspy is not installed where the types of this file are checked.
Dspy = Any

MODEL_NAME = "dspex/parent"


def run_module(run: Run, engine: ParentEngine) -> JSONObject:
    """Run the module once with the parent's model and give its packed outputs."""
    dspy: Dspy = importlib.import_module("dspy")
    module = build_module(run, dspy)
    inputs = unpack(run.inputs, tags=_tags(dspy))
    lm = dspy.LM(
        MODEL_NAME,
        engine=engine,
        async_engine=AsyncParentEngine(engine),
        cache=False,
        num_retries=0,  # the parent's provider retries
        **unpack(run.lm),
    )
    with dspy.context(lm=lm, adapter=_adapter(run.adapter, dspy)):
        outputs = module(**inputs)
    return pack_outputs(outputs, run.module, dspy)


def build_module(run: Run, dspy: Dspy) -> Dspy:
    """Build the module a run names and give it its parameters.

    Raises:
        LookupError: there is no such thing.
        TypeError: it is not a module, or its arguments don't fit.
    """
    found = find(run.module, dspy)
    config = unpack(run.config, tags=_tags(dspy))
    if isinstance(found, type):
        if run.signature is None:
            module = found(**config)
        else:
            module = found(_signature(run, dspy), **config)
    elif isinstance(found, dspy.Module):
        module = found.deepcopy()
    else:
        return found
    if not isinstance(module, dspy.Module):
        raise TypeError(f"{run.module} is not a dspy module")
    if run.state is not None:
        module.load_state(unpack(run.state))
    if run.demos:
        demos = [dspy.Example(**unpack(d, tags=_tags(dspy))) for d in run.demos]
        for predictor in module.predictors():
            predictor.demos = demos
    return module


def find(name: str, dspy: Dspy) -> Any:  # Any: a class, a module or a function
    """Find `dspy.Name` or `package.module:attribute`.

    Raises:
        LookupError: there is no such thing; the message says what is missing.
        TypeError: it is not callable.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        module_name, attribute = "dspy", name.removeprefix("dspy.")
        if module_name == name or not name.startswith("dspy."):
            raise LookupError(
                f"{name!r} is neither dspy.NAME nor package.module:attribute"
            )
        found = dspy
    else:
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not module_name.startswith(error.name):
                raise
            raise LookupError(
                f"{name!r}: there is no module {module_name!r} on the search path"
            ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise LookupError(f"{name!r}: there is no {part!r}") from error
    if not callable(found):
        raise TypeError(f"{name!r} is a {type(found).__name__}, not callable")
    return found


def pack_outputs(outputs: Dspy, name: str, dspy: Dspy) -> JSONObject:
    """Give the outputs of a module, or of a function that returned a mapping.

    Raises:
        UnsupportedValueError: one of them does not travel.
        TypeError: neither a prediction nor a mapping.
    """
    if isinstance(outputs, dspy.Example):  # a Prediction is one
        items = dict(outputs.items(include_dspy=False))
    elif isinstance(outputs, dict):
        items = outputs
    else:
        raise TypeError(
            f"{name} returned a {type(outputs).__name__}: "
            "a step returns a dspy.Prediction or a dict of outputs by name"
        )
    return {
        key: pack(value, f"output {key!r} of {name}", more=_more(dspy))
        for key, value in items.items()
    }


def _signature(run: Run, dspy: Dspy) -> Dspy:
    if run.instructions is None:
        return dspy.Signature(run.signature)
    return dspy.Signature(run.signature, run.instructions)


def _adapter(name: "str | None", dspy: Dspy) -> Dspy:
    if name is None:
        return None
    adapters = {
        "chat": dspy.ChatAdapter,
        "json": dspy.JSONAdapter,
        "xml": dspy.XMLAdapter,
    }
    if name not in adapters:
        raise LookupError(f"adapter {name!r} is none of {sorted(adapters)}")
    return adapters[name]()


def _tags(dspy: Dspy) -> "dict[str, Any]":  # Any: what each tag makes
    return {"$image": dspy.Image}


def _more(dspy: Dspy) -> Any:  # Any: values.pack types it
    def tag(value: Dspy) -> "JSONObject | None":
        if isinstance(value, dspy.Image):
            return {"$image": value.url}
        if isinstance(value, dspy.Example):
            return {
                key: pack(item, key, more=tag)
                for key, item in value.items(include_dspy=False)
            }
        if isinstance(value, (type, dspy.Module)):
            raise UnsupportedValueError("an output", value)
        return None

    return tag
