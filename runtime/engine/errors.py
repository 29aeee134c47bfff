"""Errors of programs and runs.

DspexError
├── ProgramError          a program cannot be run as written
├── RunInputError         what a run was given does not fit its program
├── UnknownOutputError    a run gave no output of that name; a KeyError, too
├── StepFailedError       a step of a run failed; carries the cause
├── StepOutputError       a step gave what its signature does not allow, or JSON
│   └── MissingOutputError  it left out an output
├── NotJsonError          a value cannot be written as JSON
├── StepTimeoutError      a step had no result by its deadline
├── RunTimeoutError       a run had no result by its deadline
├── NondeterminismError   a resumed step no longer asks for what it asked before
├── ConditionError        a `when` could not be decided
├── MapError              what a step maps over is no list
├── TooManyDispatchesError what ran a step died each time
├── StepCrashedError      what ran a step died of it; a CalleeExitedError
├── EffectDecodeError     a kept effect cannot be read again
├── EffectAbandonedError  the run ended while its effect was awaited elsewhere
├── RunInterruptedError   a run was stopped by a fault of its journal
└── RunFailedError        a run of another process, or an earlier one, failed
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from dspex.runtime.errors import CalleeExitedError, DspexError
from dspex.runtime.reasons import describe


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Give a question about the name that is nearest; nothing if none is near."""
    near = get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a program's source something is written."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.file, self.line, self.column]
        return ":".join(str(part) for part in parts if part is not None)


class ProgramError(DspexError):
    """A program cannot be run as written: what is wrong, where, and what to do."""

    def __init__(
        self, problem: str, *, place: Place | None = None, step: str | None = None
    ) -> None:
        where = f"{place}: " if place is not None else ""
        which = f"step {step!r}: " if step is not None else ""
        super().__init__(f"{where}{which}{problem}")
        self.problem = problem
        self.place = place
        self.step = step


class RunInputError(DspexError):
    """An input of a run is missing, unknown or of the wrong type."""

    def __init__(self, program: str, name: str, problem: str) -> None:
        super().__init__(f"input {name!r} of program {program!r} {problem}")
        self.program = program
        self.name = name


class UnknownOutputError(DspexError, KeyError):
    """A run gave no output of this name."""

    def __init__(self, program: str, name: str, known: tuple[str, ...]) -> None:
        near = did_you_mean(name, known)
        super().__init__(
            f"program {program!r} gave no output {name!r}{near}; "
            f"it gave: {', '.join(known) or 'none'}"
        )
        self.program = program
        self.name = name

    def __str__(self) -> str:
        # A KeyError shows the repr of its key.
        return str(self.args[0])


class StepFailedError(DspexError):
    """A step failed; `__cause__` is the error of its backend."""

    def __init__(self, step: str, cause: BaseException) -> None:
        super().__init__(f"step {step!r} failed: {describe(cause)}")
        self.step = step


class NotJsonError(DspexError):
    """A value that is to be kept or sent cannot be written as JSON."""

    def __init__(self, problem: str, *, what: str = "a value") -> None:
        super().__init__(f"{what} {problem}")
        self.problem = problem


class StepOutputError(DspexError):
    """A step gave an output of the wrong type, or one that cannot be kept or sent."""

    def __init__(
        self, step: str, output: str, problem: str, *, message: str | None = None
    ) -> None:
        super().__init__(message or f"output {output!r} of step {step!r} {problem}")
        self.step = step
        self.output = output
        self.problem = problem


class MissingOutputError(StepOutputError):
    """A step left out an output that its signature declares."""

    def __init__(self, step: str, output: str, given: tuple[str, ...]) -> None:
        gave = ", ".join(given) or "nothing"
        super().__init__(
            step,
            output,
            "is missing",
            message=f"step {step!r} gave no output {output!r}"
            f"{did_you_mean(output, given)}; it gave: {gave}",
        )
        self.given = given


class StepTimeoutError(DspexError):
    """A step had no result by its deadline; it was given up."""

    def __init__(self, step: str, seconds: float, dispatches: int) -> None:
        super().__init__(
            f"step {step!r} had no result within {seconds:g}s "
            f"({dispatches} dispatches): raise its options.timeout"
        )
        self.step = step
        self.seconds = seconds
        self.dispatches = dispatches


class StepCrashedError(CalleeExitedError):
    """The process of a step died of what it ran, and not because it was killed."""


class TooManyDispatchesError(DspexError):
    """The actor or process of a step died each time the step was dispatched.

    `option` is the option of the step that says how often that may be.
    """

    def __init__(
        self, step: str, dispatches: int, last: BaseException, *, option: str
    ) -> None:
        died = (
            "its process died of it each time"
            if option == "max_crashes"
            else "what ran it died each time"
        )
        super().__init__(
            f"step {step!r} was dispatched {dispatches} times and {died} "
            f"(options.{option}); the last time: {describe(last)}"
        )
        self.step = step
        self.dispatches = dispatches
        self.option = option


class EffectDecodeError(DspexError):
    """What the journal kept of an effect cannot be read by this version."""

    def __init__(self, step: str, kind: str, cause: BaseException) -> None:
        super().__init__(
            f"step {step!r}: a kept {kind} effect cannot be read: {describe(cause)}; "
            "finish the run with the version of dspex that began it"
        )
        self.step = step
        self.kind = kind


class EffectAbandonedError(DspexError):
    """The run of an effect ended before it; told to who waits outside of the run."""

    def __init__(self, path: str) -> None:
        super().__init__(f"an effect of step {path!r} was cancelled with its run")
        self.path = path


class RunInterruptedError(DspexError):
    """A run was stopped by a fault of its journal; it is unfinished, not failed.

    `unsaved` are the effects that were made and could not be kept.
    """

    def __init__(
        self, run: str, fault: BaseException, unsaved: tuple[object, ...]
    ) -> None:
        super().__init__(f"run {run!r} was interrupted: {describe(fault)}")
        self.run = run
        self.fault = fault
        self.unsaved = unsaved


class RunFailedError(DspexError):
    """A run failed, as the store tells; `kind` is the class of the error it had."""

    def __init__(self, run: str, kind: str, message: str) -> None:
        super().__init__(message)
        self.run = run
        self.kind = kind


class RunTimeoutError(DspexError):
    """A run had no result by its program's deadline; its steps were cancelled."""

    def __init__(self, program: str, seconds: float, steps: tuple[str, ...]) -> None:
        super().__init__(
            f"program {program!r} had no result within {seconds:g}s; unfinished: "
            f"{', '.join(steps)}: raise its options.timeout"
        )
        self.program = program
        self.seconds = seconds
        self.steps = steps


class NondeterminismError(DspexError):
    """A resumed step did not ask for what it had asked for before it was interrupted.

    Its code has changed, or depends on something that is not in the journal.
    """

    def __init__(self, step: str, unused: int) -> None:
        super().__init__(
            f"step {step!r} did not ask for {unused} of the effects that the journal "
            "has of it: its code changed, or is not deterministic "
            "(options.on_change: live lets it go on)"
        )
        self.step = step
        self.unused = unused


class ConditionError(DspexError):
    """A `when` could not be decided with the values it got."""

    def __init__(self, step: str, condition: str, problem: str) -> None:
        super().__init__(f"when {condition!r}: {problem}")
        self.step = step
        self.condition = condition


class MapError(DspexError):
    """What a step maps over is no list."""

    def __init__(self, step: str, field: str, value: object) -> None:
        super().__init__(
            f"map over {field!r} needs a list, not {type(value).__name__}: {value!r}"
        )
        self.step = step
        self.field = field
