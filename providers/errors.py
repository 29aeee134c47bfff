"""Errors of model calls.

ProviderError                     a model call has no answer
├── InvalidRequestError           nothing was sent: a value in the request is wrong
├── UnsupportedError              nothing was sent: this provider cannot do that
├── ConfigurationError            the client itself cannot work
│   ├── MissingKeyError           no API key
│   └── MissingPackageError       an optional package or model file is not installed
├── ConnectionFailedError         no connection, or it broke before the answer ended
├── ProviderTimeoutError          the deadline passed first
├── StatusError                   the provider answered with an error status
│   ├── BadRequestError           400, 422: it does not accept the request
│   │   └── ContextLengthError    the prompt does not fit the model
│   ├── AuthenticationError       401: it does not accept the key
│   ├── PermissionDeniedError     403: the key may not do this
│   ├── NotFoundError             404: no such model or path
│   ├── RateLimitError            429: too many requests, or no quota left
│   └── ServerError               408, 409, 5xx: it failed, and may not next time
├── MalformedResponseError        the body is not what the API promises
├── PartialResponseError          a stream broke off after its first token
├── LimitExceededError            nothing was sent: a limiter refused it
├── BudgetExceededError           nothing was sent: a budget is used up
├── BreakerOpenError              nothing was sent: the model failed too often lately
├── AllModelsFailedError          no model of an ordered list gave an answer
├── ModelUnavailableError         the embedded model is down and did not come back
└── ModelServerError              its process could not start, died or hung

Every error says on which provider and model, after which attempts, and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dspex.runtime.errors import DspexError


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed try of a call: when it started, how long it took, why it failed.

    `started` and `seconds` are seconds; `started` counts from the first attempt.
    `waited` is the pause that followed, 0.0 after the last.
    """

    started: float
    seconds: float
    reason: str
    waited: float = 0.0


class ProviderError(DspexError):
    """A model call has no answer; the attributes say all that is known about why.

    `retryable` tells whether the same request may succeed later. `attempts` lists
    every try that was made, the last one included. `retry_after` is how many seconds
    the provider asks to wait.
    """

    retryable: bool = False
    remedy: ClassVar[str] = ""

    def __init__(
        self,
        problem: str,
        *,
        provider: str,
        model: str | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem)
        if retryable is not None:
            self.retryable = retryable
        self.problem = problem
        self.provider = provider
        self.model = model
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.what_to_do = self.remedy if remedy is None else remedy
        self.attempts: Sequence[Attempt] = ()

    def __str__(self) -> str:
        """One line: who, what, after how many attempts, what to do."""
        who = self.provider if self.model is None else f"{self.provider} {self.model!r}"
        facts = [
            f"{label} {value}"
            for label, value in (
                ("status", self.status),
                ("code", self.code),
                ("request", self.request_id),
            )
            if value is not None
        ]
        text = f"{who}: {self.problem}"
        if facts:
            text += f" ({', '.join(facts)})"
        if len(self.attempts) > 1:
            text += f" after {len(self.attempts)} attempts"
        return f"{text}: {self.what_to_do}" if self.what_to_do else text


class InvalidRequestError(ProviderError):
    """The request has a wrong value in `field`; nothing was sent."""

    def __init__(
        self, field: str, value: object, problem: str, *, provider: str = "request"
    ) -> None:
        super().__init__(f"{field} = {_short(value)} {problem}", provider=provider)
        self.field = field
        self.value = value


class UnsupportedError(ProviderError):
    """The provider or model cannot do what the request asks; nothing was sent."""

    remedy = "leave it out, or use a model that can"


class ConfigurationError(ProviderError):
    """The client cannot work as it is configured."""


class MissingKeyError(ConfigurationError):
    """There is no API key."""


class MissingPackageError(ConfigurationError):
    """A package that this client needs is not installed."""


