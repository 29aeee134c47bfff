import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.modules.plain import is_object
from dspex.modules.react import Action, ActionParseError, ActionParser, Finish

PARSER = ActionParser()


@pytest.mark.parametrize(
    ("text", "positional", "named"),
    [
        ("Action[add](1, 2)", (1, 2), {}),
        ("Action[add](a=1, b=2)", (), {"a": 1, "b": 2}),
        ("Action[add](a: 1, b: 2)", (), {"a": 1, "b": 2}),
        ("Action[add](1, b=2.5)", (1,), {"b": 2.5}),
        ("Action[now]()", (), {}),
        ("Action [ now ] ( )", (), {}),
        ("action[now]()", (), {}),
        ('Action[s](query="a, b", k=2)', (), {"query": "a, b", "k": 2}),
        ("Action[s](query='it\\'s', k=2)", (), {"query": "it's", "k": 2}),
        ('Action[s]("say \\"hi\\"\\n\\u00e9")', ('say "hi"\né',), {}),
        ('Action[s](")")', (")",), {}),
        ("Action[s](paris weather, today)", ("paris weather", "today"), {}),
        ("Action[s](query=paris (france))", (), {"query": "paris (france)"}),
        ('Action[s]({"query": "q", "k": [1, {"x": null}]})', (),
         {"query": "q", "k": [1, {"x": None}]}),
        ("Action[s]({query: q, k: 2})", (), {"query": "q", "k": 2}),
        ("Action[s]([1, 2], [3])", ([1, 2], [3]), {}),
        ("Action[s](x=true, y=False, z=None, w=null)", (),
         {"x": True, "y": False, "z": None, "w": None}),
        ("Action[s](-1.5e3, 007x)", (-1500.0, "007x"), {}),
        ("Action[s](a=1,)", (), {"a": 1}),
        ("Action[s](a = 1 , b = 'x')", (), {"a": 1, "b": "x"}),
        ("Action[s](1 == 1)", ("1 == 1",), {}),
        ("Action[s](2024-01-01)", ("2024-01-01",), {}),
        ('Action[s]("https://x.org/?a=1&b=[2]")', ("https://x.org/?a=1&b=[2]",), {}),
    ],
)  # fmt: skip
def test_d5_arguments_are_tokenized(
    text: str, positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    found = PARSER.parse(f"Thought: hm\n{text}\nObservation: ...")
    assert isinstance(found, Action)
    assert (found.positional, dict(found.arguments)) == (positional, named)
    assert found.thought == "hm"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Finish[Paris]", "Paris"),
        ("Finish[a [b] c]", "a [b] c"),
        ("Finish[it's [ok]", "it's [ok"),
        ("Finish[two\nlines]", "two\nlines"),
        ("Finish[]", ""),
        ("Finish[open", "open"),
        ("Finish [ x ] trailing", "x"),
        ('Finish[{"a": [1, 2]}]', '{"a": [1, 2]}'),
    ],
)
def test_d5_finish_keeps_brackets_and_lines(text: str, answer: str) -> None:
    assert PARSER.parse(text) == Finish(answer)


def test_first_action_counts() -> None:
    found = PARSER.parse("Action[a](1)\nObservation: 2\nFinish[3]")
    assert isinstance(found, Action)
    assert PARSER.parse("Finish[3]\nAction[a](1)") == Finish("3")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("I think it is Paris.", "there is no Action"),
        ("", "there is no Action"),
        ('Action[s]("open', "a quote is not closed"),
        ("Action[s](1, 2", "it does not end"),
        ("Action[s](1 [", "it does not end"),
        ("Action[s]([1, 2)", "it does not end"),
        ('Action[s]("a" "b")', "a comma or a closing parenthesis is missing"),
        ("Action[s](,)", "a value is missing"),
        ("Action[s](" + "[" * 200, "nested too deeply"),
    ],
)
def test_unreadable_action_says_where(text: str, problem: str) -> None:
    with pytest.raises(ActionParseError, match="no readable action") as caught:
        PARSER.parse(text)
    assert problem in caught.value.problem
    assert 0 <= caught.value.position <= len(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(NAMES, st.dictionaries(NAMES, JSON), st.lists(JSON, max_size=3))
def test_d5_what_was_written_is_read_back(
    tool: str, named: dict[str, Any], positional: list[Any]
) -> None:
    if len(positional) == 1 and is_object(positional[0]) and not named:
        # One object alone stands for the named arguments.
        named, positional = positional[0], []
    action = Action(tool, named, tuple(positional))
    found = PARSER.parse(PARSER.format(action))
    assert isinstance(found, Action)
    assert json.dumps([found.arguments, found.positional]) == json.dumps(
        [named, positional]
    )


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="Action[]Finish(){},:='\"\\ abc019-.\nu", max_size=60))
def test_d5_a_fuzzed_parser_raises_only_its_own_error(text: str) -> None:
    for candidate in (text, f"Action[t]({text}", f"Finish[{text}"):
        with contextlib.suppress(ActionParseError):
            PARSER.parse(candidate)
