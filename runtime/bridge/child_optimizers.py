"""dspy's optimizers, hosted: compile here, instructions and demos go home."""

import importlib
import inspect
import logging
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from dspex.runtime.bridge.child_calls import Calls
from dspex.runtime.bridge.child_dspy import load_dspy
from dspex.runtime.bridge.child_modules import build_module, find
from dspex.runtime.bridge.child_settings import configured
from dspex.runtime.bridge.child_values import pack_value, unpack_value
from dspex.runtime.bridge.protocol import JSONObject, Optimize, Result

# Any: dspy is not installed where the types of this file are checked.
Dspy = Any


def optimize(run: Optimize, calls: Calls) -> Result:
    """Score the program, compile it, score it again; tell what happens meanwhile."""
    dspy: Dspy = load_dspy()
    optimizer_class = find(f"dspy.{run.optimizer.removeprefix('dspy.')}", dspy)
    metric = find(run.metric, dspy)
    student = build_module(run.program, calls, dspy)
    if not isinstance(student, dspy.Module):
        raise TypeError(f"{run.program.module} has no parameters to optimize")
    trainset = _examples(run.trainset, run, dspy)
    valset = None if run.valset is None else _examples(run.valset, run, dspy)
    options = unpack_value(run.settings)
    evaluate = dspy.Evaluate(
        devset=valset or trainset,
        metric=metric,
        num_threads=options.get("num_threads") or 1,
        display_progress=False,
    )
    program = _with_id(run)
    with configured(program, calls) as settings, _progress(run, calls, dspy):
        before = float(evaluate(student).score)
        optimizer = _make(optimizer_class, metric, options, settings.lm)
        compiled = optimizer.compile(
            student.deepcopy(),
            trainset=trainset,
            **_compile_options(optimizer, valset, unpack_value(run.compile_settings)),
        )
        after = float(evaluate(compiled).score)
    calls.check(run.id)
    outputs = {
        "state": compiled.dump_state(),
        "predictors": {
            name: {
                "instructions": predictor.signature.instructions,
                "demos": [dict(_fields(demo)) for demo in predictor.demos],
            }
            for name, predictor in compiled.named_predictors()
        },
        "score_before": before,
        "score_after": after,
    }
    packed: JSONObject = pack_value(outputs, f"the result of {run.optimizer}")
    return Result(run.id, packed, settings.usage(), settings.calls)


def _with_id(run: Optimize) -> Any:  # Any: msgspec's replace has no types for this
    import msgspec

    # The program's model calls are the optimizer's: one run, one number.
    return msgspec.structs.replace(run.program, id=run.id)


def _examples(packed: "list[JSONObject]", run: Optimize, dspy: Dspy) -> "list[Dspy]":
    return [
        dspy.Example(**unpack_value(example)).with_inputs(*run.input_names)
        for example in packed
    ]


def _make(cls: Dspy, metric: Any, options: JSONObject, lm: Dspy) -> Dspy:
    parameters = inspect.signature(cls.__init__).parameters
    if "reflection_lm" in parameters:  # GEPA's own default is none at all
        options = {"reflection_lm": lm, **options}
    return cls(metric=metric, **options)


def _compile_options(
    optimizer: Dspy, valset: "list[Dspy] | None", options: JSONObject
) -> JSONObject:
    parameters = inspect.signature(optimizer.compile).parameters
    if valset is not None and "valset" in parameters:
        options = {"valset": valset, **options}
    if "eval_kwargs" in parameters:  # COPRO has no default for it
        defaults = {"num_threads": 1, "display_progress": False}
        options = {"eval_kwargs": defaults, **options}
    return options


def _fields(demo: Any) -> "Iterator[tuple[str, Any]]":  # Any: an Example or a dict
    items = demo.items() if type(demo) is dict else demo.items(include_dspy=False)
    return ((key, value) for key, value in items if key != "augmented")


@contextmanager
def _progress(run: Optimize, calls: Calls, dspy: Dspy) -> "Generator[None, None, None]":
    """Tell the parent of every evaluation and of what the optimizer logs."""
    callback_class: Any = importlib.import_module("dspy.utils.callback").BaseCallback

    class Callback(callback_class):  # type: ignore[misc]
        def on_evaluate_end(
            self, call_id: str, outputs: Any, exception: "Exception | None" = None
        ) -> None:
            if exception is None:
                score = float(getattr(outputs, "score", outputs))
                calls.progress(run.id, {"event": "evaluated", "score": score})

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                message = record.getMessage().strip()
                calls.progress(run.id, {"event": "log", "message": message})

    thread = threading.get_ident()
    handler = Handler(logging.INFO)
    logger = logging.getLogger("dspy")
    logger.addHandler(handler)
    try:
        with dspy.context(callbacks=[*dspy.settings.callbacks, Callback()]):
            yield
    finally:
        logger.removeHandler(handler)
