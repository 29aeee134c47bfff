"""`signature.json`: the grammar of signatures, their edits, and saved programs."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

from dspex.modules import (
    ChainOfThought,
    InputField,
    Module,
    OutputField,
    Predict,
    Signature,
)
from dspex.modules.fields import Field, FieldType, infer_label
from dspex.modules.react import ReAct
from dspex.modules.saved_state import dump_dspy_state, load_dspy_state
from dspex.modules.type_names import is_union
from dspex.runtime.errors import DspexError
from dspex.testing.dspy_cases.encoding import JSON, same
from dspex.testing.dspy_cases.outcome import Difference, Ran

Edit: TypeAlias = Callable[[Signature], Signature]

_EDITS: Final[Mapping[str, Edit]] = {
    "with_instructions": lambda s: s.with_instructions("New."),
    "append_instructions": lambda s: s.append_instructions("More."),
    "prepend_output": lambda s: s.prepend("reasoning", OutputField(), str),
    "prepend_input": lambda s: s.prepend("hint", InputField(), str),
    "append_input": lambda s: s.append("hint", InputField(), str),
    "append_output": lambda s: s.append("score", OutputField(), str),
    "append_output_no_type": lambda s: s.append("score", OutputField()),
    "append_input_no_type": lambda s: s.append("hint", InputField()),
    "insert_0": lambda s: s.insert(0, "mid", InputField(desc="d"), list[str]),
    "insert_1": lambda s: s.insert(1, "mid", InputField(desc="d"), list[str]),
    "insert_negative": lambda s: s.insert(-1, "mid", InputField(desc="d"), list[str]),
    "insert_out_of_range": lambda s: s.insert(99, "mid", InputField(), str),
    "delete": lambda s: s.delete("context"),
    "delete_absent": lambda s: s.delete("nothing"),
    "update_desc": lambda s: s.with_updated_fields("answer", desc="an int"),
    "update_type": lambda s: s.with_updated_fields("answer", float),
}


_RESERVED: Final = frozenset(
    {
        "fields",
        "input_fields",
        "instructions",
        "model_config",
        "output_fields",
        "signature",
    }
)


class Multi(Module):
    """The program with predictors in an attribute, a list and a dict."""

    def __init__(self) -> None:
        self.a = Predict("question -> query")
        self.list = [ChainOfThought("x -> y: int"), Predict("z -> w")]
        self.d = {"k": Predict("m -> n")}


_PROGRAMS: Final[Mapping[str, Callable[[], Module]]] = {
    "Predict(": lambda: Predict("question -> answer"),
    "ChainOfThought(": lambda: ChainOfThought("question -> answer"),
    "Multi:": Multi,
    "ReAct(": lambda: ReAct("question -> answer", tools=[]),
}


def run_signature_file(data: Mapping[str, JSON]) -> Iterable[Ran]:
    """Run all cases of the file; their ids are made of what they are about."""
    for case in data["strings"]:
        difference = _run_string(case)
        notes = _notes(case["string"]) if difference else ()
        yield Ran(f"string {case['string']!r}", ("string",), difference, notes)
    for case in data["edits"]:
        yield Ran(f"edit {case['op']}", ("edit",), _run_edit(case, data["edit_base"]))
    for case in data["states"]:
        yield Ran(f"state {case['program']}", ("state",), _run_state(case))
    for name, label in data["infer_prefix"].items():
        found = infer_label(name).removesuffix(":")
        text = f"dspy labels {name!r} {label!r}, dspex {found!r}"
        difference = None if found == label else Difference(text)
        yield Ran(f"infer_prefix {name!r}", ("infer_prefix",), difference)


def _notes(text: str) -> tuple[str, ...]:
    """Tell what dspy cannot have as a field: the names of its own attributes."""
    try:
        names = Signature(text).fields
    except DspexError:
        return ()
    return ("reserved-name",) if _RESERVED.intersection(names) else ()


def _run_string(case: Mapping[str, JSON]) -> Difference | None:
    return _compare(lambda: Signature(case["string"]), case["expected"])


def _run_edit(case: Mapping[str, JSON], base: Mapping[str, JSON]) -> Difference | None:
    edit = _EDITS.get(case["op"])
    if edit is None:
        return Difference(f"no edit is known as {case['op']!r}")
    text = ", ".join(f"{n}: {t[0]}" for n, t in base["inputs"].items())
    text += " -> " + ", ".join(f"{n}: {t[0]}" for n, t in base["outputs"].items())
    signature = Signature(text, base["instructions"])
    return _compare(lambda: edit(signature), case["expected"])


def _compare(
    build: Callable[[], Signature], expected: Mapping[str, JSON]
) -> Difference | None:
    try:
        signature = build()
    except DspexError as error:
        if expected["outcome"] == "error":
            return None
        return Difference(f"dspy accepts it, dspex says {error}", "enforces")
    if expected["outcome"] == "error":
        wanted = expected["error"]["class"]
        return Difference(f"dspy raises {wanted}, dspex accepts it", "reads more")
    for role in ("inputs", "outputs"):
        fields = signature.input_fields if role == "inputs" else signature.output_fields
        found = {name: _describe(field) for name, field in fields.items()}
        if list(found) != list(expected[role]) or not same(found, expected[role]):
            return Difference(f"dspy has {role} {expected[role]}, dspex {found}")
    return None


def _describe(field: Field) -> list[str]:
    return [
        dspy_type_name(field.annotation),
        field.label,
        f"${{{field.name}}}" if field.desc is None else field.desc,
    ]


def dspy_type_name(annotation: FieldType) -> str:
    """Give a type's name as dspy prints it: `Union[int, NoneType]`."""
    origin: Any = get_origin(annotation)  # Any: a typing form
    args = get_args(annotation)
    if origin is Annotated:
        return dspy_type_name(args[0])
    if is_union(annotation):
        return f"Union[{', '.join(map(dspy_type_name, args))}]"
    if origin is Literal:
        shown = (repr(a) if isinstance(a, str) else str(a) for a in args)
        return f"Literal[{', '.join(shown)}]"
    if origin is not None:
        return f"{dspy_type_name(origin)}[{', '.join(map(dspy_type_name, args))}]"
    if inspect.isclass(annotation) or hasattr(annotation, "__name__"):
        name: str = annotation.__name__
        return name
    return str(annotation)


def _run_state(case: Mapping[str, JSON]) -> Difference | None:
    build = next(
        (b for n, b in _PROGRAMS.items() if case["program"].startswith(n)), None
    )
    if build is None:
        return Difference(f"no program is known as {case['program']!r}")
    program = build()
    names = [name for name, _ in program.named_predictors()]
    wanted = case.get("named_predictors", names)
    if names != wanted:
        return Difference(f"dspy names the predictors {wanted}, dspex {names}")
    try:
        load_dspy_state(program, case["state"])
    except DspexError as error:
        return Difference(f"dspex cannot load it: {error}")
    found = dump_dspy_state(program)
    if not same(found, case["state"]):
        return Difference(f"dspy saves {case['state']}, dspex {found}")
    return None
