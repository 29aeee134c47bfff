"""Runs whose output fields are told while they are being written."""

import importlib
from typing import Any

from dspex.runtime.bridge.child_calls import Calls
from dspex.runtime.bridge.child_dspy import load_dspy
from dspex.runtime.bridge.protocol import JSONObject, Run

# Any: dspy is not installed where the types of this file are checked.
Dspy = Any


def stream_module(module: Dspy, inputs: JSONObject, run: Run, calls: Calls) -> Dspy:
    """Run a module by dspy's `streamify` and give its prediction.

    What no predictor writes, as anything of a plain function, is not streamed.
    """
    dspy = load_dspy()
    streaming: Dspy = importlib.import_module("dspy.streaming")
    # Each field of each predictor that has it: dspy itself refuses to choose one.
    listeners = [
        streaming.StreamListener(name, predictor, predict_name, allow_reuse=True)
        for predict_name, predictor in _predictors(module, dspy)
        for name in run.stream
        if name in predictor.signature.output_fields
    ]
    if not listeners:
        return module(**inputs)
    streamed = dspy.streamify(
        module,
        stream_listeners=listeners,
        include_final_prediction_in_output_stream=True,
        async_streaming=False,
    )
    prediction: Dspy = None
    for item in streamed(**inputs):
        if isinstance(item, streaming.StreamResponse):
            delta = {
                "event": "delta",
                "predictor": item.predict_name,
                "field": item.signature_field_name,
                "text": item.chunk,
                "is_last": item.is_last_chunk,
            }
            calls.progress(run.id, delta)
        elif isinstance(item, dspy.Prediction):
            prediction = item
    return prediction


def _predictors(module: Dspy, dspy: Dspy) -> "list[tuple[str, Dspy]]":
    if not isinstance(module, dspy.Module):
        return []
    return list(module.named_predictors())
