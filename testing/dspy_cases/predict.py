"""`predict.json`: one call of Predict or ChainOfThought."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from dspex.modules import (
    AdapterParseError,
    ChainOfThought,
    ChatAdapter,
    JSONAdapter,
    Module,
    Predict,
    Prediction,
    Signature,
)
from dspex.modules.adapters.protocol import Adapter
from dspex.modules.adapters.tools import ToolsAdapter, calls_field
from dspex.modules.adapters.xml import XMLAdapter
from dspex.providers.errors import ProviderError
from dspex.providers.lm import Capabilities
from dspex.runtime.errors import DspexError
from dspex.testing.dspy_cases.encoding import (
    JSON,
    encode,
    has_type,
    read_models,
    read_signature,
    read_value,
    same,
)
from dspex.testing.dspy_cases.outcome import Difference, Kind, Ran
from dspex.testing.dspy_cases.script import scripted_lm

# Any: JSON.
Case: TypeAlias = Mapping[str, Any]

# dspy's names for errors that have another name here.
ERROR_NAMES: Mapping[str, str] = {"ContextLengthError": "ContextWindowExceededError"}


async def run_predict_case(case: Case) -> Ran:
    """Run a case and compare what comes out."""
    types = read_models(case.get("models") or {})
    signature = read_signature(case["signature"], types)
    lm = scripted_lm(case["completions"], read_capabilities(case["lm_capabilities"]))
    adapter, repairs = read_adapter(case["adapter"], signature)
    config: dict[str, Any] = case.get("config") or {}  # Any: JSON
    build: Callable[..., Module] = (
        ChainOfThought if case["module"] == "cot" else Predict
    )
    module = build(
        signature,
        lm=lm,
        adapter=adapter,
        repairs=repairs,
        demos=case.get("demos") or (),
        strict_inputs=False,
        **config,
    )
    inputs = {n: read_value(value, types) for n, value in case["inputs"].items()}
    found: Prediction | Exception
    try:
        found = await module.run(inputs)
    except (DspexError, RuntimeError, ValueError) as error:
        found = error
    expected = case["expected"]
    return Ran(
        case["id"],
        tuple(case.get("tags", ())),
        compare(found, expected, calls=len(lm.requests)),
        notes_of(found, signature),
    )


def read_capabilities(given: Mapping[str, JSON]) -> Capabilities:
    """Give what the model of a case can do; several choices it always can."""
    supported = given.get("supported_params", ())
    return Capabilities(
        json_schema="response_format" in supported
        and bool(given.get("supports_response_schema")),
        tools=bool(given.get("supports_function_calling")),
        images=True,
        files=True,
        max_n=128,
    )


def read_adapter(name: str, signature: Signature) -> tuple[Adapter, int]:
    """Give the adapter of that name, and its repair turns, for dspy's fallback."""
    known: Mapping[str, tuple[Adapter, int]] = {
        "chat": (ChatAdapter(), 1),
        "chat_nofallback": (ChatAdapter(), 0),
        "chat_native_tools": (ChatAdapter(), 1),
        "json": (JSONAdapter(), 0),
        "xml": (XMLAdapter(), 1),
    }
    adapter, repairs = known[name]
    if calls_field(signature) is None:
        return adapter, repairs
    return ToolsAdapter(adapter, offer=name in ("chat_native_tools", "json")), repairs


def notes_of(found: Prediction | Exception, signature: Signature) -> tuple[str, ...]:
    """Tell what had to be forgiven, and what was not."""
    if isinstance(found, Prediction):
        repaired = ("repair-turn",) if found.attempts else ()
        return (*found.notes, *repaired)
    if isinstance(found, AdapterParseError) and found.field:
        field = signature.output_fields.get(found.field)
        if field is not None and field.constraints:
            return ("constraint",)
    return ()


def compare(
    found: Prediction | Exception, expected: Mapping[str, JSON], *, calls: int
) -> Difference | None:
    """Tell how an outcome differs from dspy's, the number of model calls included."""
    if isinstance(found, Exception):
        name = ERROR_NAMES.get(type(found).__name__, type(found).__name__)
        if expected["outcome"] == "ok":
            return Difference(f"dspy is fine, dspex says {found}", "enforces")
        wanted = expected["error"]["class"]
        if name != wanted and not _is_bad_use(found, wanted):
            return Difference(f"dspy raises {wanted}, dspex {name}: {found}")
        return None
    outputs = encode(found.outputs)
    if expected["outcome"] == "error":
        wanted = expected["error"]["class"]
        return Difference(f"dspy raises {wanted}, dspex gives {outputs}", "reads more")
    kind: Kind = "reads more" if calls < expected["lm_calls"] else "reads other"
    if not same(outputs, expected["outputs"]):
        return Difference(f"dspy gives {expected['outputs']}, dspex {outputs}", kind)
    for field, name in expected.get("types", {}).items():
        if not has_type(found[field], name):
            text = (
                f"dspy gives {field} as {name}, dspex as {type(found[field]).__name__}"
            )
            return Difference(text, kind)
    several: Mapping[str, JSON] = expected.get("all_completions") or {}
    for field, values in several.items():
        given = [encode(completion[field]) for completion in found.completions]
        if not same(given, values):
            return Difference(
                f"dspy completes {field} by {values}, dspex by {given}", kind
            )
    if calls > expected["lm_calls"]:
        return Difference(
            f"dspy needs {expected['lm_calls']} model calls, dspex {calls}"
        )
    return None


def _is_bad_use(found: Exception, wanted: str) -> bool:
    """Dspy has bare ValueErrors where dspex has errors of its own."""
    bare = ("ValueError", "TypeError", "SyntaxError", "NameError", "ValidationError")
    return wanted in bare and (
        isinstance(found, DspexError) and not isinstance(found, ProviderError)
    )