class ConnectionFailedError(ProviderError):
    """There is no connection to the provider, or it broke before the answer ended."""

    retryable = True
    remedy = "check that the server runs and that base_url is right"


class ProviderTimeoutError(ProviderError):
    """The call's deadline passed before it had an answer.

    `is_limited` tells that it passed while a limiter let the call wait: that says
    nothing about the provider.
    """

    retryable = True
    is_limited = False
    remedy = "give it a longer timeout, or send it less at once"


class StatusError(ProviderError):
    """The provider answered with an error status."""


class BadRequestError(StatusError):
    """The provider does not accept the request (400, 422)."""

    remedy = "correct the request; sending it again gives the same answer"


class ContextLengthError(BadRequestError):
    """The prompt, with room for the answer, does not fit the model's context."""

    remedy = "shorten the prompt or its demos, or use a model with a larger context"


class AuthenticationError(StatusError):
    """The provider does not accept the API key (401)."""

    remedy = "check api_key and base_url"


class PermissionDeniedError(StatusError):
    """The API key may not do this (403)."""

    remedy = "use a key or project that has access to this model"


class NotFoundError(StatusError):
    """The provider knows no such model or path (404)."""

    remedy = "check the model's name and base_url"


class RateLimitError(StatusError):
    """The provider has had too many requests, or the quota is spent (429)."""

    retryable = True
    remedy = "send fewer requests at once, wait, or raise the account's limit"


class ServerError(StatusError):
    """The provider failed (408, 409, 5xx); the same request may succeed later."""

    retryable = True
    remedy = "try again later, or fall back to another model"


class MalformedResponseError(ProviderError):
    """The body is not what the API promises: not JSON, cut short, or another shape."""

    retryable = True
    remedy = "check that base_url is an API of this kind, not a proxy or a web page"


class PartialResponseError(ProviderError):
    """A streamed answer broke off after its beginning had been handed out.

    `partial` is the text that came, of the first choice. It was not retried, for the
    reader has seen it.
    """

    remedy = "start the call again, or use what came"

    def __init__(
        self,
        problem: str,
        *,
        provider: str,
        model: str,
        partial: str,
        remedy: str | None = None,
    ) -> None:
        super().__init__(
            f"the answer broke off: {problem}",
            provider=provider,
            model=model,
            remedy=remedy,
        )
        self.partial = partial


class LimitExceededError(ProviderError):
    """A limiter did not let the request wait, or too many wait already."""

    remedy = "try again later, wait longer, or raise the limits"


class BudgetExceededError(ProviderError):
    """A budget of requests, tokens or cost is used up."""

    remedy = "give the run a larger budget, or a program that asks for less"


class BreakerOpenError(ProviderError):
    """The model failed so often lately that it is left alone for a while.

    `retry_after` is how many seconds are left of that.
    """

    remedy = "wait, or fall back to another model"


class AllModelsFailedError(ProviderError):
    """No model of an ordered list gave an answer; `errors` holds each one's reason."""

    def __init__(self, errors: Sequence[ProviderError]) -> None:
        reasons = "; ".join(str(error) for error in errors)
        super().__init__(f"every model failed: {reasons}", provider="fallback")
        self.errors = errors
        self.retryable = any(error.retryable for error in errors)


class ModelUnavailableError(ProviderError):
    """The embedded model is down and did not come back in time."""

    retryable = True
    remedy = "read its supervisor's log for why it died"


class ModelServerError(ProviderError):
    """The process of the embedded model could not start, died or does not answer.

    `returncode` is its exit status, minus the signal number, or None while it runs;
    `stderr` holds its last lines.
    """

    def __init__(
        self,
        problem: str,
        *,
        model: str,
        returncode: int | None = None,
        stderr: Sequence[str] = (),
    ) -> None:
        if stderr:
            problem = f"{problem}; its last words: {stderr[-1]!r}"
        super().__init__(problem, provider="embedded", model=model)
        self.returncode = returncode
        self.stderr = stderr


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
