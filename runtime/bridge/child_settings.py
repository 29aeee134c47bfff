"""What dspy is set to during a run: the model whose calls go home, the adapter."""

import functools
import importlib
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dspex.runtime.bridge.child_calls import Calls
from dspex.runtime.bridge.child_dspy import load_dspy
from dspex.runtime.bridge.child_engine import AsyncParentEngine, ParentEngine
from dspex.runtime.bridge.child_values import unpack_value
from dspex.runtime.bridge.protocol import Run

# Any: dspy is not installed where the types of this file are checked.
Dspy = Any

MODEL_NAME: Final = "dspex/parent"
_KEPT: Final = 64


@dataclass
class Settings:
    """What dspy is set to during a run, and what it counted."""

    lm: Dspy
    engine: ParentEngine
    tracker: Dspy

    def usage(self) -> "dict[str, int]":
        """Give the tokens used, in the words of a provider's `Usage`."""
        usage = dict(self.engine.usage)
        if self.tracker is None:
            return usage
        for counts in self.tracker.get_total_tokens().values():
            usage["input_tokens"] += counts.get("prompt_tokens") or 0
            usage["output_tokens"] += counts.get("completion_tokens") or 0
        return usage

    @property
    def calls(self) -> int:
        """How many model calls were made."""
        if self.tracker is None:
            return self.engine.calls
        return sum(len(entries) for entries in self.tracker.usage_data.values())


@contextmanager
def configured(
    run: Run,
    calls: Calls,
    **more: Any,  # Any: more settings of dspy
) -> "Generator[Settings, None, None]":
    """Set dspy to the run's model and adapter.

    Raises:
        LookupError: there is no such adapter.
    """
    dspy = load_dspy()
    engine = ParentEngine(
        lambda request: calls.model(run.id, run.module, request),
        lambda request: calls.stream_model(run.id, run.module, request),
        json_schema=run.json_schema,
        native_tools=run.native_tools,
    )
    adapter = _adapter(run.adapter, dspy)
    if run.own_model is None:
        lm = _parents_model(run, engine)
        with dspy.context(lm=lm, adapter=adapter, **more):
            yield Settings(lm, engine, None)
        return
    lm = dspy.LM(run.own_model, **{"cache": False, **unpack_value(run.lm)})
    with _tracker() as tracker, dspy.context(lm=lm, adapter=adapter, **more):
        yield Settings(lm, engine, tracker)


def _parents_model(run: Run, engine: ParentEngine) -> Dspy:
    """Give a `dspy.LM` of this run alone: a copy, for making one takes dspy longer."""
    made = _make(msgspec.msgpack.encode(run.lm))
    lm: Dspy = object.__new__(made.__class__)
    lm.__dict__.update(
        vars(made),
        _engine_spec=engine,
        _async_engine_spec=AsyncParentEngine(engine),
        _engine_store={},
        _engine_lock=threading.RLock(),
        kwargs=dict(made.kwargs),
        history=[],
        callbacks=[],
        launch_kwargs={},
        train_kwargs={},
    )
    return lm


@functools.lru_cache(_KEPT)
def _make(options: bytes) -> Dspy:
    engine = ParentEngine(_nobody, _nobody, json_schema=False, native_tools=False)
    return load_dspy().LM(
        MODEL_NAME,
        engine=engine,
        async_engine=AsyncParentEngine(engine),
        cache=False,
        num_retries=0,  # the parent's provider retries
        **unpack_value(msgspec.msgpack.decode(options)),
    )


def _nobody(request: Any) -> Any:  # Any: a request in JSON
    raise AssertionError("a model that was made to be copied was called")


def _tracker() -> Any:  # Any: dspy's context manager
    return importlib.import_module("dspy.utils.usage_tracker").track_usage()


@functools.cache
def _adapters() -> "dict[str, Dspy]":
    dspy = load_dspy()
    return {
        "chat": dspy.ChatAdapter,
        "json": dspy.JSONAdapter,
        "xml": dspy.XMLAdapter,
    }


def _adapter(name: "str | None", dspy: Dspy) -> Dspy:
    if name is None:
        return None
    adapters = _adapters()
    if name not in adapters:
        raise LookupError(f"adapter {name!r} is none of {sorted(adapters)}")
    return adapters[name]()
