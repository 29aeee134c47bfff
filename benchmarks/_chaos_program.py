"""What `benchmarks.chaos` runs: native steps, an agent, a map and a dspy step."""

from dspex.modules import Module, ReAct
from dspex.runtime.engine import Program, ProgramOptions, Step, StepOptions


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"what is known of {topic}"


class Agent(Module):
    """A ReAct agent with one tool, as a program as code."""

    def __init__(self) -> None:
        self.agent = ReAct("ticket -> advice", [look_up])

    async def forward(self, ticket: str) -> dict[str, object]:
        return {"advice": (await self.agent(ticket=ticket)).advice}


class Split(Module):
    """No model call: the parts of a ticket."""

    async def forward(self, ticket: str) -> dict[str, object]:
        return {"parts": [f"{ticket}, part {n}" for n in range(3)]}


MODULES = {"Agent": Agent, "Split": Split}

SUMMARIES = Step(
    module="ChainOfThought",
    signature="part -> summary",
    map={"part": "split.parts"},
    options=StepOptions(concurrency=3),
)


def mixed(*, python: bool) -> Program:
    """Give the mixed program; its last step is dspy's with `python`."""
    return Program(
        name="chaos",
        steps={
            "split": Step(module="Split", signature="ticket -> parts: list[str]"),
            "summaries": SUMMARIES,
            "agent": Step(module="Agent", signature="ticket -> advice"),
            "reply": Step(
                module="dspy.Predict" if python else "ChainOfThought",
                backend="python" if python else "native",
                signature="ticket, summaries: list[str], advice -> reply",
                inputs={"summaries": "summaries.summary"},
            ),
        },
        outputs={"reply": "reply.reply"},
    )


def small() -> Program:
    """Give one for the embedded model, which knows no tools and is slow."""
    return Program(
        name="small",
        steps={
            "answer": Step(
                module="Predict",
                signature="ticket -> answer",
                config={"max_tokens": 24},
            ),
            "reply": Step(
                module="dspy.Predict",
                backend="python",
                signature="ticket, answer -> reply",
                config={"max_tokens": 48},
            ),
        },
        outputs={"answer": "answer.answer"},
        # Whether the tiny model can fill in dspy's form is not the question here.
        options=ProgramOptions(tolerant=True),
    )
