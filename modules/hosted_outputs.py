"""What a hosted module gave, checked against what its signature declares."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import pydantic

from dspex.modules.errors import HostedOutputError, shorten
from dspex.modules.fields import Field
from dspex.modules.signature import Signature, first_problem
from dspex.runtime import bridge

# Of types that the bridge brings home as its own.
_TRAVELLERS: Final = (
    bridge.Audio,
    bridge.Example,
    bridge.History,
    bridge.HostedTool,
    bridge.Image,
    bridge.ToolCalls,
)


def check_outputs(
    module: str,
    signature: str,
    outputs: Mapping[str, Any],  # Any: whatever the module gave
) -> dict[str, Any]:  # Any: as the signature declares
    """Give the outputs as the types of the signature, read as inputs are.

    What dspy's own modules give, dspy has validated; an output that is declared
    without a type takes any value.

    Raises:
        HostedOutputError: one has the wrong type.
    """
    typed = dict(outputs)
    if module.startswith("dspy."):
        return typed
    for field in _typed_fields(signature):
        value = outputs.get(field.name)
        if field.name not in outputs or isinstance(value, _TRAVELLERS):
            continue
        try:
            typed[field.name] = field.validator.validate_python(value)
        except pydantic.ValidationError as error:
            problem = first_problem(error)
            raise HostedOutputError(
                module,
                field.name,
                f"is {shorten(value)}, not {field.type_name}: "
                f"{problem[:1].lower()}{problem[1:]}",
            ) from None
    return typed


@lru_cache(maxsize=1024)
def _typed_fields(signature: str) -> tuple[Field, ...]:
    found = Signature(signature).output_fields.values()
    return tuple(field for field in found if field.typed)
