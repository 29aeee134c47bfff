from dspex.providers import Attempt, InvalidRequestError, ProviderError, RateLimitError
from dspex.runtime.errors import DspexError


def test_an_error_says_who_what_how_often_and_what_to_do() -> None:
    error = RateLimitError(
        "too many requests",
        provider="openai",
        model="gpt-4o-mini",
        status=429,
        code="rate_limit_exceeded",
        request_id="req_1",
    )
    error.attempts = (Attempt(0.0, 0.1, "429", 0.5), Attempt(0.6, 0.1, "429"))
    assert str(error) == (
        "openai 'gpt-4o-mini': too many requests "
        "(status 429, code rate_limit_exceeded, request req_1) after 2 attempts: "
        "send fewer requests at once, wait, or raise the account's limit"
    )
    assert error.retryable
    assert isinstance(error, ProviderError | DspexError)


def test_a_long_value_is_cut_in_the_message() -> None:
    error = InvalidRequestError("stop", "x" * 1000, "is too long")
    assert len(str(error)) < 130
    assert error.value == "x" * 1000
