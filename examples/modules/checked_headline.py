"""A program with `ensure` and `suggest`: told what is wrong, the model retries."""

import os

import trio

from dspex.modules import Module, Predict, Prediction, ensure, suggest
from dspex.providers import LM, OpenAI

ARTICLE = """The city council decided on Monday to plant two thousand trees along the
river. The work begins in spring and is paid for by the lottery fund."""


class Headline(Module):
    """Summarises an article, then writes a headline for the summary."""

    def __init__(self) -> None:
        self.summarise = Predict("article -> summary")
        self.headline = Predict("summary -> headline")

    async def forward(self, article: str) -> Prediction:
        summary = (await self.summarise(article=article)).summary
        found = await self.headline(summary=summary)
        words = len(found.headline.split())
        # The headline is asked for again; the summary, which is fine, is not.
        ensure(words <= 8, f"Use at most 8 words, not {words}.")
        suggest(not found.headline.endswith("."), "End without a full stop.")
        return found


async def write(lm: LM) -> Prediction:
    found = await Headline().run({"article": ARTICLE}, lm=lm)
    print(found.headline)
    for message in found.suggestions:
        print(f"not met: {message}")
    return found


async def main() -> None:
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    async with OpenAI("gpt-4o-mini", base_url=url) as lm:
        await write(lm)


if __name__ == "__main__":
    trio.run(main)
