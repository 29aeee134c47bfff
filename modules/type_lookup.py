"""The types that a name in a signature's text may stand for."""

import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Final

from dspex.modules.media import History, Image
from dspex.modules.tools.calls import ToolCalls
from dspex.modules.tools.tool import Tool
from dspex.modules.type_names import TypeForm

_TYPING: Final[frozenset[str]] = frozenset(
    name for name in vars(typing) if name[0].isupper()
)

_BUILTINS: Final[Mapping[str, TypeForm]] = {
    cls.__name__: cls
    for cls in (
        int,
        str,
        float,
        bool,
        list,
        tuple,
        dict,
        set,
        frozenset,
        complex,
        bytes,
        bytearray,
        type(None),
    )
}

# The types of dspy's that have a native counterpart, under dspy's names.
_OWN: Final[Mapping[str, TypeForm]] = {
    "dspy.History": History,
    "dspy.Image": Image,
    "dspy.Tool": Tool,
    "dspy.ToolCalls": ToolCalls,
}

# What a dotted name may start with. A name never makes anything be imported.
_MODULES: Final[Mapping[str, types.ModuleType]] = {
    "collections": collections,
    "datetime": datetime,
    "decimal": decimal,
    "enum": enum,
    "fractions": fractions,
    "pathlib": pathlib,
    "types": types,
    "typing": typing,
    "uuid": uuid,
}


class UnknownTypeNameError(LookupError):
    """No type of this name is known; `known` lists names one may have meant."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.known = known


def find_type(name: str, custom_types: Mapping[str, TypeForm]) -> TypeForm:
    """Give the type that `name` stands for.

    Looked up in `custom_types`, the builtins, `typing`, and for a dotted name in a
    fixed list of standard modules and dspex's own types under `dspy.`.

    Raises:
        UnknownTypeNameError: it is in none of them.
    """
    if name in custom_types:
        return custom_types[name]
    if name in _BUILTINS:
        return _BUILTINS[name]
    if "." not in name and name in _TYPING:
        return getattr(typing, name)
    module, _, attribute = name.rpartition(".")
    if module in _MODULES and not attribute.startswith("_"):
        found: TypeForm = getattr(_MODULES[module], attribute, None)
        if found is not None:
            return found
    if name in _OWN:
        return _OWN[name]
    known = (*custom_types, *_BUILTINS, *_TYPING)
    raise UnknownTypeNameError(name, known)
