"""`react.json`: an agent's trajectory, step by step."""

import re
from collections.abc import Mapping
from typing import Any, Final

from dspex.modules import AdapterParseError, Prediction, record_trace
from dspex.modules.plain import is_object
from dspex.modules.react import AgentFailedError, ReAct
from dspex.modules.tools.tool import Tool
from dspex.runtime.errors import DspexError
from dspex.testing.dspy_cases.encoding import JSON, encode, read_signature, same
from dspex.testing.dspy_cases.outcome import Difference, Ran
from dspex.testing.dspy_cases.predict import (
    Case,
    compare,
    read_adapter,
    read_capabilities,
)
from dspex.testing.dspy_cases.script import scripted_lm
from dspex.testing.dspy_cases.tools import TOOLS

_FAILED: Final = re.compile(
    r"Execution error in (?P<tool>[^:]*): \.\.\. (?P<error>.*)", re.DOTALL
)
# dspy's own complaints about arguments; dspex words its own.
_BAD_ARGUMENTS: Final = re.compile(
    r"(TypeError: .*(argument|positional).*|ValueError: Arg .*|ValidationError: .*|"
    r".*validation error.*|.*<TRACEBACK>.*)",
    re.DOTALL,
)


async def run_react_case(case: Case) -> Ran:
    """Run a case and compare trajectory and outputs."""
    signature = read_signature(case["signature"], {})
    capabilities = read_capabilities(case.get("lm_capabilities") or {})
    lm = scripted_lm(case["completions"], capabilities)
    adapter, repairs = read_adapter(case["adapter"], signature)
    agent = ReAct(
        signature,
        [Tool(TOOLS[name]) for name in case["tools"]],
        lm=lm,
        adapter=adapter,
        repairs=repairs,
        protocol="fields",
        max_iterations=case["max_iters"],
        strict_inputs=False,
    )
    inputs: dict[str, Any] = dict(case["inputs"])  # Any: JSON
    if case.get("call_max_iters") is not None:
        inputs["max_iters"] = case["call_max_iters"]
    found: Prediction | Exception
    reason = ""
    forgiven: list[str] = []
    try:
        with record_trace() as trace:
            found = await agent.run(inputs)
        forgiven = [note for step in trace for note in step.prediction.notes]
        reason = found.reason
    except AgentFailedError as error:
        found, reason = error.cause, error.reason
    except (DspexError, RuntimeError, ValueError) as error:
        found = error
    expected = case["expected"]
    difference = _compare(found, expected, calls=len(lm.requests))
    return Ran(
        case["id"],
        tuple(case.get("tags", ())),
        difference,
        (*forgiven, *_notes(found, reason, expected)),
    )


def _compare(
    found: Prediction | Exception, expected: Mapping[str, JSON], *, calls: int
) -> Difference | None:
    if isinstance(found, Exception) or expected["outcome"] == "error":
        return compare(found, {"outputs": {}, **expected}, calls=calls)
    difference = _compare_trajectory(found.trajectory, expected["trajectory"])
    return difference or compare(found, expected, calls=calls)


def _compare_trajectory(
    found: Mapping[str, JSON], expected: Mapping[str, JSON]
) -> Difference | None:
    if list(found) != list(expected):
        # Where dspy could not read a step it took the next one's answer for it.
        return Difference(
            f"dspy's steps are {list(expected)}, dspex's {list(found)}",
            "reads more" if len(found) > len(expected) else "other",
        )
    for key, wanted in expected.items():
        given = encode(found[key])
        if key.startswith("observation_"):
            equal = _same_observation(given, wanted)
        else:
            equal = same(given, wanted)
        if not equal:
            return Difference(
                f"dspy has {key} {wanted!r}, dspex {given!r}", "reads other"
            )
    return None


def _same_observation(given: JSON, wanted: JSON) -> bool:
    """Whether an observation is dspy's; of an error only what the tool said counts."""
    failed = _FAILED.fullmatch(wanted) if isinstance(wanted, str) else None
    if failed is None:
        return same(given, wanted)
    if not isinstance(given, str) or not given.startswith(f"Error in {failed['tool']}"):
        return False
    if _BAD_ARGUMENTS.fullmatch(failed["error"]):
        return "wrong arguments" in given
    return " ".join(failed["error"].split()) in given


def _notes(
    found: Prediction | Exception, reason: str, expected: Mapping[str, JSON]
) -> tuple[str, ...]:
    notes = ["repeated-failure"] if reason == "repeated_failure" else []
    if not isinstance(found, Prediction):
        return tuple(notes)
    if expected["outcome"] == "error":
        survived = expected["error"]["class"] == AdapterParseError.__name__
        notes.extend(["step-survived"] if survived else [])
    elif any(
        key.startswith("tool_args_") and found.trajectory[key]
        for key, name in zip(found.trajectory, list(found.trajectory)[1:], strict=False)
        if is_object(found.trajectory[key]) and name.startswith("observation_")
    ):
        notes.append("finish-arguments")
    return tuple(notes)
