"""Program and Step: what to run, as data."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from dspex.runtime.engine.errors import Place, ProgramError
from dspex.runtime.engine.json_text import json_problem
from dspex.runtime.engine.source import Source, parse_source

_SHOWN = 200
_NAME = r"^[A-Za-z_][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=100)]

BackendName = Literal["native", "python"]


class StepOptions(BaseModel):
    """How a step is run."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    timeout: float = Field(default=300.0, gt=0)
    """Seconds for the whole step, dispatches after a death included."""
    max_dispatches: int = Field(default=20, ge=1)
    """How often the step is given to an actor or process before it fails."""
    max_crashes: int = Field(default=3, ge=1)
    """How often in a row its process may die of the step before it fails: it exits
    or crashes while it runs it, and was not killed."""
    retries: int = Field(default=0, ge=0, le=100)
    """How often a step that failed is done anew, with new model calls."""
    on_error: Literal["fail", "skip", "default"] = "fail"
    """What a failure does: fail the run, skip the step and what depends on it, or
    give `default`."""
    default: Mapping[str, Any] | None = None  # Any: as the signature declares
    """Outputs in place of those of a step that failed (with `on_error: default`) or
    whose `when` does not hold."""
    concurrency: int = Field(default=8, ge=1, le=1000)
    """How many items of a `map` run at a time."""
    stream: bool = False
    """Tell those who follow the run the text of the step's outputs while it is
    written."""

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:  # Any: JSON
        # What programs said before there was this option has the same digest still.
        found: dict[str, Any] = dump(self)  # Any: JSON
        if not self.stream:
            del found["stream"]
        if self.max_crashes == type(self).model_fields["max_crashes"].default:
            del found["max_crashes"]
        return found


class ProgramOptions(BaseModel):
    """How a program is run."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    timeout: float | None = Field(default=None, gt=0)
    """Seconds for a run, from its start in a process; None: only its steps have."""
    tolerant: bool = False
    """Go on after a step has failed: what depends on it is skipped, the rest runs."""
    on_change: Literal["live", "fail"] = "live"
    """What happens when a resumed step does not ask for what it asked for before:
    go on with live calls, or fail with NondeterminismError."""


class Step(BaseModel):
    """One module call of a program.

    `inputs` says where each input of the signature comes from: `inputs.NAME` is an
    input of the program, `STEP.FIELD` an output of another step, `{"value": x}` a
    literal, and so is anything that is not a string. What is left out comes from
    the step output or program input of the same name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    module: str
    """A native module (`Predict`), or with the python backend what the dspy process
    hosts (`dspy.Predict`)."""
    signature: str
    backend: BackendName = "native"
    instructions: str | None = None
    inputs: Mapping[str, Any] = Field(default_factory=dict)  # Any: literals of any kind
    after: tuple[Name, ...] = ()
    """Steps to wait for although nothing is taken from them."""
    when: str | None = None
    """A condition on program inputs and outputs of other steps; see `Condition`."""
    map: Mapping[str, str] | None = Field(default=None, min_length=1, max_length=1)
    """`{INPUT: LIST}`: run once for each item of a list that an output or a program
    input gives, with the item as that input; each output is then a list."""
    config: Mapping[str, Any] = Field(default_factory=dict)  # Any: the module's own
    demos: tuple[Mapping[str, Any], ...] = ()  # Any: as the signature declares
    """Examples that the model is shown: field names to values."""
    options: StepOptions = Field(default_factory=StepOptions)


class Program(BaseModel):
    """Named steps, what feeds them, and which outputs the run gives.

    A step starts when what it depends on is there; independent steps run in
    parallel. `outputs` maps names to `STEP.FIELD`; without it the run gives every
    output of every step by its own name. `inputs` names what a run is given; without
    it that is whatever the steps take from nowhere else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: Name
    steps: Mapping[Name, Step] = Field(min_length=1)
    inputs: tuple[Name, ...] | None = None
    outputs: Mapping[str, str] | None = None
    description: str = ""
    options: ProgramOptions = Field(default_factory=ProgramOptions)

    _source: Source | None = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        # What a program says counts, not the file that it was read from.
        if self is other:
            return True
        return isinstance(other, Program) and self.digest == other.digest

    def model_copy(
        self,
        *,
        update: Mapping[str, Any] | None = None,  # Any: as in pydantic
        deep: bool = False,
    ) -> Self:
        """Give a copy with some fields changed, which are not checked again."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("digest", None)
        return copied

    @cached_property
    def digest(self) -> str:
        """A hash of what the program says.

        Raises:
            ProgramError: part of it cannot be written as JSON.
        """
        try:
            data = self.model_dump(mode="json")
            text = msgspec.json.encode(data, order="deterministic")
        except ValueError as error:
            raise self._unwritable(error) from error
        return hashlib.sha256(text).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a program from a YAML or JSON file.

        Raises:
            ProgramError: no such file, or not a program; names line and column.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise ProgramError(
                f"cannot read the program: {problem}", place=Place(str(path))
            ) from error
        return cls.from_text(text, file=str(path))

    @classmethod
    def from_text(cls, text: str, *, file: str = "<text>") -> Self:
        """Read a program from YAML or JSON text; `file` is named in errors.

        Raises:
            ProgramError: not a program; names line and column.
        """
        source = parse_source(text, file=file)
        if not isinstance(source.data, dict):
            raise ProgramError(
                "a program is a mapping with name and steps", place=source.place(())
            )
        try:
            program = cls.model_validate(source.data)
        except ValidationError as error:
            first = error.errors()[0]
            path = [part for part in first["loc"] if part != "[key]"]
            step = path[1] if len(path) > 1 and path[0] == "steps" else None
            raise ProgramError(
                _explain(first["type"], path, first["msg"], first["input"]),
                place=source.place(path),
                step=None if step is None else str(step),
            ) from error
        program._source = source
        return program

    def _unwritable(self, error: ValueError) -> ProgramError:
        for name, step in self.steps.items():
            problem = json_problem(step)
            if problem is not None:
                place = self.place("steps", name)
                return ProgramError(f"a value in it {problem}", place=place, step=name)
        problem = json_problem(self) or f"cannot be written as JSON: {error}"
        return ProgramError(f"a value in it {problem}", place=self.place())

    def place(self, *path: str | int) -> Place | None:
        """Give where a part of the program is written, if it came from text."""
        return None if self._source is None else self._source.place(path)


def _explain(kind: str, path: list[str | int], message: str, value: object) -> str:
    field = str(path[-1]) if path else "program"
    if kind == "missing":
        return f"{field!r} is missing"
    if kind == "extra_forbidden":
        return f"{field!r} is not known here: remove it or check its spelling"
    if kind == "literal_error" and field == "backend":
        return f"unknown backend {value!r}: use native or python"
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."
    return f"{field!r} is {shown}: {message[:1].lower()}{message[1:]}"
