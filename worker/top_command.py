"""`dspex top`: the supervision tree of a running worker, in the terminal."""

from typing import Any, Final

import httpx
import trio
from rich.console import Console
from rich.live import Live

from dspex.runtime import DspexError
from dspex.worker.top_screen import JSON, draw

_TIMEOUT_SECONDS: Final = 5.0


class WorkerUnreachableError(DspexError):
    """The worker does not answer, or not as a worker does."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"worker at {url}: {problem}")
        self.url = url


async def watch_worker(url: str, *, token: str | None, every: float, once: bool) -> int:
    """Show the tree until interrupted, or once.

    A worker that stops to answer is waited for; the screen says since when.

    Raises:
        WorkerUnreachableError: there is no first answer, or the token is wrong.
    """
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    console = Console()
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS
    ) as client:
        data = await _read(client, url)
        if once:
            console.print(draw(url, data, width=console.width, height=None))
            return 0
        heard = trio.current_time()
        with Live(
            draw(url, data, width=console.width, height=console.height),
            console=console,
            auto_refresh=False,
            screen=console.is_terminal,
        ) as live:
            while True:
                await trio.sleep(every)
                try:
                    data = await _read(client, url)
                    heard = trio.current_time()
                    lost = 0.0
                except WorkerUnreachableError:
                    lost = trio.current_time() - heard
                screen = draw(
                    url,
                    data,
                    width=console.width,
                    height=console.height,
                    lost_seconds=lost,
                )
                live.update(screen, refresh=True)


async def _read(client: httpx.AsyncClient, url: str) -> JSON:
    try:
        reply = await client.get("/v1/tree")
        if not reply.is_success:
            said = reply.json().get("error", "")
            raise WorkerUnreachableError(url, f"{reply.status_code} {said}")
        found: dict[str, Any] = reply.json()  # Any: JSON
    except (httpx.HTTPError, ValueError) as error:
        problem = f"no answer ({type(error).__name__}): is it running there?"
        raise WorkerUnreachableError(url, problem) from error
    return found
