"""Host a module of one's own: from a folder, with a tool of the parent and with limits.

No key and no network: the model is scripted. `examples/hosted/stock_report.py` is
imported in processes that may take 400 MB beyond dspy's and a second of CPU a run.
"""

from pathlib import Path

import trio

from dspex.modules import Tool
from dspex.modules.hosted_module import Hosted
from dspex.providers import Capabilities, Request
from dspex.runtime import CalleeExitedError, open_node
from dspex.runtime.bridge import DspyPool, Limits, PoolSettings, RemoteError
from dspex.testing import ScriptedLM

STOCK = {"apples": 7, "pears": 0}
SETTINGS = PoolSettings(
    max_size=2, limits=Limits(memory_bytes=400_000_000, cpu_seconds=1)
)


def stock(item: str) -> int:
    """Say how many of an item are there."""
    return STOCK[item]


def model(request: Request) -> str:
    """Write the report that a model would."""
    asked = request.messages[-1].text
    count = asked.partition("[[ ## count ## ]]\n")[2].partition("\n")[0]
    return (
        "[[ ## reasoning ## ]]\nthe count says it\n\n"
        f"[[ ## report ## ]]\n{count} are left"
    )


async def main() -> None:
    folder = Path(__file__).with_name("hosted")
    lm = ScriptedLM(model, capabilities=Capabilities(json_schema=False))
    async with open_node() as node:
        pool = await node.start(DspyPool(SETTINGS, search_path=[folder]), name="dspy")
        report = Hosted(
            "stock_report:Report",
            "item -> report",
            pool=pool,
            lm=lm,
            tools=[Tool(stock)],
        )
        for item in STOCK:
            found = await report(item=item)
            print(f"{item}: {found.report}")

        fill = Hosted(
            "stock_report:fill", "megabytes: int -> taken: int", pool=pool, lm=lm
        )
        print("10 MB:", (await fill(megabytes=10)).taken)
        try:
            await fill(megabytes=2_000)
        except RemoteError as error:
            print("2 GB:", error.kind)

        burn = Hosted("stock_report:burn", "rounds: int -> sum: int", pool=pool, lm=lm)
        try:
            await burn(rounds=10**12)
        except CalleeExitedError:
            print("a long loop: its process was ended, and another takes its place")
        print("apples again:", (await report(item="apples")).report)


if __name__ == "__main__":
    trio.run(main)
