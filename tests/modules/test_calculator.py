"""The calculator: arithmetic, and nothing else."""

import pytest

from dspex.modules import CalculationError, calculator


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("25*4", 100),
        ("sqrt(144)", 12),
        ("2**10 - 1", 1023),
        ("-3 // 2 + 7 % 4", 1),
        ("max(1, 2.5, 2)", 2.5),
        ("round(pi, 2)", 3.14),
        ("factorial(5) ^ 1", 120),
        ("2 ** -1", 0.5),
    ],
)
def test_calculator_computes(expression: str, expected: float) -> None:
    assert calculator(expression) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "().__class__",
        "abs.__self__",
        "9**9**9",
        "9**999999",
        "(9**999)**999",
        "factorial(100000)",
        "factorial(-1)",
        "1/0",
        "(-8) ** 0.5",
        "'a' * 9",
        "[1, 2]",
        "x + 1",
        "open('f')",
        "lambda: 1",
        "1 if 1 else 2",
        "max(*[1, 2])",
        "sqrt(-1)",
        "10.0 ** 400",
        "",
        "1 +",
        "(" * 500 + "1" + ")" * 500,
        "1+" * 600 + "1",
        "True + 1",
    ],
)
def test_d6_calculator_refuses_what_is_not_arithmetic(expression: str) -> None:
    with pytest.raises(CalculationError):
        calculator(expression)
