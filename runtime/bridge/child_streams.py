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

    Raises:
        TypeError: it is a plain function, which has no fields to stream.
    """
    dspy = load_dspy()
    streaming: Dspy = importlib.import_module("dspy.streaming")
    if not isinstance(module, dspy.Module):
        raise TypeError(f"{run.module} is no dspy module: it has no fields to stream")
    listeners = [
        streaming.StreamListener(signature_field_name=name, allow_reuse=True)
        for name in run.stream
    ]
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
