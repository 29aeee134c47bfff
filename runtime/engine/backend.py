"""Backend: what runs a step, as the engine sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dspex.runtime.engine.effects import Effects
from dspex.runtime.engine.program import Step


@dataclass(frozen=True, slots=True)
class Shape:
    """Names and types of what a step takes and gives, in order."""

    inputs: Mapping[str, Any]  # Any: types, such as Literal, that are no classes
    outputs: Mapping[str, Any]  # Any: as above


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave: its outputs by name, the tokens it used, and their cost."""

    outputs: Mapping[str, Any]  # Any: whatever the signature says
    usage: Mapping[str, int] = field(default_factory=dict[str, int])
    cost: float | None = 0.0
    """US dollars; None where a price is not known."""


class Backend(Protocol):
    """Runs steps on actors; one for each value of a step's `backend`.

    A backend resolves names at each dispatch. When the actor or process it gave a
    step to dies, it lets the kernel's CallError out: the engine dispatches again. A
    StepCrashedError says that it died of the step: not as often.
    """

    def shape(self, step: Step) -> Shape:
        """Give what the step takes and gives.

        Raises:
            DspexError: unknown module or malformed signature, in one line.
        """
        ...

    async def prepare(self, name: str, step: Step) -> None:
        """Start what the step needs under `name`, unless it is there already."""
        ...

    async def release(self, name: str, step: Step) -> None:
        """End what `prepare` has started under `name`: no run uses the step."""
        ...

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],  # Any: whatever the signature says
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        """Run the step once and give its result; `deadline` is on trio's clock."""
        ...
