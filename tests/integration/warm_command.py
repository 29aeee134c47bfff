"""A process that has imported `dspex` once, and runs each command in a fork of itself.

`python warm_command.py SOCKET` takes commands there, one a connection: JSON with argv,
cwd and environment, and descriptors for stdin, stdout and stderr. The answer is the
exit status, negative for a signal. Who hangs up ends the command; the end of this
process's stdin ends all of it.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

from dspex.__main__ import main

PRELOADED = (
    "dspex.worker.cli",
    "dspex.worker.open_runtime",
    "dspex.worker.serve",
    "dspex.testing.chaos_cli",
    "dspex.runtime.journal.store",
    "dspex.runtime.journal.reads",
    "sqlalchemy.dialects.sqlite",
    "rich.table",
)
MOST = 1_000_000


def serve(path: str) -> None:
    """Take commands until stdin ends; returns in the fork that is to run one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        os.rename(f"{path}.new", path)  # whoever sees it can connect
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                keep(connection)
                return
            connection.close()
    os._exit(0)


def keep(connection: socket.socket) -> None:
    """Run one command, which returns from here, and tell how it ended."""
    text, descriptors, _, _ = socket.recv_fds(connection, MOST, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(MOST)
    command = json.loads(text)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(command["cwd"])
        os.environ.clear()
        os.environ.update(command["environment"])
        sys.argv = ["dspex", *command["argv"]]
        sys.path[0] = command["cwd"]
        return
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection.fileno()], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(str(status).encode())
    os._exit(0)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    serve(sys.argv[1])
    main()
