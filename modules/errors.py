"""Errors of signatures, predictors and modules.

DspexError
├── SignatureError             a signature cannot be built or edited
│   └── SignatureSyntaxError   its text does not parse: says where
├── InputError                 a call's inputs do not fit the signature
│   ├── MissingInputError
│   ├── UnknownInputError
│   └── InputTypeError
├── HostedOutputError          a hosted module left out an output, or its type is wrong
├── AdapterParseError          the model's answer does not fit the signature
├── ParameterError             a parameter cannot have that value
│   └── UnknownParameterError  there is no such parameter
├── StateError                 a saved state does not fit the program
├── LMNotConfiguredError       a predictor has no model to call
├── UnknownModuleError         a program names a module that there is not
├── ConfigError                a setting of a predictor is unknown or out of range
├── AssertionFailedError       an `ensure` or a check did not hold, retries included
├── CodeExitError              a forward or metric called sys.exit(), or the like
└── ForwardError               a module's forward has no result
    ├── ForwardResultError     it returned something else than a prediction
    ├── ForwardQueueFullError  too many wait for their turn
    └── ForwardTimeoutError    it took too long
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from dspex.providers.messages import Usage
from dspex.runtime.errors import DspexError
from dspex.runtime.reasons import describe

# Long values make errors unreadable; the attribute keeps the whole.
_SHOWN = 200


def shorten(value: object, limit: int = _SHOWN) -> str:
    """Give `repr(value)` in at most `limit` characters, for messages."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class SignatureError(DspexError):
    """A signature cannot be built or edited as asked."""


class SignatureSyntaxError(SignatureError):
    """The text of a signature does not parse.

    `position` is the index in `text` of the first character that is wrong.
    """

    def __init__(self, text: str, position: int, problem: str, remedy: str) -> None:
        start = text.rfind("\n", 0, position) + 1
        end = text.find("\n", position)
        line = text[start : end if end >= 0 else len(text)]
        caret = " " * (position - start) + "^"
        super().__init__(
            f"signature {text!r}, character {position}: {problem}\n"
            f"  {line}\n  {caret}\n{remedy}"
        )
        self.text = text
        self.position = position
        self.problem = problem
        self.remedy = remedy


class InputError(DspexError):
    """The inputs of a call do not fit `signature`; `field` is the first wrong one."""

    def __init__(self, signature: str, field: str, problem: str) -> None:
        super().__init__(f"input {field!r} of {signature!r} {problem}")
        self.signature = signature
        self.field = field


class MissingInputError(InputError):
    """An input without a default was not given."""

    def __init__(self, signature: str, field: str, given: Sequence[str]) -> None:
        got = ", ".join(given) or "none"
        super().__init__(signature, field, f"is missing (given: {got})")
        self.given = tuple(given)


class UnknownInputError(InputError):
    """The signature has no such input."""

    def __init__(self, signature: str, field: str, known: Sequence[str]) -> None:
        super().__init__(
            signature,
            field,
            f"is unknown; its inputs are {', '.join(known) or 'none'}"
            f"{_did_you_mean(field, known)}",
        )
        self.known = tuple(known)


class InputTypeError(InputError):
    """An input has a value of the wrong type, or one that breaks a constraint."""

    def __init__(
        self, signature: str, field: str, *, expected: str, value: object, problem: str
    ) -> None:
        super().__init__(
            signature, field, f"must be {expected}, got {shorten(value)}: {problem}"
        )
        self.expected = expected
        self.value = value
        self.problem = problem


class HostedOutputError(DspexError):
    """A hosted module left out an output, or gave one of the wrong type."""

    def __init__(self, module: str, field: str, problem: str) -> None:
        super().__init__(f"output {field!r} of {module} {problem}")
        self.module = module
        self.field = field
        self.problem = problem


class UnknownModuleError(DspexError):
    """A step of a program names a module that its backend does not have."""

    def __init__(self, module: str, known: Sequence[str], remedy: str = "") -> None:
        super().__init__(
            f"unknown module {module!r}: use {', '.join(known)}"
            f"{f'; {remedy}' if remedy else ''}"
        )
        self.module = module
        self.known = tuple(known)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer of the model that could not be used: its text, why, and its usage."""

    text: str
    problem: str
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


class AdapterParseError(DspexError):
    """The model's answer does not fit the signature.

    `field` is the first output that is missing or wrong, None when the answer as a
    whole cannot be read; `attempts` holds every answer of this call, oldest first.
    """

    def __init__(
        self,
        adapter: str,
        signature: str,
        *,
        problem: str,
        text: str,
        field: str | None = None,
        expected: str | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        where = f"output {field!r} of {signature!r}" if field else f"{signature!r}"
        must = f", expected {expected}" if expected else ""
        tries = f" after {len(attempts)} attempts" if len(attempts) > 1 else ""
        super().__init__(
            f"{adapter} cannot read {where}{tries}: {problem}{must}; "
            f"the model wrote {shorten(text)}"
        )
        self.adapter = adapter
        self.signature = signature
        self.problem = problem
        self.text = text
        self.field = field
        self.expected = expected
        self.attempts = tuple(attempts)

    def because(self, problem: str) -> "AdapterParseError":
        """Give the same error with another problem."""
        return AdapterParseError(
            self.adapter,
            self.signature,
            problem=problem,
            text=self.text,
            field=self.field,
            expected=self.expected,
            attempts=self.attempts,
        )

    def after(self, attempts: Sequence[Attempt]) -> "AdapterParseError":
        """Give the same error with the attempts that led to it."""
        return AdapterParseError(
            self.adapter,
            self.signature,
            problem=self.problem,
            text=self.text,
            field=self.field,
            expected=self.expected,
            attempts=attempts,
        )

    @property
    def complaint(self) -> str:
        """What the model is told is wrong with its answer."""
        what = f"`{self.field}`: {self.problem}" if self.field else self.problem
        return f"{what} (expected {self.expected})" if self.expected else what

    @property
    def usage(self) -> Usage:
        """What all attempts took together."""
        return sum((attempt.usage for attempt in self.attempts), start=Usage())


class ParameterError(DspexError):
    """A parameter cannot have this value; it keeps the one it had."""

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(f"parameter {name!r} cannot be {shorten(value)}: {problem}")
        self.name = name
        self.value = value
        self.problem = problem


class UnknownParameterError(ParameterError):
    """The module has no parameter of this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            name,
            None,
            f"there is none; there are {', '.join(known)}{_did_you_mean(name, known)}",
        )
        self.known = tuple(known)


class StateError(DspexError):
    """A saved state does not fit what it is loaded into; nothing was changed."""

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(f"cannot load the saved state: {target} {problem}")
        self.target = target
        self.problem = problem


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An answer that was read, and that a check did not accept: why."""

    outputs: Mapping[str, Any]  # Any: as the signature declares
    message: str


class AssertionFailedError(DspexError):
    """What had to hold did not, after every retry; `attempts` has all answers."""

    def __init__(
        self,
        message: str,
        attempts: tuple[FailedAttempt, ...] = (),
        target: str | None = None,
    ) -> None:
        who = f" by {target}" if target else ""
        tries = f" after {len(attempts)} answers{who}" if attempts else ""
        super().__init__(f"not fulfilled{tries}: {message}")
        self.message = message
        self.attempts = attempts
        self.target = target

    @property
    def last_outputs(self) -> Mapping[str, Any] | None:  # Any: as declared
        """The outputs of the last answer that was not accepted."""
        return self.attempts[-1].outputs if self.attempts else None


class LMNotConfiguredError(DspexError):
    """A predictor was called and nobody gave it a model."""

    def __init__(self, predictor: str) -> None:
        super().__init__(
            f"{predictor} has no language model: give one to the call (run(..., "
            "lm=...)), to the predictor (Predict(..., lm=...)) or to the runtime"
        )
        self.predictor = predictor


class ConfigError(DspexError):
    """A setting is unknown or has a value it cannot have."""

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(f"setting {name!r} = {shorten(value)} {problem}")
        self.name = name
        self.value = value


class CodeExitError(DspexError):
    """A user's code raised SystemExit, or what else is no Exception."""

    def __init__(self, what: str, cause: BaseException) -> None:
        super().__init__(
            f"{what} raised {describe(cause)}, which would have ended the whole "
            "process: raise an exception instead"
        )
        self.what = what


class ForwardError(DspexError):
    """The forward of `module` has no result."""

    def __init__(self, module: str, problem: str) -> None:
        super().__init__(f"forward of {module!r} {problem}")
        self.module = module


class ForwardResultError(ForwardError):
    """A module's forward returned something that is no prediction."""

    def __init__(self, module: str, value: object) -> None:
        super().__init__(
            module,
            f"returned {type(value).__name__} ({shorten(value, 80)}): "
            "return a Prediction or a dict of outputs",
        )
        self.value = value


class ForwardQueueFullError(ForwardError):
    """Too many forwards run and wait already; nothing was started."""

    def __init__(self, module: str, *, running: int, waiting: int) -> None:
        super().__init__(
            module,
            f"was refused: {running} run and {waiting} wait; send fewer at once, or "
            "raise max_concurrency or max_waiting",
        )
        self.running = running
        self.waiting = waiting


class ForwardTimeoutError(ForwardError):
    """A forward took longer than its actor allows, and was cancelled."""

    def __init__(self, module: str, seconds: float) -> None:
        super().__init__(module, f"was cancelled after {seconds:g}s")
        self.seconds = seconds
