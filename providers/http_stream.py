"""One streamed reply: chunks of bytes in, deltas out, failures typed."""

from collections.abc import Sequence
from typing import Final

import msgspec
import trio
from pydantic import SecretStr

from dspex.providers.errors import (
    MalformedResponseError,
    PartialResponseError,
    ProviderError,
    ProviderTimeoutError,
)
from dspex.providers.exchange import ExchangeError, ReplyStream
from dspex.providers.keys import redact
from dspex.providers.limiter import Permit
from dspex.providers.replies import error_of_status
from dspex.providers.sse import EventParser, EventTooLongError
from dspex.providers.streams import Delta, StreamDecoder, StreamFailedError

# A server that fails inside a stream has no status left to tell it with.
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


class HTTPStream:
    """Reads one reply; `first` holds the deltas it began with."""

    def __init__(
        self,
        reply: ReplyStream,
        decoder: StreamDecoder,
        *,
        provider: str,
        model: str,
        key: SecretStr,
        permit: Permit | None,
    ) -> None:
        self.decoder = decoder
        self.first: Sequence[Delta] = ()
        self._reply = reply
        self._parser = EventParser()
        self._provider = provider
        self._model = model
        self._key = key
        self._permit = permit

    async def begin(self) -> None:
        """Read up to the first delta, or to the end of an empty answer.

        Raises:
            ExchangeError: the connection broke.
            ProviderError: the server failed, or sent rubbish.
        """
        self.first = await self._read()

    async def more(self, *, deadline: float, seconds: float) -> Sequence[Delta]:
        """Give the next deltas; none at the end of the answer.

        `seconds` is the call's timeout, which ends at `deadline`.

        Raises:
            PartialResponseError: for any reason why there are no more.
        """
        problem = f"it had not ended within {seconds:g} s"
        remedy: str | None = ProviderTimeoutError.remedy
        with trio.move_on_at(deadline):
            try:
                return await self._read()
            except ExchangeError as error:
                problem, remedy = redact(str(error), self._key), None
            except ProviderError as error:
                problem, remedy = error.problem, None
        choices = self.decoder.result().choices
        raise PartialResponseError(
            problem,
            provider=self._provider,
            model=self._model,
            partial=choices[0].text if choices else "",
            remedy=remedy,
        )

    async def _read(self) -> Sequence[Delta]:
        while (deltas := self._feed(await self._reply.next_chunk())) is not None:
            if deltas:
                return deltas
        if not self.decoder.is_complete or not self.decoder.result().choices:
            raise ExchangeError("the stream ended before the answer did")
        if self._permit is not None:
            self._permit.settle(self.decoder.result().usage.total_tokens)
        return ()

    def _feed(self, chunk: bytes) -> Sequence[Delta] | None:
        """Give what a chunk adds; None for the empty one at the end."""
        failure: ProviderError
        try:
            return self._deltas(chunk) if chunk else None
        except StreamFailedError as error:
            failure = error_of_status(
                _STATUS.get(error.code or "", 500),
                str(error),
                error.code,
                self._reply.headers,
                provider=self._provider,
                model=self._model,
                key=self._key,
            )
        except (msgspec.DecodeError, EventTooLongError, UnicodeDecodeError) as error:
            failure = MalformedResponseError(
                f"an event is wrong: {redact(str(error), self._key)}",
                provider=self._provider,
                model=self._model,
                status=self._reply.status,
            )
        # A server may echo the key: no frame of the traceback holds what it said.
        del chunk
        raise failure

    def _deltas(self, chunk: bytes) -> Sequence[Delta]:
        deltas: list[Delta] = []
        for event in self._parser.feed(chunk):
            deltas.extend(self.decoder.feed(event))
        return deltas
