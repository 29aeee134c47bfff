"""Signals of a command whose loop is blocked."""

import os
import signal
import subprocess
import sys

import trio

BLOCKED = """
import time
from dspex.worker.signals import run_command

async def main():
    print("blocked", flush=True)
    time.sleep(60)
    return 0

run_command(main)
"""


def start_blocked() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", BLOCKED]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


async def test_the_second_ctrl_c_ends_a_command_that_is_blocked() -> None:
    with start_blocked() as child:
        assert child.stdout is not None
        try:
            await trio.to_thread.run_sync(child.stdout.readline)
            with trio.fail_after(15):
                while child.poll() is None:
                    os.kill(child.pid, signal.SIGINT)
                    await trio.sleep(0.05)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGINT
