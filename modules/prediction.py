"""Predictions: the typed outputs of a module, and what they took."""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

import pydantic

from dspex.modules.adapters.values import to_plain
from dspex.modules.errors import Attempt, InputTypeError, shorten
from dspex.modules.signature import SignatureLike, first_problem, to_signature
from dspex.providers.messages import Usage

# Any: outputs have the types that the signature gives them.
Outputs: TypeAlias = Mapping[str, Any]


PredictionT = TypeVar("PredictionT", bound="Prediction")

NO_USAGE: Final = Usage()


def add_usage(usage: Usage, more: Usage) -> Usage:
    """Give the sum; most calls are one model call, and there is nothing to add."""
    return more if usage is NO_USAGE else usage + more


class _Facts:
    """What a prediction is made of, while it is made."""

    __slots__ = (
        "_outputs",
        "attempts",
        "completions",
        "facts",
        "model",
        "notes",
        "seconds",
        "suggestions",
        "trace_id",
        "usage",
    )

    _outputs: Outputs
    completions: tuple[Outputs, ...]
    facts: Mapping[str, Any]  # Any: each module has its own
    usage: Usage
    seconds: float
    trace_id: str | None
    model: str | None
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    suggestions: tuple[str, ...]


class Prediction(_Facts):
    """Outputs as attributes (`prediction.answer`), and what it took to get them.

    `prediction["answer"]` reaches outputs whose name is taken by an attribute below.
    Two predictions are equal when their outputs are; those with a `score` also compare
    by it, as in dspy. `facts` are what a module tells besides its outputs, such as
    `steps` or `trajectory`; they are attributes too, and no part of the comparison.

    `completions` holds all outputs when more than one was asked for, the first one
    included. `usage` counts every model call, failed ones too; `seconds` is the time
    from the call to its end. `attempts` are the answers that could not be used, and
    `notes` what was forgiven in the one that was. `suggestions` are the messages of
    `suggest` that were not met in the end.
    """

    __slots__ = ()

    def __init__(self, /, **outputs: Any) -> None:  # Any: as above
        _copy_facts(Prediction.of([outputs]), self)

    @classmethod
    def of(
        cls,
        completions: Sequence[Outputs],
        *,
        usage: Usage | None = None,
        seconds: float = 0.0,
        trace_id: str | None = None,
        model: str | None = None,
        attempts: Sequence[Attempt] = (),
        notes: Sequence[str] = (),
        suggestions: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,  # Any: as above
    ) -> Self:
        """Build a prediction from its completions, the first of which it stands for."""
        made = _Facts()
        made._outputs = dict(completions[0])
        made.attempts = tuple(attempts)
        made.completions = tuple(completions)
        made.facts = facts or {}
        made.model = model
        made.notes = tuple(notes)
        made.seconds = seconds
        made.suggestions = tuple(suggestions)
        made.trace_id = trace_id
        made.usage = usage or NO_USAGE
        return _finished(made, cls)

    def replace(self, **facts: object) -> Self:
        """Give the same outputs with other facts: `usage`, `seconds`, `trace_id`..."""
        made = _Facts()
        _write(made, _read(self))
        for name, value in facts.items():
            setattr(made, name, value)
        return _finished(made, type(self))

    @property
    def outputs(self) -> Outputs:
        """The outputs by name, in the order of the signature."""
        return dict(self._outputs)

    # --- outputs as attributes and items

    def __getattr__(self, name: str) -> Any:  # Any: as above
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._outputs:
            return self._outputs[name]
        try:
            return self.facts[name]
        except KeyError:
            names = ", ".join(self._outputs) or "none"
            raise AttributeError(
                f"the prediction has no output {name!r}; it has {names}"
            ) from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"predictions do not change: cannot set {name!r}; make a new Prediction"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"predictions do not change: cannot delete {name!r}")

    def __getitem__(self, name: str) -> Any:  # Any: as above
        return self._outputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def keys(self) -> Iterator[str]:
        """Give the names of the outputs, so that `dict(prediction)` works."""
        return iter(self._outputs)

    def __repr__(self) -> str:
        shown = ", ".join(f"{n}={shorten(v)}" for n, v in self._outputs.items())
        return f"Prediction({shown})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's protocol, used by copy
        return (_rebuild, (type(self), _read(self)))

    # --- comparison

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return dict(self._outputs) == dict(other._outputs)

    __hash__ = None  # type: ignore[assignment]  # outputs may be lists and dicts

    def __float__(self) -> float:
        return float(self._outputs["score"])

    def __lt__(self, other: "Prediction | float") -> bool:
        return float(self) < float(other)

    def __le__(self, other: "Prediction | float") -> bool:
        return float(self) <= float(other)

    def __gt__(self, other: "Prediction | float") -> bool:
        return float(self) > float(other)

    def __ge__(self, other: "Prediction | float") -> bool:
        return float(self) >= float(other)

    # --- JSON

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON
        """Give the prediction as plain JSON; models and enums become their values."""
        return {
            "outputs": to_plain(dict(self._outputs)),
            "completions": [to_plain(dict(c)) for c in self.completions],
            "usage": self.usage.to_json(),
            "seconds": self.seconds,
            "trace_id": self.trace_id,
            "model": self.model,
            "notes": list(self.notes),
            "suggestions": list(self.suggestions),
            "facts": to_plain(dict(self.facts)),
        }

    @classmethod
    def from_json(
        cls,
        data: Mapping[str, Any],  # Any: plain JSON
        *,
        signature: SignatureLike | None = None,
    ) -> Self:
        """Build a prediction from what `to_json` gave.

        With a signature its outputs get their types back; without one they stay JSON.

        Raises:
            InputTypeError: an output does not have the signature's type.
        """
        completions = data.get("completions") or [data["outputs"]]
        return cls.of(
            [_typed(outputs, signature) for outputs in completions],
            usage=Usage.from_json(data.get("usage") or {}),
            seconds=data.get("seconds", 0.0),
            trace_id=data.get("trace_id"),
            model=data.get("model"),
            notes=data.get("notes", ()),
            suggestions=data.get("suggestions", ()),
            facts=data.get("facts"),
        )


