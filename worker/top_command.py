"""`dspex top`: the supervision tree of a running worker, in the terminal."""

from typing import Any, Final

import httpx
import trio
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dspex.runtime import DspexError

_TIMEOUT_SECONDS: Final = 5.0
_COLORS: Final = {"running": "green", "suspended": "blue", "restarting": "yellow"}

JSON = dict[str, Any]  # Any: JSON


class WorkerUnreachableError(DspexError):
    """The worker does not answer, or not as a worker does."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"worker at {url}: {problem}")
        self.url = url


async def watch_worker(url: str, *, token: str | None, every: float, once: bool) -> int:
    """Show the tree until interrupted, or once.

    Raises:
        WorkerUnreachableError: there is no answer, or the token is wrong.
    """
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    console = Console()
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS
    ) as client:
        first = _draw(url, await _read(client, url))
        if once:
            console.print(first)
            return 0
        with Live(first, console=console, auto_refresh=False) as live:
            while True:
                await trio.sleep(every)
                live.update(_draw(url, await _read(client, url)), refresh=True)


async def _read(client: httpx.AsyncClient, url: str) -> JSON:
    try:
        reply = await client.get("/v1/tree")
        if not reply.is_success:
            said = reply.json().get("error", "")
            raise WorkerUnreachableError(url, f"{reply.status_code} {said}")
        found: JSON = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        problem = f"no answer ({type(error).__name__}): is it running there?"
        raise WorkerUnreachableError(url, problem) from error
    return found


def _draw(url: str, data: JSON) -> Table:
    about = data["overview"]
    table = Table(
        title=f"{url}   {about['unfinished']} runs under way, "
        f"{about['actors']} actors, {about['crashes']} crashes",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("actor")
    table.add_column("state")
    for name in ("mailbox", "highest", "restarts"):
        table.add_column(name, justify="right")
    table.add_column("intensity")
    for row in data["tree"]:
        state = str(row["state"])
        table.add_row(
            Text("  " * row["indent"] + row["name"]),
            Text(state, style=_COLORS.get(state, "")),
            str(row["depth"]),
            str(row["high_water"]),
            str(row["restarts"]),
            Text(row["window"]),
        )
    return table
