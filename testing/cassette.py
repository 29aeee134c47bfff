"""Recorded models: what a real model said once, said again without it.

A cassette is a file of JSON lines: request, its fingerprint, and the response or the
error that came. It holds prompts and answers, and never a key.
"""

import json
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import trio

from dspex.providers import (
    LM,
    Capabilities,
    Delta,
    Message,
    ProviderError,
    Request,
    Response,
    ResponseStream,
)
from dspex.providers.lm import Wrapper
from dspex.providers.streams import stream_of, streaming, watched
from dspex.runtime.errors import DspexError

_ALL: Final = Capabilities(images=True, files=True, streaming=True, max_n=128)


class CassetteError(DspexError):
    """The cassette has no answer to a request, or cannot be read."""


class RecordedError(ProviderError):
    """The error that was recorded; `kind` is the name of its class."""

    def __init__(self, kind: str, facts: dict[str, Any]) -> None:  # Any: JSON
        super().__init__(
            f"{kind}: {facts['problem']}",
            provider=facts["provider"],
            model=facts["model"],
            status=facts["status"],
            code=facts["code"],
            retryable=facts["retryable"],
        )
        self.kind = kind


class RecordingLM(Wrapper[LM]):
    """Passes requests on to a model, and appends what comes to the cassette at `path`.

    Lines are written as calls end, each at once. `async with` opens and closes the
    model where it has something to open and close.
    """

    def __init__(self, lm: LM, path: str | Path) -> None:
        super().__init__(lm)
        self._path = Path(path)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if isinstance(self._lm, AbstractAsyncContextManager):
            model = cast("AbstractAsyncContextManager[object]", self._lm)
            await self._exits.enter_async_context(model)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exits.__aexit__(kind, error, traceback)

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request, record how it ends, and end so; see `LM.complete`."""
        request = Request.of(request)
        with self._failures(request):
            response = await self._lm.complete(request, timeout=timeout)
        self._write(request, {"response": response.to_json()})
        return response

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Stream one answer, and record it when it was read to its end.

        It is recorded as the whole answer: what replays it answers `complete`, too.
        """
        request = Request.of(request)
        lm = streaming(self._lm)

        async def end(response: Response) -> None:
            await trio.lowlevel.checkpoint()
            self._write(request, {"response": response.to_json()})

        async with AsyncExitStack() as exits:
            with self._failures(request):
                stream = await exits.enter_async_context(
                    lm.stream(request, timeout=timeout)
                )
            yield watched(stream, on_delta=_ignore, on_end=end)

    @contextmanager
    def _failures(self, request: Request) -> Generator[None]:
        try:
            yield
        except ProviderError as error:
            facts = {
                "kind": type(error).__name__,
                "problem": error.problem,
                "provider": error.provider,
                "model": error.model,
                "status": error.status,
                "code": error.code,
                "retryable": error.retryable,
            }
            self._write(request, {"error": facts})
            raise

    def _write(self, request: Request, ended: dict[str, Any]) -> None:  # Any: JSON
        line = {
            "model": self.name,
            "fingerprint": request.fingerprint(),
            "request": request.to_json(),
            **ended,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as cassette:
            cassette.write(json.dumps(line) + "\n")


class ReplayLM:
    """Answers from the cassette at `path`, and from nothing else.

    The n-th time a request comes it gets the n-th answer that was recorded for it.
    `left` tells how many recorded answers were not asked for.

    Raises:
        CassetteError: the file is missing or a line of it cannot be read.
    """

    def __init__(
        self, path: str | Path, *, capabilities: Capabilities | None = None
    ) -> None:
        self._path = Path(path)
        self._capabilities = capabilities or _ALL
        self._name = "replay:model"
        self._answers: dict[str, deque[dict[str, Any]]] = {}  # Any: JSON
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise CassetteError(
                f"cassette {str(path)!r} cannot be read: {error}; record it with "
                "RecordingLM"
            ) from error
        for number, text in enumerate(lines, start=1):
            try:
                line: dict[str, Any] = json.loads(text)  # Any: JSON
                self._name = line["model"]
                self._answers.setdefault(line["fingerprint"], deque()).append(line)
            except (ValueError, TypeError, KeyError) as error:
                raise CassetteError(
                    f"cassette {str(path)!r}, line {number} is not a recorded call: "
                    f"{error!r}"
                ) from error

    @property
    def name(self) -> str:
        """The name of the model that was recorded."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """What it claims to do; everything, unless told otherwise."""
        return self._capabilities

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """There is nothing to close: it stands where a real model stood."""

    @property
    def left(self) -> int:
        """How many recorded answers were not asked for yet."""
        return sum(len(answers) for answers in self._answers.values())

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Give what was recorded.

        Raises:
            CassetteError: nothing was, or not so often.
            RecordedError: that was an error.
        """
        await trio.lowlevel.checkpoint()
        request = Request.of(request)
        answers = self._answers.get(request.fingerprint())
        if not answers:
            why = "was recorded less often" if answers is not None else "was not there"
            raise CassetteError(
                f"cassette {str(self._path)!r}: this request {why} when it was "
                f"recorded: {request.messages[-1].text[:200]!r}; record it again"
            )
        line = answers.popleft()
        if "error" in line:
            facts = line["error"]
            raise RecordedError(facts["kind"], facts)
        return Response.from_json(line["response"])

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Give what was recorded, in one piece a choice.

        Raises:
            CassetteError: nothing was, or not so often.
            RecordedError: that was an error.
        """
        yield stream_of(await self.complete(request, timeout=timeout))


def _ignore(_: Delta) -> None:
    pass
