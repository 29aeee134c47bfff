import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import structlog.testing
import trio

from dspex.runtime import child_process
from dspex.runtime.child_process import GUARD, ChildProcess
from dspex.runtime.errors import ChildNotGoneError, ChildStartError

LOAD_GUARD = f"""
import importlib.util, os, sys, time, signal, subprocess
spec = importlib.util.spec_from_file_location("child_guard", {str(GUARD)!r})
child_guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child_guard)
child_guard.guard()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", LOAD_GUARD + textwrap.dedent(code)]


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def line_of(child: ChildProcess) -> str:
    with trio.fail_after(10):
        while not child.stderr_tail:
            await trio.sleep(0.005)
    return child.stderr_tail[0]


async def gone(pid: int) -> None:
    with trio.fail_after(5):
        while is_running(pid):
            await trio.sleep(0.005)


async def test_of_a_flood_the_first_lines_are_logged_and_the_rest_is_counted() -> None:
    # 3 MB: far more than the pipe holds, in lines that are cut between two reads.
    code = r"""
    for number in range(200_000):
        os.write(1, b'line %d\n' % number) if number % 7 else print('line', number)
        sys.stdout.flush()
    """
    child = ChildProcess.start(python(code), name="flood")
    with structlog.testing.capture_logs() as logs:
        await child.run()
    lines = [e["line"] for e in logs if e["event"] == "child_output"]
    dropped = sum(e["lines"] for e in logs if e["event"] == "child_output_dropped")
    assert lines[:500] == [f"line {number}" for number in range(500)]
    assert dropped > 0
    assert len(lines) + dropped == 200_000
    assert child.stderr_tail == tuple(f"line {n}" for n in range(199_960, 200_000))


async def test_stderr_and_stdout_arrive_as_log_lines_with_the_pid() -> None:
    child = ChildProcess.start(
        python(r"os.write(1, b'one\n'); os.write(2, b'two\nthr'); os.write(1, b'ee')"),
        name="talker",
    )
    with structlog.testing.capture_logs() as logs:
        await child.run()
    assert [(e["line"], e["pid"], e["child"]) for e in logs] == [
        ("one", child.pid, "talker"),
        ("two", child.pid, "talker"),
        ("three", child.pid, "talker"),
    ]
    assert child.returncode == 0


async def test_start_of_a_missing_program_names_it() -> None:
    with pytest.raises(ChildStartError, match="cannot run '/no/such/python'"):
        ChildProcess.start(["/no/such/python"], name="ghost")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("time.sleep(600)", id="sleeper"),
        pytest.param(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True);"
            "time.sleep(600)",
            id="deaf to SIGTERM",
        ),
        pytest.param("os.kill(os.getpid(), signal.SIGSTOP)", id="stopped"),
    ],
)
async def test_stop_ends_the_child_whatever_it_does(code: str) -> None:
    child = ChildProcess.start(python(code), name="stubborn")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.run)
        with trio.fail_after(10):
            status = await child.stop(grace_seconds=0.1)
    assert status in (-signal.SIGTERM, -signal.SIGKILL)
    assert not is_running(child.pid)


async def test_what_survives_sigkill_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    child = ChildProcess.start(python("import time; time.sleep(100)"), name="stuck")

    def members(group: int) -> list[int]:
        return [group, 7]

    with monkeypatch.context() as patch:
        # A process stuck in I/O is not to be had: what the kernel says is made up.
        patch.setattr(child_process, "live_members", members)
        patch.setattr(child_process, "_GONE_SECONDS", 0.05)
        with pytest.raises(ChildNotGoneError, match=r"7\) survived SIGKILL") as caught:
            await child.stop()
    assert caught.value.members == (child.pid, 7)
    await child.run()
    assert not is_running(child.pid)


async def test_cancelled_run_leaves_neither_child_nor_grandchild() -> None:
    child = ChildProcess.start(
        python("print(subprocess.Popen(['sleep', '600']).pid, flush=True)"), name="p"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.run)
        grandchild = int(await line_of(child))
        nursery.cancel_scope.cancel()
    assert not is_running(child.pid)
    await gone(grandchild)


async def test_end_of_the_child_takes_the_grandchild_along() -> None:
    child = ChildProcess.start(
        python("print(subprocess.Popen(['sleep', '600']).pid, flush=True)"), name="p"
    )
    await child.run()
    await gone(int(child.stderr_tail[0]))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("time.sleep(600)", id="asleep"),
        # re holds the GIL throughout this match: only the kernel can end it.
        pytest.param("import re; re.match('(a+)+$', 'a' * 64 + 'b')", id="GIL held"),
    ],
)
async def test_kill_9_of_the_parent_ends_the_child(body: str) -> None:
    code = f"""
        import sys, trio
        from dspex.runtime.child_process import ChildProcess

        async def main():
            child = ChildProcess.start({python(body)!r}, name="orphan")
            print(child.pid, flush=True)
            await child.run()

        trio.run(main)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        await trio.sleep(0.3)
        assert is_running(pid)
        parent.kill()
    await gone(pid)


async def test_guard_as_a_script_ties_any_program_to_its_parent() -> None:
    code = """
        import sys, trio
        from dspex.runtime.child_process import GUARD, ChildProcess

        async def main():
            argv = [sys.executable, "-S", str(GUARD), "sleep", "600"]
            child = ChildProcess.start(argv, name="sleep")
            print(child.pid, flush=True)
            await child.run()

        trio.run(main)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        with trio.fail_after(5):
            while b"python" in Path(f"/proc/{pid}/cmdline").read_bytes():
                await trio.sleep(0.01)
        parent.kill()
    await gone(pid)
