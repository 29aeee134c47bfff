"""The program of a process that hosts dspy: `python child.py MODE FD [FOLDER...]`.

MODE is `serve` (runs come over the channel) or `fork` (orders to fork come). It runs
under any interpreter that has dspy and msgspec; dspex need not be installed there.
First it makes sure that it cannot outlive its parent and that whatever anyone prints
goes to stderr: the channel is a socket of its own.
"""

import importlib
import os
import platform
import socket
import sys
import types
from typing import NoReturn

_HERE = os.path.dirname(os.path.abspath(__file__))
_SUPPORTED = ">=3.4,<3.5"


_own: "dict[str, types.ModuleType]" = {}


def main(mode: str, channel_fd: int, search_path: "list[str]") -> None:
    """Guard, say hello, serve until the parent closes the channel."""
    os.dup2(2, 1)
    _import_own("child_guard").guard(watch_lifeline=mode != "fork")
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    # Without it, importing litellm tries to fetch a price list three times.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        version = _dspy_version()
        importlib.import_module("dspy")
        protocol = _import_own("bridge.protocol")
        host = _import_own("bridge.child_host")
        fork = _import_own("bridge.child_fork")
    except ImportError as error:
        _refuse(channel, mode, *_explain(error))
    # dspy's own bytecode may be cached; the user's folders stay as they are.
    sys.dont_write_bytecode = True
    sys.path[:0] = search_path
    host.prepare_dspy()
    hello = protocol.Hello(
        protocol.PROTOCOL_VERSION, os.getpid(), platform.python_version(), version
    )
    if mode == "fork":
        fork.serve_forks(channel, hello)
    else:
        host.serve(channel, hello)
    # Threads that run a user's code must not keep a dead parent's child alive.
    os._exit(0)


def _import_own(name: str) -> types.ModuleType:
    """Import a file of `dspex.runtime` without importing dspex.

    Empty stand-ins for the packages let the files import each other by their real
    names; afterwards they are taken away, for a user's module may import the real
    dspex.
    """
    runtime = os.path.dirname(_HERE)
    for package, path in (
        ("dspex", []),
        ("dspex.runtime", [runtime]),
        ("dspex.runtime.bridge", [_HERE]),
    ):
        if package not in _own:
            _own[package] = types.ModuleType(package)
            _own[package].__path__ = path
    sys.modules.update(_own)
    try:
        return importlib.import_module(f"dspex.runtime.{name}")
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == "dspex"]:
            _own[key] = sys.modules.pop(key)


def _refuse(channel: socket.socket, mode: str, problem: str, remedy: str) -> NoReturn:
    """Send `Unavailable` and end; by hand, for msgspec may be what is missing."""
    message = {
        "type": "Unavailable",
        "python": sys.executable,
        "problem": problem,
        "remedy": remedy,
    }
    body = bytes([0x80 | len(message)])  # msgpack: a map of strings
    for text in (text for pair in message.items() for text in pair):
        data = text.encode(errors="backslashreplace")
        body += b"\xdb" + len(data).to_bytes(4, "big") + data
    header = b"" if mode == "fork" else len(body).to_bytes(4, "big")
    channel.sendall(header + body)
    channel.recv(1)  # the parent closes it once it has read the reason
    os._exit(1)


def _dspy_version() -> str:
    from importlib import metadata

    version = metadata.version("dspy")
    if version.split(".")[:2] != ["3", "4"]:
        raise ImportError(f"its dspy is {version}, the bridge needs {_SUPPORTED}")
    return version


def _explain(error: ImportError) -> tuple[str, str]:
    from importlib import metadata

    install = "run `pip install 'dspex[dspy]'`"
    if sys.executable:
        install += f" (or `{sys.executable} -m pip install 'dspy{_SUPPORTED}' msgspec`)"
    if isinstance(error, metadata.PackageNotFoundError):
        return "dspy is not installed", install
    return str(error), install


if __name__ == "__main__":
    # The folder of this file is no place to import from.
    sys.path[:] = [path for path in sys.path if path != _HERE]
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