def _rebuild(cls: type[PredictionT], state: tuple[Any, ...]) -> PredictionT:
    made = _Facts()
    _write(made, state)
    return _finished(made, cls)


_read: Final = attrgetter(*_Facts.__slots__)


def _write(made: _Facts, state: tuple[Any, ...]) -> None:  # Any: as the slots
    # By name, one by one, it would take ten times as long; two are made in each call.
    (
        made._outputs,  # pyright: ignore[reportPrivateUsage]
        made.attempts,
        made.completions,
        made.facts,
        made.model,
        made.notes,
        made.seconds,
        made.suggestions,
        made.trace_id,
        made.usage,
    ) = state


def _finished(made: _Facts, cls: type[PredictionT]) -> PredictionT:
    """Give the facts as a prediction: from here on they do not change."""
    if cls is Prediction:
        made.__class__ = cls
        return cast(PredictionT, made)
    prediction = cls.__new__(cls)  # one with room for more than the facts
    _copy_facts(made, prediction)
    return prediction


def _copy_facts(made: _Facts, to: Prediction) -> None:
    for name in _Facts.__slots__:
        object.__setattr__(to, name, getattr(made, name))


def _typed(outputs: Outputs, signature: SignatureLike | None) -> Outputs:
    if signature is None:
        return outputs
    found = to_signature(signature)
    typed: dict[str, Any] = {}  # Any: as above
    for name, value in outputs.items():
        field = found.output_fields.get(name)
        try:
            typed[name] = (
                value if field is None else field.validator.validate_python(value)
            )
        except pydantic.ValidationError as error:
            raise InputTypeError(
                found.signature,
                name,
                expected=field.type_name if field else "",
                value=value,
                problem=first_problem(error),
            ) from None
    return typed
