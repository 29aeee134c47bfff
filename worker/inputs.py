"""Inputs of runs, as a command line gives them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dspex.runtime import DspexError


class BadInputError(DspexError):
    """What the command line gives as inputs cannot be read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run's inputs, or what is wrong with them; `place` is file and line."""

    place: str
    inputs: Mapping[str, Any] | None  # Any: JSON
    problem: str | None = None


def read_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Read `NAME=VALUE` arguments.

    Raises:
        BadInputError: one of them is not of that form, or is there twice.
    """
    inputs: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise BadInputError(f"--input {pair!r} is not of the form NAME=VALUE")
        if name in inputs:
            raise BadInputError(f"--input {name!r} is given twice")
        inputs[name] = value
    return inputs


def convert(inputs: Mapping[str, str], types: Mapping[str, Any]) -> dict[str, Any]:
    """Read as JSON what the program does not want as text: `--input n=[1, 2]`."""
    return {
        name: value if types.get(name, str) is str else _json_or_text(value)
        for name, value in inputs.items()
    }


def _json_or_text(value: str) -> Any:  # Any: JSON
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """Read a JSONL file of inputs, one object a line; empty lines are skipped.

    Raises:
        BadInputError: the file cannot be read; a bad line is a Row with a problem.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInputError(f"{path}: cannot read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(f"{path}:{number}", line)


def _row(place: str, line: bytes) -> Row:
    try:
        data: object = json.loads(line)
    except UnicodeDecodeError as error:
        return Row(place, None, f"not UTF-8: {error.reason}")
    except json.JSONDecodeError as error:
        return Row(f"{place}:{error.colno}", None, f"not JSON: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, say
        return Row(place, None, f"not JSON: {error}")
    if not isinstance(data, dict):
        return Row(place, None, f"not an object of inputs: {str(data)[:60]!r}")
    return Row(place, cast("dict[str, Any]", data))  # JSON's keys are strings
