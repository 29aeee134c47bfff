"""Read a support ticket into a nested model: typed, validated, repaired if need be."""

import os
from typing import Literal

import pydantic
import trio

from dspex.modules import InputField, OutputField, Predict, Signature
from dspex.providers import LM, OpenAI


class Product(pydantic.BaseModel):
    name: str
    version: str | None = None


class Issue(pydantic.BaseModel):
    summary: str = pydantic.Field(description="one line")
    product: Product
    severity: Literal["low", "normal", "high"]


class Extract(Signature):
    """Read what the customer reports. Leave out what the ticket does not say."""

    ticket: str = InputField(desc="the customer's words")
    issues: list[Issue] = OutputField(min_length=1)
    wants_refund: bool = OutputField()


TICKET = """Since the update to 4.2 the Editor crashes when I open a file, and I cannot
work at all. Also the Viewer shows dates in the wrong format. I want my money back."""


async def extract(lm: LM, ticket: str = TICKET) -> list[Issue]:
    found = await Predict(Extract, lm=lm)(ticket=ticket)
    for issue in found.issues:
        version = issue.product.version or "any version"
        print(f"[{issue.severity}] {issue.product.name} {version}: {issue.summary}")
    print(f"refund wanted: {found.wants_refund}")
    issues: list[Issue] = found.issues
    return issues


async def main() -> None:
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    async with OpenAI("gpt-4o-mini", base_url=url) as lm:
        await extract(lm)


if __name__ == "__main__":
    trio.run(main)
