"""The model that a command line names."""

import os
from typing import Final

from dspex.providers import LM, OpenAI
from dspex.runtime import DspexError

EMBEDDED: Final = "embedded"


class UnknownLMError(DspexError):
    """The command line names no model that there is."""


def read_lm(text: str, *, base_url: str | None, timeout: float) -> LM | None:
    """Give the model of `--lm`; None is the embedded one.

    Raises:
        UnknownLMError: there is no such provider.
        ProviderError: there is no key, or the base URL cannot work.
    """
    provider, _, model = text.partition(":")
    if text == EMBEDDED:
        if base_url is not None:
            raise UnknownLMError(
                f"--base-url {base_url} needs the model to ask there for: "
                "--lm openai:MODEL"
            )
        return None
    if provider != "openai" or not model:
        raise UnknownLMError(
            f"--lm {text!r} names no model: use embedded or openai:MODEL "
            "(with --base-url for another server that speaks OpenAI's API)"
        )
    if base_url is None:
        return OpenAI(model, timeout=timeout)
    # A server of one's own often wants no key.
    key = os.environ.get("OPENAI_API_KEY", "")
    return OpenAI(model, base_url=base_url, api_key=key, timeout=timeout)
