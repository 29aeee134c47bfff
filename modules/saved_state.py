"""Programs as dspy saves them: `program.save("x.json")`, both ways.

The file holds, for each predictor by name, its demos, its instructions, and for each
field a prefix and a description; types and names of fields are not in it, they come
from the program it is loaded into. Nothing is ever unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from dspex.modules.adapters.values import to_plain
from dspex.modules.errors import StateError
from dspex.modules.fields import Field, infer_label
from dspex.modules.module import Module, Predictor
from dspex.modules.plain import is_list, is_object
from dspex.modules.signature import Signature

# Any: JSON.
State: TypeAlias = dict[str, Any]

_METADATA: Final = "metadata"
_DSPY: Final = "3.4.1"


def dump_signature_state(signature: Signature) -> State:
    """Give the instructions, and each field's prefix and description, in order."""
    return {
        "instructions": signature.instructions,
        "fields": [
            {
                "prefix": field.label,
                "description": f"${{{field.name}}}"
                if field.desc is None
                else field.desc,
            }
            for field in signature.fields.values()
        ],
    }


def load_signature_state(signature: Signature, state: object) -> Signature:
    """Give the signature with the saved instructions, prefixes and descriptions.

    Raises:
        StateError: the state is not one, or is of a signature with other fields.
    """
    where = signature.signature
    if not is_object(state) or not isinstance(state.get("instructions"), str):
        raise StateError(where, "has no saved instructions")
    saved: object = state.get("fields")
    fields = list(signature.fields.values())
    if not is_list(saved) or len(saved) != len(fields):
        count = len(saved) if is_list(saved) else 0
        raise StateError(
            where, f"has {len(fields)} fields and the saved signature {count}"
        )
    return Signature(
        fields=[_with_saved(where, *pair) for pair in zip(fields, saved, strict=True)],
        instructions=state["instructions"],
        name=signature.class_name,
    )


def _with_saved(signature: str, field: Field, entry: object) -> Field:
    if not is_object(entry):
        raise StateError(signature, f"has no saved field {field.name!r}")
    desc: object = entry.get("description")
    prefix: object = entry.get("prefix")
    if not isinstance(desc, str) or not isinstance(prefix, str):
        raise StateError(signature, f"has no prefix and description for {field.name!r}")
    return replace(
        field,
        desc=None if desc == f"${{{field.name}}}" else desc,
        prefix=None if prefix == infer_label(field.name) else prefix,
    )


def dump_dspy_state(program: Module) -> State:
    """Give the program's state as dspy's `save` writes it, without its metadata.

    Models are not saved: a program gets its model where it runs.
    """
    if isinstance(program, Predictor):
        return _dump_predictor(program)
    return {name: _dump_predictor(p) for name, p in program.named_predictors()}


def load_dspy_state(program: Module, state: Mapping[str, Any]) -> None:
    """Put a state that dspy's `save` wrote into the program; all of it or nothing.

    Raises:
        StateError: it is of a program with other predictors or fields.
    """
    saved = {name: entry for name, entry in state.items() if name != _METADATA}
    if isinstance(program, Predictor):
        named: list[tuple[str, Predictor]] = [("self", program)]
        saved = {"self": saved}
    else:
        named = program.named_predictors()
    names = [name for name, _ in named]
    if set(names) != set(saved):
        raise StateError(
            type(program).__name__,
            f"has the predictors {', '.join(names) or 'none'}, and the saved program "
            f"{', '.join(saved) or 'none'}",
        )
    loaded = [(p, *_load_predictor(name, p, saved[name])) for name, p in named]
    for predictor, signature, demos in loaded:
        predictor.signature = signature
        predictor.demos = demos


def save_program(program: Module, path: str | Path) -> None:
    """Write the state to a file that `dspy.Module.load` reads too.

    Raises:
        OSError: the file cannot be written.
    """
    metadata = {"dependency_versions": {"dspy": _DSPY}}
    text = json.dumps(
        dump_dspy_state(program) | {_METADATA: metadata}, indent=2, ensure_ascii=False
    )
    Path(path).write_text(text, encoding="utf-8")


def load_program(program: Module, path: str | Path) -> None:
    """Read a file that `save_program` or dspy's `save` wrote into the program.

    Raises:
        OSError: the file cannot be read.
        StateError: it is no JSON, or of another program.
    """
    try:
        state: object = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise StateError(str(path), f"is no JSON: {error}") from None
    if not is_object(state):
        raise StateError(str(path), "is no saved program")
    load_dspy_state(program, state)


def _dump_predictor(predictor: Predictor) -> State:
    return {
        "traces": [],
        "train": [],
        "demos": [
            # As in dspy, whose reader knows neither Infinity nor NaN.
            to_plain(dict(demo), inf_nan="null")
            for demo in predictor.demos
        ],
        "signature": dump_signature_state(predictor.signature),
        "lm": None,
    }


def _load_predictor(
    name: str, predictor: Predictor, entry: object
) -> tuple[Signature, tuple[State, ...]]:
    if not is_object(entry):
        raise StateError(name, "has no saved state")
    demos: object = entry.get("demos", [])
    if not is_list(demos) or not all(is_object(demo) for demo in demos):
        raise StateError(name, "has demos that are no list of objects")
    signature = load_signature_state(predictor.signature, entry.get("signature"))
    return signature, tuple(demos)
