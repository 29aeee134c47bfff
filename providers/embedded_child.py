"""The process that runs llama.cpp's server; started by path, knows nothing of dspex.

Its configuration comes as JSON in the environment variable DSPEX_EMBEDDED, so that
the key is on no command line. It writes one JSON line to the descriptor `ready_fd`:
{"url": ...} once the model is loaded, or {"error": ...}; then it serves until SIGTERM
or until its parent is gone.
"""

import importlib
import importlib.util
import json
import os
import signal
from types import FrameType
from typing import Any

CONFIGURATION = "DSPEX_EMBEDDED"


def main() -> int:
    """Serve; the exit status is 1 when the model cannot be loaded."""
    configuration: dict[str, Any] = json.loads(  # Any: JSON
        os.environ.pop(CONFIGURATION)
    )
    guard(configuration["guard"])
    # Kills a generation in the middle; the server has no state worth saving.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready = os.fdopen(configuration["ready_fd"], "w", encoding="utf-8")
    try:
        server = start_server(configuration)
    except Exception as error:  # noqa: BLE001 - told to the parent, then the end
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=ready)
        return 1
    print(json.dumps({"url": server.listening_address}), file=ready, flush=True)
    ready.close()
    while True:
        signal.pause()


def guard(path: str) -> None:
    """Load the guard against orphans by path, and run it."""
    spec = importlib.util.spec_from_file_location("child_guard", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.guard()


def start_server(configuration: dict[str, Any]) -> Any:  # Any: JSON; untyped library
    """Load the model and serve it on a free port of the loopback."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # Any: it has no types
    slots: int = configuration["slots"]
    params = xllamacpp.CommonParams()
    params.model.path = configuration["model_path"]
    params.model_alias = {configuration["model_name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [configuration["key"]]
    params.n_parallel = slots
    params.n_ctx = slots * configuration["context_tokens"]
    params.cpuparams.n_threads = configuration["threads"]
    params.cpuparams_batch.n_threads = configuration["threads"]
    params.n_threads_http = slots + 4  # the rest answer /health when all slots work
    params.cache_ram_mib = configuration["cache_mib"]
    params.cors_origins = ""
    params.ui = False
    params.endpoint_slots = False
    params.offline = True
    params.verbosity = 1
    return xllamacpp.Server(params)


def _exit(signum: int, frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
