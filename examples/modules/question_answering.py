"""Answer questions with a reason: `python examples/modules/question_answering.py`.

Uses OpenAI with the key from OPENAI_API_KEY, or any server at OPENAI_BASE_URL.
"""

import os

import trio

from dspex.modules import ChainOfThought
from dspex.providers import LM, OpenAI

QUESTIONS = ["How many legs have three spiders?", "What is 15% of 80?"]


async def answer_all(lm: LM) -> dict[str, int]:
    """Ask side by side; one call gives the reasoning and the typed answer."""
    answer = ChainOfThought("question -> answer: int", lm=lm)
    found = await answer.batch({"question": question} for question in QUESTIONS)
    answers: dict[str, int] = {}
    for question, prediction in zip(QUESTIONS, found, strict=True):
        if isinstance(prediction, Exception):
            print(f"{question} failed: {prediction}")
            continue
        answers[question] = prediction.answer
        print(f"{question} {prediction.answer}")
        for number, step in enumerate(prediction.steps, start=1):
            print(f"  {number}. {step}")
    return answers


async def main() -> None:
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    async with OpenAI("gpt-4o-mini", base_url=url) as lm:
        await answer_all(lm)


if __name__ == "__main__":
    trio.run(main)
