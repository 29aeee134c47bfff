"""A model that answers from a script: no network, no waiting, the same every time."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import trio

from dspex.providers import (
    Capabilities,
    Choice,
    Delta,
    Message,
    ProviderTimeoutError,
    Request,
    Response,
    ResponseStream,
    TextDelta,
    Usage,
)
from dspex.providers.lm import check_supported
from dspex.runtime.errors import DspexError
from dspex.testing.fitting_answer import fitting_answer

ScriptLine: TypeAlias = str | Choice | Response | Exception
Rule: TypeAlias = Callable[[Request], ScriptLine]


class ScriptEndedError(DspexError):
    """The script has no line left for a request."""

    def __init__(self, lines: int, request: Request) -> None:
        last = request.messages[-1].text
        super().__init__(
            f"the script has {lines} lines, and one more request came: {last[:200]!r}"
        )
        self.request = request


class ScriptedLM:
    """Answers the n-th request with the n-th line, or every request by a rule.

    A line is a text, a `Choice` (a text with tool calls), a whole `Response`, or an
    exception to raise; a rule is a function from the request to a line, and
    `fitting_answer` where no script is given. `delay` seconds pass before each answer.
    `requests` records what came, in order. A text or choice is given for each of the
    request's `n` choices, with a usage of one token a word.
    """

    def __init__(
        self,
        script: Iterable[ScriptLine] | Rule = fitting_answer,
        *,
        name: str = "scripted:model",
        capabilities: Capabilities | None = None,
        delay: float = 0.0,
    ) -> None:
        self._rule = script if callable(script) else None
        self._lines = iter(() if callable(script) else script)
        self._used = 0
        self._name = name
        self._capabilities = capabilities or Capabilities(
            images=True, files=True, streaming=True, max_n=128
        )
        self._delay = delay
        self.requests: list[Request] = []

    @property
    def name(self) -> str:
        """The name given, "scripted:model" by default."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """What it claims to do."""
        return self._capabilities

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Give the next line.

        Raises:
            ScriptEndedError: there is none.
            ProviderTimeoutError: `delay` is longer than `timeout`.
            Exception: the line, when it is one.
        """
        request = Request.of(request)
        provider, _, model = self._name.partition(":")
        check_supported(request, self._capabilities, provider=provider, model=model)
        self.requests.append(request)
        line = self._next(request)
        if timeout is not None and self._delay > timeout:
            await trio.sleep(timeout)
            raise ProviderTimeoutError(
                f"no answer within {timeout:g} s", provider=provider, model=model
            )
        await trio.sleep(self._delay)
        if isinstance(line, Exception):
            raise line
        if isinstance(line, Response):
            return line
        choice = Choice(line) if isinstance(line, str) else line
        said = [choice.text, *(call.arguments for call in choice.tool_calls)]
        inputs = sum(len(message.text.split()) for message in request.messages)
        outputs = sum(len(text.split()) for text in said)
        return Response(
            (choice,) * request.n,
            Usage(inputs, outputs * request.n),
            model,
            f"scripted-{len(self.requests)}",
            self._delay,
        )

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Give the next line in pieces of four characters, after `delay`.

        Raises:
            ScriptEndedError: there is none.
            ProviderTimeoutError: `delay` is longer than `timeout`.
            Exception: the line, when it is one.
        """
        response = await self.complete(request, timeout=timeout)
        deltas: list[Delta] = [
            TextDelta(choice.text[at : at + 4], number)
            for number, choice in enumerate(response.choices)
            for at in range(0, len(choice.text), 4)
        ]

        async def end() -> Sequence[Delta]:
            await trio.lowlevel.checkpoint()
            stream.complete(response)
            return ()

        stream = ResponseStream(deltas, end)
        yield stream

    def _next(self, request: Request) -> ScriptLine:
        if self._rule is not None:
            return self._rule(request)
        try:
            line = next(self._lines)
        except StopIteration:
            raise ScriptEndedError(self._used, request) from None
        self._used += 1
        return line
