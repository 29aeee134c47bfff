"""Round trips a second of triotp's gen_server, as a program of its own.

triotp needs Python 3.12, which may not be the Python that dspex runs on:
`python _triotp_peer.py TIMES` prints one number.
"""

import importlib
import sys
import time
from typing import Any

import trio
import trio.testing

# Any: triotp is not where the type checkers look.
gen_server: Any = importlib.import_module("triotp.gen_server")
mailbox: Any = importlib.import_module("triotp.mailbox")


async def init(_: object) -> None:
    return None


async def handle_call(
    message: object, _: object, state: object
) -> tuple[object, object]:
    return gen_server.Reply(message), state


async def round_trips(times: int) -> float:
    mailbox._init()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gen_server.start, sys.modules[__name__], None, "echo")
        await trio.testing.wait_all_tasks_blocked()
        began = time.perf_counter()
        for n in range(times):
            await gen_server.call("echo", n)
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return times / seconds


if __name__ == "__main__":
    print(trio.run(round_trips, int(sys.argv[1])))
