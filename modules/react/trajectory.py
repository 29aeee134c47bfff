"""What an agent did: thoughts, tool calls, observations."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dspex.modules.adapters.prompt import marker
from dspex.modules.adapters.values import show_value, to_plain
from dspex.modules.fields import Field

_ANYTHING: Final = Field("value", "input", typed=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call: why, with what, and what came of it.

    `failed` tells an observation that is an error; `call_id` is the provider's.
    """

    thought: str
    tool: str
    arguments: Mapping[str, Any]  # Any: JSON
    observation: object = None
    failed: bool = False
    seconds: float = 0.0
    call_id: str | None = None

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give the step as plain JSON."""
        return {
            "thought": self.thought,
            "tool": self.tool,
            "arguments": to_plain(dict(self.arguments)),
            "observation": to_plain(self.observation),
            "failed": self.failed,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All steps of a run, and from which on the model is still shown them.

    An observation longer than `max_observation` characters is cut where the model sees
    it; `steps` keep all of it.
    """

    steps: tuple[Step, ...] = ()
    dropped: int = 0
    max_observation: int = field(default=10_000, kw_only=True)

    def with_steps(self, *steps: Step) -> "Trajectory":
        """Give the trajectory with further steps."""
        return replace(self, steps=(*self.steps, *steps))

    def shortened(self, count: int = 1) -> "Trajectory | None":
        """Give it with `count` more of the oldest steps not shown, but the last one.

        None if that alone is left.
        """
        left = len(self.shown) - 1
        if left < 1:
            return None
        return replace(self, dropped=self.dropped + min(count, left))

    @property
    def shown(self) -> tuple[Step, ...]:
        """The steps that the model still sees."""
        return self.steps[self.dropped :]

    def to_dict(self) -> dict[str, Any]:  # Any: JSON, and what tools gave
        """Give what the model still sees, with dspy's keys: `thought_0`..."""
        found: dict[str, Any] = {}  # Any: as above
        for index, step in enumerate(self.steps):
            if index < self.dropped:
                continue
            found[f"thought_{index}"] = step.thought
            found[f"tool_name_{index}"] = step.tool
            found[f"tool_args_{index}"] = dict(step.arguments)
            found[f"observation_{index}"] = step.observation
        return found

    def as_text(self) -> str:
        """Give what the model is shown, each part under its marker."""
        note = (
            f"({self.dropped} earlier steps are left out)\n\n" if self.dropped else ""
        )
        return note + "\n\n".join(
            f"{marker(name)}\n{self.show(value)}"
            for name, value in self.to_dict().items()
        )

    def show(self, observation: object) -> str:
        """Give an observation as the model sees it: as text, and cut if it is long."""
        try:
            text = show_value(_ANYTHING, observation)
        # The edge to a tool's own values, which may be of any class and depth.
        except Exception as error:  # noqa: BLE001
            kind, problem = type(observation).__name__, type(error).__name__
            text = f"(a value of type {kind} that cannot be shown: {problem})"
        if len(text) <= self.max_observation:
            return text
        left_out = len(text) - self.max_observation
        return f"{text[: self.max_observation]}... ({left_out} characters left out)"

    def to_json(self) -> list[dict[str, Any]]:  # Any: JSON
        """Give all steps as plain JSON."""
        return [step.to_json() for step in self.steps]
