"""What dspy works out anew in each call though it follows from the signature, kept.

A `dspy.Predict` that is called in a loop writes the same system message, sorts the same
fields and makes the same pydantic adapters each time: over a third of all it computes.
Each shortcut here gives what dspy's own function gave for the same, and nothing it
returns is shared with whoever may change it. dspy's function is its `__wrapped__`.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import pydantic

# Any: dspy is not installed where the types of this file are checked.
Dspy = Any

_KEPT = 64
_BARE_REQUEST = {"model", "messages"}
_TEXT_ROW = {"role", "content"}
_SPEAKERS = ("user", "assistant")


def take_shortcuts() -> None:
    """Have dspy remember what follows from a signature; it changes nothing else."""
    utils: Dspy = importlib.import_module("dspy.adapters.utils")
    if utils.TypeAdapter is not pydantic.TypeAdapter:
        return  # they are taken already
    utils.TypeAdapter = _adapter_of
    _keep_fields()
    is_plain = _plainness()
    _keep_system_messages(is_plain)
    _keep_resolved_adapters(is_plain)
    _keep_request_settings()


@functools.lru_cache(_KEPT)
def _adapter_of_class(kind: type) -> "pydantic.TypeAdapter[Any]":
    return pydantic.TypeAdapter(kind)


# Any: annotations of every kind.
def _adapter_of(kind: Any) -> "pydantic.TypeAdapter[Any]":
    # Only classes: of unions, equal ones may differ in their order, which counts.
    if isinstance(kind, type):
        return _adapter_of_class(kind)
    return pydantic.TypeAdapter(kind)


def _keep_fields() -> None:
    """Which fields are inputs and which are outputs: asked 24 times in a prediction."""
    meta: Dspy = importlib.import_module("dspy.signatures.signature").SignatureMeta
    original = meta._get_fields_with_type

    @functools.lru_cache(2 * _KEPT)
    def kept(signature: Dspy, kind: str) -> Any:
        fields = signature.__pydantic_fields__
        return fields, len(fields), original(signature, kind)

    @functools.wraps(original)
    def fields_with_type(signature: Dspy, kind: str) -> Any:
        made_of, count, found = kept(signature, kind)
        if signature.__pydantic_fields__ is made_of and len(made_of) == count:
            return found.copy()
        return original(signature, kind)

    meta._get_fields_with_type = fields_with_type


def _plainness() -> "Callable[[Dspy, Any], bool]":
    custom: Dspy = importlib.import_module("dspy.adapters.types").Type

    @functools.lru_cache(_KEPT)
    def is_plain(signature: Dspy, marks: Any) -> bool:
        """Whether no type in it is dspy's own, which may say anything at any time."""
        return not any(
            custom.extract_custom_type_from_annotation(field.rebuild_annotation())
            for field in signature.__pydantic_fields__.values()
        )

    return is_plain


def _marks(signature: Dspy) -> Any:
    """Give all of a signature that might be changed and that a prompt says."""
    marks = [signature.__doc__]
    for field in signature.__pydantic_fields__.values():
        extra = field.json_schema_extra
        marks += (field.annotation, extra.get("desc"), extra.get("constraints"))
    return tuple(marks)


def _keep_system_messages(is_plain: "Callable[[Dspy, Any], bool]") -> None:
    dspy: Dspy = importlib.import_module("dspy.adapters")
    # A class of a user's may look at more than the signature.
    known = (dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter)
    original = dspy.Adapter.format_system_message

    @functools.lru_cache(_KEPT)
    def kept(adapter: Any, signature: Dspy, marks: Any) -> Any:
        if adapter in known and is_plain(signature, marks):
            return original(adapter(), signature)
        return None

    @functools.wraps(original)
    def format_system_message(self: Dspy, signature: Dspy) -> Any:
        try:
            found = kept(self.__class__, signature, _marks(signature))
        except TypeError:  # something in it has no hash
            found = None
        return original(self, signature) if found is None else found

    dspy.Adapter.format_system_message = format_system_message


def _keep_resolved_adapters(is_plain: "Callable[[Dspy, Any], bool]") -> None:
    """Without dspy's decision types the adapter is the one that was asked about."""
    predict: Dspy = importlib.import_module("dspy.predict.predict")
    original = predict.resolve_adapter

    @functools.wraps(original)
    def resolve_adapter(
        lm: Dspy, adapter: Dspy, signature: Dspy, fields: Any, declared: Dspy = None
    ) -> Any:
        decides = fields or getattr(lm, "supports_decision_requests", False)
        try:
            if not decides and is_plain(signature, _marks(signature)):
                return adapter
        except TypeError:  # something in it has no hash
            pass
        return original(lm, adapter, signature, fields, declared)

    predict.resolve_adapter = resolve_adapter


def _keep_request_settings() -> None:
    """Give a request without settings of its own those of every such request."""
    execution: Dspy = importlib.import_module("dspy.clients.execution")
    lm15: Dspy = importlib.import_module("dspy.lm15")
    original = execution.request_from_openai_chat
    row = {"role": "user", "content": "any"}
    bare = original({"model": "any", "messages": [row]}).config

    @functools.wraps(original)
    def request_from_openai_chat(body: Any, *, compat: Any = None) -> Any:
        is_bare = compat is None and body.keys() == _BARE_REQUEST
        if not (is_bare and _is_text_after_a_system_text(body["messages"])):
            return original(body, compat=compat)
        system, *rest = body["messages"]
        return lm15.Request(
            model=body["model"],
            messages=tuple(
                lm15.Message(row["role"], (lm15.TextPart(row["content"]),))
                for row in rest
            ),
            system=system["content"],
            config=bare,
        )

    execution.request_from_openai_chat = request_from_openai_chat


def _is_text_after_a_system_text(rows: Any) -> bool:
    return (
        len(rows) > 1
        and all(row.keys() == _TEXT_ROW and type(row["content"]) is str for row in rows)
        and rows[0]["role"] == "system"
        and all(row["role"] in _SPEAKERS for row in rows[1:])
    )
