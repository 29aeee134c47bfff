"""aio: the runtime inside an asyncio service, on a thread of its own.

from dspex.aio import open_runtime
"""

from dspex.worker.aio import DRAIN_SECONDS, MAX_CALLS, AioRuntime, open_runtime

__all__ = ["DRAIN_SECONDS", "MAX_CALLS", "AioRuntime", "open_runtime"]
