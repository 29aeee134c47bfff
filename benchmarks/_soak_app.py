"""The app that `benchmarks.soak` has served: native steps, an agent, a map, Python."""

from dspex.modules import Module, ReAct
from dspex.runtime.engine import Program, Step, StepOptions
from dspex.worker.application import App


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"what is known of {topic}"


class Agent(Module):
    """A ReAct agent with one tool."""

    def __init__(self) -> None:
        self.agent = ReAct("ticket -> advice", [look_up])

    async def forward(self, ticket: str) -> dict[str, object]:
        return {"advice": (await self.agent(ticket=ticket)).advice}


def count_words(ticket: str) -> dict[str, object]:
    """Run in a dspy process, as a step of the python backend."""
    return {"words": len(ticket.split())}


def app() -> App:
    """Give the programs; the model comes from the settings."""
    native = Program(
        name="native",
        steps={
            "draft": Step(module="ChainOfThought", signature="ticket -> draft"),
            "reply": Step(module="Predict", signature="ticket, draft -> reply"),
        },
    )
    mapped = Program(
        name="mapped",
        steps={
            "rate": Step(
                module="Predict",
                signature="ticket -> urgency",
                inputs={"ticket": "inputs.tickets"},
                map={"ticket": "inputs.tickets"},
                options=StepOptions(concurrency=3),
            )
        },
    )
    python = Program(
        name="python",
        steps={
            "count": Step(
                module="benchmarks._soak_app:count_words",
                backend="python",
                signature="ticket -> words: int",
            ),
            "reply": Step(module="Predict", signature="ticket, words: int -> reply"),
        },
    )
    hosted = Program(
        name="hosted",
        steps={
            "reply": Step(
                module="dspy.Predict", backend="python", signature="ticket -> reply"
            )
        },
    )
    agent = Program(
        name="agent",
        steps={"advise": Step(module="Agent", signature="ticket -> advice")},
    )
    return App(native, mapped, python, hosted, agent, modules={"Agent": Agent})
