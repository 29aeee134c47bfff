"""The program of a process that hosts dspy: `python child.py CHANNEL_FD [FOLDER...]`.

It runs under any interpreter that has dspy and msgspec; dspex need not be installed
there. First it makes sure that it cannot outlive its parent and that whatever anyone
prints goes to stderr: the channel is a socket of its own.
"""

import importlib
import os
import platform
import socket
import sys
import types

_HERE = os.path.dirname(os.path.abspath(__file__))
_SUPPORTED = ">=3.4,<3.5"


def main(channel_fd: int, search_path: "list[str]") -> None:
    """Guard, say hello, serve until the parent closes the channel."""
    os.dup2(2, 1)
    modules = _import_own_modules("child_guard", "bridge.protocol", "bridge.child_host")
    guard, protocol, host = modules
    guard.guard()
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    # Without it, importing litellm tries to fetch a price list three times.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        version = _dspy_version()
        importlib.import_module("dspy")
    except ImportError as error:
        hello = protocol.Unavailable(sys.executable, *_explain(error))
    else:
        hello = protocol.Hello(
            protocol.PROTOCOL_VERSION, os.getpid(), platform.python_version(), version
        )
    channel.sendall(protocol.encode(hello, what="hello"))
    if isinstance(hello, protocol.Hello):
        # dspy's own bytecode may be cached; the user's folders stay as they are.
        sys.dont_write_bytecode = True
        sys.path[:0] = search_path
        host.serve(channel)
    else:
        channel.recv(1)  # the parent closes it once it has read the reason
    # Threads that run a user's code must not keep a dead parent's child alive.
    os._exit(0)


def _import_own_modules(*names: str) -> list[types.ModuleType]:
    """Import files of `dspex.runtime` without importing dspex.

    Empty stand-ins for the packages let the files import each other by their real
    names; afterwards they are taken away, for a user's module may import the real
    dspex.
    """
    runtime = os.path.dirname(_HERE)
    for name, path in (
        ("dspex", []),
        ("dspex.runtime", [runtime]),
        ("dspex.runtime.bridge", [_HERE]),
    ):
        package = types.ModuleType(name)
        package.__path__ = path
        sys.modules[name] = package
    own = [importlib.import_module(f"dspex.runtime.{name}") for name in names]
    for name in [n for n in sys.modules if n.split(".")[0] == "dspex"]:
        del sys.modules[name]
    return own


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
    main(int(sys.argv[1]), sys.argv[2:])
