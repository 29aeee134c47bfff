"""What runs in the hosted processes during the tests: every way to misbehave."""

import contextlib
import ctypes
import importlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import types
from typing import Any

import msgspec

dspy: Any = importlib.import_module("dspy")  # Any: it ships no types

STATE: dict[str, Any] = {}


class Loud(dspy.Module):  # type: ignore[misc]
    """Prints everywhere it can, around a prediction."""

    def __init__(self) -> None:
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        print("a print")
        os.write(1, b"a raw write\n")
        subprocess.run(["echo", "from a grandchild"], check=True)
        sys.stdout.flush()
        return self.predict(question=question)


class Unprintable(Exception):
    def __init__(self) -> None:
        super().__init__(object(), threading.Lock())

    def __str__(self) -> str:
        raise RuntimeError("no words")


def pid() -> dict[str, int]:
    return {"pid": os.getpid()}


def square(number: int) -> int:
    return number * number


def sleep(seconds: float) -> dict[str, float]:
    time.sleep(seconds)
    return {"slept": seconds}


def sleep_and_pid(seconds: float) -> dict[str, int]:
    time.sleep(seconds)
    return {"pid": os.getpid()}


def burn(seconds: float) -> dict[str, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return {"burnt": seconds}


def flood(text: str) -> dict[str, str]:
    """Write for ever, as fast as it is read."""
    lines = (text + "\n").encode() * 4096
    while True:
        os.write(1, lines)


def note(path: str) -> dict[str, bool]:
    with open(path, "a") as file:
        file.write("ran\n")
    return {"ran": True}


def sleep_then_note(path: str, seconds: float) -> dict[str, bool]:
    time.sleep(seconds)
    return note(path)


def raise_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(600)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    # The signal stops another thread first: this one may well go on for a moment.
    time.sleep(600)


def leave(status: int) -> None:
    os._exit(status)


def spin() -> None:
    while True:
        pass


def spin_in_c() -> None:
    # The engine of re holds the GIL throughout; this match takes years.
    re.match("(a+)+$", "a" * 64 + "b")


def spin_in_c_for(seconds: float) -> dict[str, float]:
    # PyDLL keeps the GIL while it calls.
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return {"spun": seconds}


def crash_in_c() -> None:
    ctypes.string_at(0)


def deaf() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("deaf now", file=sys.stderr)
    time.sleep(600)


def fork_bomb() -> None:
    pids = []
    while True:
        child = os.fork()
        if child == 0:
            time.sleep(600)
        pids.append(child)


def memory_bomb() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))


def hold_all_memory(seconds: float, note: str) -> None:
    with open(note, "x") as full:  # later there is no memory to open it
        hoard = []
        with contextlib.suppress(MemoryError):
            while True:
                hoard.append(bytearray(1 << 20))
        full.write("full")
    time.sleep(seconds)


def unprintable() -> None:
    raise Unprintable


def unicode_error() -> None:
    raise ValueError("half a character: \ud800")


def odd() -> dict[str, Any]:
    return {"thing": object()}


def big(size: int) -> dict[str, str]:
    return {"text": "x" * size}


def say(text: str) -> dict[str, str]:
    print(text)
    return {"said": text}


def length(text: str) -> dict[str, int]:
    return {"length": len(text)}


def grandchildren() -> dict[str, list[int]]:
    """Start a child, a child in a session of its own, and a daemon."""
    child = subprocess.Popen(["sleep", "600"])
    apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
    daemon = subprocess.run(
        ["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"],
        stdout=subprocess.PIPE,
        check=True,
    )
    return {"pids": [child.pid, apart.pid, int(daemon.stdout)]}


def _channel() -> int:
    """The descriptor of this process's channel to its parent: its only socket."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return fd
        except OSError:
            continue
    raise AssertionError("no socket")


def send_garbage() -> None:
    os.write(_channel(), b"HTTP/1.1 200 OK\r\n\r\n")
    time.sleep(600)


def send_unknown_message() -> None:
    body = msgspec.msgpack.encode({"type": "Party", "id": 1})
    os.write(_channel(), len(body).to_bytes(4, "big") + body)
    time.sleep(600)


def send_half_a_frame() -> None:
    os.write(_channel(), (1000).to_bytes(4, "big") + b"half")
    os._exit(0)


def send_wrong_ids() -> dict[str, bool]:
    for kind in ("Result", "Ended", "Pong", "Progress", "ModelCall", "ToolCall"):
        message: dict[str, Any] = {
            "type": kind,
            "id": 999_999,
            "run": 999_999,
            "name": "nobody",
            "arguments": {},
            "request": {},
            "event": {},
            "outputs": {},
            "usage": {},
        }
        body = msgspec.msgpack.encode(message)
        os.write(_channel(), len(body).to_bytes(4, "big") + body)
    return {"sent": True}


def ask_twice_under_one_number(run: int) -> None:
    call: dict[str, object] = {
        "type": "ModelCall",
        "id": 7,
        "run": run,
        "request": {},
    }
    body = msgspec.msgpack.encode(call)
    os.write(_channel(), (len(body).to_bytes(4, "big") + body) * 2)
    time.sleep(600)


def remember(key: str, value: int) -> dict[str, int]:
    STATE[key] = value
    return {"pid": os.getpid()}


def recall(key: str) -> dict[str, Any]:
    return {"value": STATE.get(key), "pid": os.getpid()}


class _SlowSocket:
    def __init__(self, inner: socket.socket, size: int, pause: float) -> None:
        self._inner = inner
        self._size = size
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recv_into(self, buffer: memoryview) -> int:
        count = self._inner.recv_into(buffer[: self._size])
        if count == self._size:
            time.sleep(self._pause)
        return count


def read_slowly(size: int, pause: float) -> dict[str, int]:
    """Read what the parent sends `size` bytes at a time from now on, with pauses."""
    tops = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
    for top in tops.values():
        frame: types.FrameType | None = top
        while frame is not None:
            channel: Any = frame.f_locals.get("self")
            if type(channel).__name__ == "Channel":
                inner = getattr(channel._socket, "_inner", channel._socket)
                channel._socket = _SlowSocket(inner, size, pause)
                return {"pid": os.getpid()}
            frame = frame.f_back
    raise AssertionError("no thread reads")
