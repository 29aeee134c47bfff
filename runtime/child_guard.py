"""The child's half of "no orphan, ever": stdlib only, usable by path.

A child process started by `dspex.runtime.child_process` finds its parent's pid and
the read end of a pipe that only the parent holds open (the lifeline) in its
environment, and calls `guard()` first thing. Three independent watches follow:

- the kernel sends SIGKILL when the thread that started the child ends
  (`PR_SET_PDEATHSIG`): it works even while a C extension holds the GIL;
- a thread waits for the end of the lifeline, then kills the child's whole process
  group: it takes the grandchildren along;
- `getppid` is compared with the expected parent, in case that one died before the
  first two were in place.

A process that is not Python, or another interpreter, runs it as a script:
`python child_guard.py PROGRAM ARGS...` executes PROGRAM with the first and the third
watch (`PR_SET_PDEATHSIG` survives `exec`, threads do not).
"""

import ctypes
import os
import signal
import sys
import threading

PARENT_PID = "DSPEX_PARENT_PID"
LIFELINE_FD = "DSPEX_LIFELINE_FD"

_PR_SET_PDEATHSIG = 1


def guard(*, watch_lifeline: bool = True) -> None:
    """Tie this process to the parent named in the environment; do it first thing.

    Without the thread that watches the lifeline if the process is going to fork.
    Does nothing when the process was not started by a `ChildProcess`.
    """
    parent = os.environ.get(PARENT_PID)
    if parent is None:
        return
    die_with_parent(int(parent))
    lifeline = os.environ.pop(LIFELINE_FD, None)
    if lifeline is not None and watch_lifeline:
        fd = int(lifeline)
        os.set_inheritable(fd, False)
        watch = threading.Thread(target=_watch_lifeline, args=(fd,), daemon=True)
        watch.start()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends; exit if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with_parent`, for a process that has to clean up after its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def kill_own_group() -> None:
    """Kill this process and, when it leads its process group, the whole group."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_lifeline(fd: int) -> None:
    while True:
        try:
            if os.read(fd, 1) == b"":
                break
        except InterruptedError:
            continue
        except OSError:
            break
    kill_own_group()


if __name__ == "__main__":
    if PARENT_PID in os.environ:
        die_with_parent(int(os.environ[PARENT_PID]))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; PROGRAM may not
    os.execvp(sys.argv[1], sys.argv[1:])
