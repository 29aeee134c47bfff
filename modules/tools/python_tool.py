"""A tool that runs Python which a model wrote, in a process that can be killed."""

from typing import Any

from dspex.modules.tools.process import run_job
from dspex.modules.tools.tool import Approval, Tool


def python_tool(
    *,
    name: str = "python",
    timeout: float = 10.0,
    cpu_seconds: int = 5,
    max_memory_mb: int = 512,
    approve: Approval | None = None,
) -> Tool:
    """Make a tool that runs Python source and gives what it printed and its last value.

    Each call is a process of its own, killed after `timeout` seconds, with limits on
    CPU time and memory; it cannot write files. It is no sandbox against an attacker:
    the source runs as the same user and may read files and use the network. Use
    `approve`, or a container around the runtime, where that matters.
    """
    job: dict[str, Any] = {"cpu_seconds": cpu_seconds}  # Any: JSON

    async def python(source: str) -> dict[str, str | None]:
        found: dict[str, str | None] = await run_job(
            name, job | {"source": source}, timeout=timeout, max_memory_mb=max_memory_mb
        )
        return found

    return Tool(
        python,
        name=name,
        description="Run Python source; gives what it prints and its last value.",
        # The job has its own, which kills; this one is for what goes wrong with that.
        timeout=timeout + 5.0,
        approve=approve,
    )
