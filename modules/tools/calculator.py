"""A calculator for models: arithmetic by a whitelist, with bounds.

Nothing is evaluated as Python: the expression is parsed, and only numbers, arithmetic
operators and the functions below are computed.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from dspex.runtime.errors import DspexError

Number: TypeAlias = int | float

_MAX_CHARACTERS: Final = 1_000
_MAX_BITS: Final = 10_000
_MAX_FACTORIAL: Final = 1_000

# Any: functions of numbers, overloaded in many ways.
_Operation: TypeAlias = Callable[..., Any]

_BINARY: Final[Mapping[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}
_UNARY: Final = dict[type[ast.unaryop], _Operation](
    {
        ast.UAdd: operator.pos,
        ast.USub: operator.neg,
    }
)
_POWER: Final[_Operation] = pow
_CONSTANTS: Final[Mapping[str, float]] = {
    "pi": math.pi,
    "e": math.e,
    "tau": math.tau,
}
_FUNCTIONS: Final = dict[str, _Operation](
    {
        "abs": abs,
        "acos": math.acos,
        "asin": math.asin,
        "atan": math.atan,
        "ceil": math.ceil,
        "cos": math.cos,
        "exp": math.exp,
        "floor": math.floor,
        "log": math.log,
        "log10": math.log10,
        "log2": math.log2,
        "max": max,
        "min": min,
        "round": round,
        "sin": math.sin,
        "sqrt": math.sqrt,
        "tan": math.tan,
    }
)


class CalculationError(DspexError):
    """An expression cannot be computed; says which part and why."""

    def __init__(self, expression: str, problem: str) -> None:
        super().__init__(f"cannot compute {expression[:200]!r}: {problem}")
        self.expression = expression
        self.problem = problem


def calculator(expression: str) -> float:
    """Compute an arithmetic expression such as "25*4" or "sqrt(144) + 2**10".

    Args:
        expression: numbers, + - * / // % **, parentheses, pi, e, and functions such
            as sqrt, log, sin, round, min, max, factorial
    """
    return _Calculation(expression).compute()


class _Calculation:
    def __init__(self, expression: str) -> None:
        self.expression = expression

    def compute(self) -> Number:
        if len(self.expression) > _MAX_CHARACTERS:
            self.fail(f"it is longer than {_MAX_CHARACTERS} characters")
        text = self.expression.strip().replace("^", "**").replace("\u00d7", "*")
        try:
            tree = ast.parse(text, mode="eval")
            return self.value(tree.body)
        except (SyntaxError, ValueError) as error:
            problem = error.msg if isinstance(error, SyntaxError) else str(error)
            raise CalculationError(self.expression, problem) from None
        except (ZeroDivisionError, OverflowError, TypeError) as error:
            raise CalculationError(self.expression, str(error)) from None
        except (RecursionError, MemoryError):
            raise CalculationError(self.expression, "it is nested too deeply") from None

    def fail(self, problem: str) -> None:
        raise CalculationError(self.expression, problem)

    def value(self, node: ast.expr) -> Number:
        found = self.unbounded(node)
        if isinstance(found, int) and found.bit_length() > _MAX_BITS:
            self.fail(f"{ast.unparse(node)[:80]} has too many digits")
        return found

    def unbounded(self, node: ast.expr) -> Number:
        if isinstance(node, ast.Constant):
            if type(node.value) in (int, float):
                number: Number = node.value  # type: ignore[assignment]
                return number
        elif isinstance(node, ast.Name):
            if node.id in _CONSTANTS:
                return _CONSTANTS[node.id]
        elif isinstance(node, ast.UnaryOp):
            if type(node.op) in _UNARY:
                return to_number(_UNARY[type(node.op)](self.value(node.operand)))
        elif isinstance(node, ast.BinOp):
            left, right = self.value(node.left), self.value(node.right)
            if isinstance(node.op, ast.Pow):
                return self.power(left, right)
            if type(node.op) in _BINARY:
                return _BINARY[type(node.op)](left, right)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self.call(node.func.id, node)
        self.fail(f"{ast.unparse(node)[:80]} is not arithmetic")
        return 0

    def call(self, name: str, node: ast.Call) -> Number:
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            self.fail(f"{name} takes plain numbers")
        values = [self.value(argument) for argument in node.args]
        if name == "factorial":
            if len(values) != 1 or not 0 <= values[0] <= _MAX_FACTORIAL:
                self.fail(f"factorial takes one number from 0 to {_MAX_FACTORIAL}")
            return math.factorial(int(values[0]))
        if name not in _FUNCTIONS:
            known = ", ".join([*_FUNCTIONS, "factorial"])
            self.fail(f"there is no function {name}; there are {known}")
        return to_number(_FUNCTIONS[name](*values))

    def power(self, base: Number, exponent: Number) -> Number:
        if isinstance(base, int) and isinstance(exponent, int):
            bits = max(1, base.bit_length()) * abs(exponent)
            if bits > _MAX_BITS:
                self.fail("the power has too many digits")
        return to_number(_POWER(base, exponent))


def to_number(value: object) -> Number:
    """Give a result that is a real number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int | float):
        return value
    raise ValueError(f"{value} is not a real number")
