"""A real Postgres server for tests: a cluster of its own in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _find() -> Path:
    """Give the folder of Postgres's programs, installed from Debian if need be."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "postgresql"]
        subprocess.run(command, check=False, capture_output=True, timeout=300)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no Postgres: apt-get install postgresql")
    return found[-1]


@contextmanager
def postgres_server() -> Generator[str]:
    """Run a server and give the URL of an empty database."""
    pytest.importorskip("psycopg", reason="pip install 'dspex[postgres]'")
    programs = _find()
    # Postgres does not run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        if user:
            shutil.chown(folder, "postgres")
            shutil.chown(data, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [*user, str(programs / program), *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                cwd=folder,
            )

        run("initdb", "-D", str(data), "-U", "dspex", "-A", "trust", "-N")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        log = str(data / "log")
        control = ("pg_ctl", "-D", str(data), "-l", log, "-w")
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql://dspex@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
