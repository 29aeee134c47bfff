"""sync: the runtime in a plain script, a thread pool, or Django without asyncio.

from dspex.sync import open_runtime
"""

from dspex.worker.aio import DRAIN_SECONDS, MAX_CALLS
from dspex.worker.sync import SyncRuntime, open_runtime

__all__ = ["DRAIN_SECONDS", "MAX_CALLS", "SyncRuntime", "open_runtime"]
