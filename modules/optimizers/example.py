"""Example: one row of a data set, which may also be a demo."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from dspex.modules.errors import shorten
from dspex.modules.optimizers.errors import DatasetError

AUGMENTED: Final = "augmented"
"""The field that marks a demo as made by an optimizer, as in dspy."""


class Example(Mapping[str, Any]):  # Any: values of whatever type the data has
    """Named values, of which some are inputs and the others labels.

    Values are items and attributes: `example["answer"]`, `example.answer`. Examples do
    not change, and are equal when their values are; which of them are inputs does not
    count, as in dspy.
    """

    __slots__ = ("_input_names", "_values")

    _values: Mapping[str, Any]
    _input_names: tuple[str, ...] | None

    def __init__(
        self, values: Mapping[str, Any] | None = None, /, **more: Any
    ) -> None:  # Any: as above
        object.__setattr__(self, "_values", {**(values or {}), **more})
        object.__setattr__(self, "_input_names", None)

    def with_inputs(self, *names: str) -> "Example":
        """Give the same values, of which these are inputs.

        Raises:
            DatasetError: there is no value of that name.
        """
        for name in names:
            if name not in self._values:
                raise DatasetError(
                    repr(self),
                    f"has no value {name!r}; it has {', '.join(self._values)}",
                )
        made = Example(self._values)
        object.__setattr__(made, "_input_names", names)
        return made

    @property
    def has_inputs(self) -> bool:
        """Whether it is known which values are inputs."""
        return self._input_names is not None

    def inputs(self) -> dict[str, Any]:  # Any: as above
        """Give the inputs by name.

        Raises:
            DatasetError: it was not said which values are inputs.
        """
        if self._input_names is None:
            raise DatasetError(
                repr(self), "which values are inputs? call with_inputs(NAMES)"
            )
        return {name: self._values[name] for name in self._input_names}

    def labels(self) -> dict[str, Any]:  # Any: as above
        """Give what is no input.

        Raises:
            DatasetError: it was not said which values are inputs.
        """
        inputs = self.inputs()
        return {n: value for n, value in self._values.items() if n not in inputs}

    def __getitem__(self, name: str) -> Any:  # Any: as above
        return self._values[name]

    def __getattr__(self, name: str) -> Any:  # Any: as above
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"{self!r} has no value {name!r}")
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"examples do not change: cannot set {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self._values) == dict(other)  # pyright: ignore[reportUnknownArgumentType]

    __hash__ = None  # type: ignore[assignment]  # values may be lists and dicts

    def __repr__(self) -> str:
        shown = ", ".join(f"{n}={shorten(v, 60)}" for n, v in self._values.items())
        return f"Example({shown})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's protocol, used by copy
        return (_rebuild, (dict(self._values), self._input_names))


def _rebuild(values: dict[str, Any], inputs: tuple[str, ...] | None) -> Example:
    made = Example(values)
    return made if inputs is None else made.with_inputs(*inputs)
