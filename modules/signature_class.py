"""The fields that the body of a signature class declares."""

import inspect
import sys
from typing import get_type_hints

from dspex.modules.errors import SignatureError
from dspex.modules.fields import Field, FieldType
from dspex.modules.signature_string import check_type


def read_fields(cls: type) -> tuple[Field, ...]:
    """Give the fields that a class declares itself, and take them off it.

    Raises:
        SignatureError: one has no role, a bad name, or a type no field can have.
    """
    own = {n: v for n, v in vars(cls).items() if isinstance(v, Field)}
    annotations = inspect.get_annotations(cls)
    for name in annotations:
        if name not in own and not name.startswith("_"):
            raise SignatureError(
                f"field {name!r} of {cls.__name__} has no role: "
                f"write {name}: ... = InputField() or OutputField()"
            )
    hints = _resolve_hints(cls) if annotations else {}
    fields: list[Field] = []
    for name, declared in own.items():
        if name.startswith("_"):
            raise SignatureError(
                f"field {name!r} of {cls.__name__} starts with an underscore"
            )
        annotation = hints.get(name)
        if annotation is not None:
            check_type(name, annotation)
        fields.append(declared.named(name, annotation))
        delattr(cls, name)
    return tuple(fields)


def _resolve_hints(cls: type) -> dict[str, FieldType]:
    module = sys.modules.get(cls.__module__)
    try:
        return get_type_hints(
            cls, globalns=vars(module) if module else None, include_extras=True
        )
    except NameError as error:
        raise SignatureError(
            f"{cls.__name__}: {error}; types of a signature class must be visible in "
            "its module"
        ) from None
