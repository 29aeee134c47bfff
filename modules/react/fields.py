"""The protocol of fields: thought, tool and arguments as outputs of a Predict.

It is dspy's, and works with any adapter: by JSON schema with small models too.
"""

from collections.abc import Mapping
from typing import Any, Literal

from dspex.modules.errors import AdapterParseError
from dspex.modules.fields import Field, InputField, OutputField
from dspex.modules.predict import Predict
from dspex.modules.react.trajectory import Trajectory
from dspex.modules.react.turns import (
    FINISH,
    AnyTool,
    CallTools,
    Finished,
    Turn,
    Unreadable,
    Wanted,
    describe_tool,
)
from dspex.modules.signature import Inputs, Signature

TRAJECTORY = "trajectory"


def step_signature(signature: Signature, tools: Mapping[str, AnyTool]) -> Signature:
    """Give the signature of one step: inputs and trajectory to a decision."""
    outputs = ", ".join(f"`{name}`" for name in signature.output_fields)
    listed = "\n".join(f"- {describe_tool(tool)}" for tool in tools.values())
    instructions = (
        f"{signature.instructions}\n\n"
        f"You work in steps and may use tools to find out what {outputs} need. "
        "In each step say what you think, choose one tool and give its arguments as a "
        "JSON object; the trajectory shows the steps so far and what they gave. When "
        f"you know enough, choose {FINISH}.\n\nTools:\n{listed}\n"
        f"- {FINISH}: ends the work. Arguments: {{}}"
    )
    names = Literal[(*tools, FINISH)]  # type: ignore[valid-type]
    inputs = list(signature.input_fields.values())
    return (
        Signature(fields=inputs, instructions=instructions)
        .append(TRAJECTORY, InputField(), str)
        .append("next_thought", OutputField(), str)
        .append("next_tool_name", OutputField(), names)
        .append("next_tool_args", OutputField(), dict[str, Any])
    )


def answer_signature(signature: Signature) -> Signature:
    """Give the signature that reads the outputs from the trajectory."""
    fields: list[Field] = list(signature.fields.values())
    trajectory: Field = InputField()
    return Signature(fields=fields, instructions=signature.instructions).append(
        TRAJECTORY, trajectory, str
    )


class FieldsProtocol:
    """Asks for the next step by a predictor with `step_signature`."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict

    async def next_turn(self, inputs: Inputs, trajectory: Trajectory) -> Turn:
        """Ask for the next step."""
        try:
            step = await self._predict.run({**inputs, TRAJECTORY: trajectory.as_text()})
        except AdapterParseError as error:
            return Unreadable(error.text, error.complaint)
        wanted = Wanted(step.next_tool_name, step.next_tool_args, step.next_thought)
        if wanted.tool != FINISH:
            return CallTools((wanted,))
        return Finished(None, wanted)
