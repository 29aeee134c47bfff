"""Running `dspex` as a user does: another process, real signals, real children."""

import array
import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import trio

from dspex.testing import Action, Answer, ProviderRequest

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples/triage/program.yaml"
TICKETS = ROOT / "examples/triage/tickets.jsonl"


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def argv(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "dspex", *map(str, arguments)]


async def dspex(
    *arguments: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None
) -> Finished:
    """Run a command to its end, in a fork of a process that has imported dspex."""
    clean = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    command = {
        "argv": [str(it) for it in arguments],
        "cwd": str(cwd),
        "environment": clean | {"COLUMNS": "100"} | (environment or {}),
    }
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        connection = await trio.open_unix_socket(await _warm_address())
        text = json.dumps(command).encode() + b"\n"
        rights = array.array("i", [nothing, out_end, err_end])
        sent = await connection.socket.sendmsg(
            [text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        )
        await connection.send_all(text[sent:])
    finally:
        for descriptor in (nothing, out_end, err_end):
            os.close(descriptor)
    told: dict[int, str] = {}

    async def read(descriptor: int) -> None:
        async with trio.lowlevel.FdStream(descriptor) as stream:
            chunks = [bytes(chunk) async for chunk in stream]
        told[descriptor] = b"".join(chunks).decode()

    async with connection, trio.open_nursery() as nursery:
        nursery.start_soon(read, out)
        nursery.start_soon(read, err)
        status = b"".join([bytes(chunk) async for chunk in connection])
    return Finished(int(status), told[out], told[err])


@cache
def _warm_socket() -> str:
    """Start the process whose forks run commands; it ends with this one."""
    path = Path(tempfile.mkdtemp(prefix="dspex-warm-")) / "socket"
    warm = subprocess.Popen(
        [sys.executable, ROOT / "tests/integration/warm_command.py", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )

    def end() -> None:
        assert warm.stdin is not None
        warm.stdin.close()
        warm.wait()
        shutil.rmtree(path.parent)

    atexit.register(end)
    return str(path)


async def _warm_address() -> str:
    address = _warm_socket()
    with trio.fail_after(60):
        while not Path(address).is_socket():
            await trio.sleep(0.05)
    return address


async def two_at_a_time(
    works: Mapping[str, Callable[[], Awaitable[T]]],
) -> dict[str, T]:
    """Give what each work gives; for what waits more than it computes."""
    found: dict[str, T] = {}
    left = list(works.items())

    async def go_on() -> None:
        while left:
            name, work = left.pop(0)
            found[name] = await work()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        nursery.start_soon(go_on)
    return found


async def shell(command: str) -> Finished:
    """Run a line of bash."""
    done = await trio.run_process(
        ["bash", "-c", command],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=ROOT,
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(*arguments: str | Path, quiet: bool = True) -> subprocess.Popen[bytes]:
    """Start a command that is to be interfered with."""
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(argv(*arguments), cwd=ROOT, stdout=sink, stderr=sink)


def children(pid: int) -> list[int]:
    """Give the live descendants of a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: list[int] = []
    wanted = [pid]
    while wanted:
        wanted = [child for child, parent in parents.items() if parent in wanted]
        found += wanted
    return found


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def dspy_processes(pid: int) -> list[int]:
    """Give the live dspy processes under a dspex process."""
    return [
        child for child in children(pid) if "bridge/child.py" in command_line(child)
    ]


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def eventually(claim: Callable[[], bool], *, seconds: float) -> bool:
    """Whether a claim about other processes comes true in time."""
    with trio.move_on_after(seconds):
        while not claim():
            await trio.sleep(0.02)
        return True
    return claim()


def schema_answers(delay: float = 0.0) -> Callable[[ProviderRequest], Action]:
    """Answer each request with JSON that fits the schema it asks for."""

    def choose(request: ProviderRequest) -> Action:
        schema = request.json["response_format"]["json_schema"]["schema"]
        text = json.dumps(
            {name: _value(field) for name, field in schema["properties"].items()}
        )
        return Answer(text, delay=delay)

    return choose


def _value(schema: dict[str, Any]) -> object:
    if schema.get("type") == "array":
        return ["We are on it."]
    choices: Sequence[object] = schema.get("enum", ())
    return choices[0] if choices else "We are on it."
