"""Condition: a `when` of a step, a small expression over inputs and earlier outputs.

It has comparisons, `and`, `or`, `not`, `in`, `len(...)`, literals and references
(`inputs.NAME`, `STEP.FIELD`), and nothing else: it is walked, never evaluated as code.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_MAX_LENGTH: Final = 1_000

# Any: values of whatever type the signatures say.
_COMPARE: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


class BadConditionError(ValueError):
    """The text is no condition; says what it may contain."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; `references` are the (source, field) pairs it needs."""

    text: str
    tree: ast.expr
    references: tuple[tuple[str, str], ...]

    def holds(self, value: Callable[[str, str], object]) -> bool:
        """Whether it is true, with `value(source, field)` for its references.

        Raises:
            TypeError: values that cannot be compared.
        """
        return bool(_value(self.tree, value))


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        BadConditionError: it does not parse, or has what a condition may not.
    """
    if len(text) > _MAX_LENGTH:
        raise BadConditionError(f"it is longer than {_MAX_LENGTH} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadConditionError(f"it does not parse: {error}") from error
    references: dict[tuple[str, str], None] = {}
    _check(tree, references)
    return Condition(text, tree, tuple(references))


def _check(node: ast.expr, references: dict[tuple[str, str], None]) -> None:
    match node:
        case ast.BoolOp(values=values):
            parts = values
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            parts = [operand]
        case ast.Compare(left=left, comparators=comparators):
            parts = [left, *comparators]
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            parts = items
        case ast.Constant(value=str() | int() | float() | bool() | None):
            parts = []
        case ast.Attribute(value=ast.Name(id=source), attr=field):
            references[source, field] = None
            parts = []
        case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
            parts = [argument]
        case _:
            raise BadConditionError(
                f"{ast.unparse(node)!r} may not be in it: use references "
                "(inputs.NAME, STEP.FIELD), literals, comparisons, in, and, or, "
                "not, len()"
            )
    for part in parts:
        _check(part, references)


# Any: values of whatever type the signatures say.
def _value(node: ast.expr, value: Callable[[str, str], object]) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, value) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, value) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, value)
        case ast.UnaryOp(operand=operand):
            return -_value(operand, value)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            found = _value(left, value)
            for op, comparator in zip(ops, comparators, strict=True):
                right = _value(comparator, value)
                if not _COMPARE[type(op)](found, right):
                    return False
                found = right
            return True
        case ast.Attribute(value=ast.Name(id=source), attr=field):
            return value(source, field)
        case ast.Call(args=[argument]):
            return len(_value(argument, value))
        case ast.Constant(value=constant):
            return constant
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_value(item, value) for item in items]
        case _:
            raise AssertionError(node)
