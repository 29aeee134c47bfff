"""Signals: a command ends in order on Ctrl-C and SIGTERM, at once on the second."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from types import FrameType
from typing import Any

import trio

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_command(main: Callable[[], Awaitable[int]]) -> int:
    """Run `main` under trio and give its exit status.

    The first SIGINT or SIGTERM cancels it, so that its runtime ends in order; the
    status is then 128 plus the signal's number. The second one has its default
    effect: the process is gone, and its children with it.
    """
    return trio.run(_run, main)


async def _run(main: Callable[[], Awaitable[int]]) -> int:
    caught: list[int] = []
    status = 0
    failure: BaseException | None = None
    with trio.open_signal_receiver(*SIGNALS) as signals:
        _handle_each_once()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, signals, caught, nursery.cancel_scope)
            # Kept apart, so that an error leaves without the nursery's group.
            try:
                status = await main()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure = error
            nursery.cancel_scope.cancel()
    if caught:
        return 128 + caught[0]
    if failure is not None:
        raise failure
    return status


def _handle_each_once() -> None:
    """Let the second signal end the process, also when the loop is blocked."""
    told: dict[int, Any] = {  # Any: as the standard library types it
        number: signal.getsignal(number) for number in SIGNALS
    }

    def handle(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        told[number](number, frame)

    for number in SIGNALS:
        signal.signal(number, handle)


async def _watch(
    signals: AsyncIterator[int],
    caught: list[int],
    scope: trio.CancelScope,
) -> None:
    async for number in signals:
        caught.append(number)
        scope.cancel()
        return
