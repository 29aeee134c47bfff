"""The answer that fits a request: what a model that obeys might say."""

import json
import re
from typing import Any, Final

from dspex.providers import Choice, Request, ToolCall, ToolSpec
from dspex.testing.schema_values import Schema, value_of

_TEXT: Final = "ok"
_FINISH: Final = "finish"
# A marker and what shall stand below it: dspex's words, or dspy's.
_MARKED: Final = re.compile(r"\[\[ ## (\w+) ## \]\]\n\{(.*)")
_TAGGED: Final = re.compile(r"^<(\w+)>\{(.*)\}</\1>$", re.MULTILINE)
_KEY: Final = re.compile(r'^- "(\w+)": (.*)$', re.MULTILINE)
_FINISHING: Final = re.compile(r"write Finish\[\.\.\.\] with \w+, (.*)\.$")
_SCHEMA: Final = re.compile(r"JSON of this schema: |adhere to the JSON schema: ")
_ONE_OF: Final = re.compile(r"one of: (.*?)\}?$")


def fitting_answer(request: Request) -> Choice:
    """Give an answer that fits a request: the first thing that its form allows.

    With an output schema it is JSON of it: "ok", 0, true, one item of a list, the first
    of several values, models by their own schema. A tool that must be called, and the
    `finish` of an agent, is called, with arguments by its schema; other tools are left
    alone. Where the prompt asks for markers, tags, a JSON object or `Finish[...]`, the
    values stand there. To anything else it is the text "ok".

    It is a rule for `ScriptedLM`, and its default one.
    """
    tool = _wanted_tool(request)
    if tool is not None:
        arguments = json.dumps(_made(tool.parameters))
        call = ToolCall("call_1", tool.name, arguments)
        return Choice("", (call,), "tool_calls")
    if request.output_schema is not None:
        return Choice(json.dumps(_made(request.output_schema.schema)))
    return Choice(_by_the_prompt(request.messages[0].text))


def _wanted_tool(request: Request) -> ToolSpec | None:
    for tool in request.tools:
        if tool.name in (_FINISH, request.tool_choice):
            return tool
    return request.tools[0] if request.tool_choice == "required" else None


def _by_the_prompt(task: str) -> str:
    marked, tagged = _MARKED.findall(task), _TAGGED.findall(task)
    if marked:
        parts = [f"[[ ## {name} ## ]]\n{_shown(form)}" for name, form in marked]
        return "\n\n".join([*parts, "[[ ## completed ## ]]"])
    if tagged:
        return "\n".join(f"<{name}>{_shown(form)}</{name}>" for name, form in tagged)
    if "Write one JSON object with these keys" in task:
        return json.dumps({name: _value(form) for name, form in _KEY.findall(task)})
    finish = _FINISHING.search(task)
    return _TEXT if finish is None else f"Finish[{_shown(finish[1])}]"


def _made(schema: Schema) -> Any:  # Any: as the schema says
    # An agent that is asked for its next tool is done.
    return value_of(schema, text=_TEXT, choice=_FINISH)


def _shown(form: str) -> str:
    value = _value(form)
    return value if isinstance(value, str) else json.dumps(value)


def _value(form: str) -> Any:  # Any: as the form says
    """Give the value that a form describes: `an integer`, `exactly one of: a; b`."""
    schema = _SCHEMA.search(form)
    if schema is not None:
        return _made(json.JSONDecoder().raw_decode(form, schema.end())[0])
    one_of = _ONE_OF.search(form)
    if one_of is not None:
        words = one_of[1].split("; ")
        return _FINISH if _FINISH in words else words[0]
    if "True or False" in form:
        return True
    if "an integer" in form or "single int value" in form:
        return 0
    if "a number" in form or "single float value" in form:
        return 0.0
    return _TEXT
