"""OpenAI's chat completions, and every server that speaks them.

https://platform.openai.com/docs/api-reference/chat
"""

from typing import Any, Final, Literal, TypeAlias

import httpx
import msgspec
from pydantic import SecretStr

from dspex.providers.http_model import DEFAULT_TIMEOUT, HTTPModel
from dspex.providers.keys import read_key
from dspex.providers.limiter import Limiter
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Message, Request
from dspex.providers.openai_replies import ChunkDecoder, decode_reply
from dspex.providers.parts import Part
from dspex.providers.plain_json import JSONObject
from dspex.providers.retries import RetryPolicy
from dspex.providers.streams import Decoded, StreamDecoder

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
DEFAULT_CAPABILITIES: Final = Capabilities(
    images=True, files=True, streaming=True, max_n=128
)

MaxTokensField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]


class OpenAI(HTTPModel):
    """A model behind OpenAI's chat completions API.

    `api_key` is read from OPENAI_API_KEY, once, here, when it is not given; pass ""
    for a server that wants none. `timeout` is the seconds a whole call may take, all
    attempts included. `max_tokens_field` is how the server calls that limit: by
    default `max_completion_tokens` at OpenAI, `max_tokens` elsewhere. The `limiter` is
    asked before each attempt. A `transport` (such as a `Transport` that several models
    share) or a `client` that is passed in stays the caller's to close.

    Raises:
        MissingKeyError: there is no key.
        ConfigurationError: `base_url` or the key cannot work.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = DEFAULT_BASE_URL,
        api_key: SecretStr | str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: RetryPolicy | None = None,
        capabilities: Capabilities = DEFAULT_CAPABILITIES,
        max_tokens_field: MaxTokensField | None = None,
        limiter: Limiter | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        if max_tokens_field is None:
            at_openai = base_url.rstrip("/") == DEFAULT_BASE_URL
            max_tokens_field = "max_completion_tokens" if at_openai else "max_tokens"
        super().__init__(
            ChatCompletions(max_tokens_field),
            model,
            base_url=base_url,
            key=read_key(api_key, variable="OPENAI_API_KEY", provider="openai"),
            timeout=timeout,
            retries=RetryPolicy() if retries is None else retries,
            capabilities=capabilities,
            limiter=limiter,
            transport=transport,
            client=client,
        )


class ChatCompletions:
    """The dialect of `POST /chat/completions`."""

    def __init__(
        self,
        max_tokens_field: MaxTokensField = "max_tokens",
        *,
        provider: str = "openai",
    ) -> None:
        self.provider: Final = provider
        self.path: Final = "/chat/completions"
        self._max_tokens_field = max_tokens_field

    def headers(self, key: SecretStr) -> dict[str, str]:
        """Give the bearer token, if there is a key."""
        secret = key.get_secret_value()
        return {"authorization": f"Bearer {secret}"} if secret else {}

    def encode(self, model: str, request: Request, *, stream: bool) -> bytes:
        """Write the body."""
        body: JSONObject = {
            "model": model,
            "messages": [_encode_message(message) for message in request.messages],
        }
        if request.output_schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": request.output_schema.to_json(),
            }
        if request.tools:
            body["tools"] = [
                {"type": "function", "function": tool.to_json()}
                for tool in request.tools
            ]
        if (choice := request.tool_choice) is not None:
            named = choice not in ("auto", "none", "required")
            body["tool_choice"] = (
                {"type": "function", "function": {"name": choice}} if named else choice
            )
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.top_p is not None:
            body["top_p"] = request.top_p
        if request.max_tokens is not None:
            body[self._max_tokens_field] = request.max_tokens
        if request.stop:
            body["stop"] = list(request.stop)
        if request.seed is not None:
            body["seed"] = request.seed
        if request.n != 1:
            body["n"] = request.n
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        body.update(request.extra)
        return msgspec.json.encode(body)

    def decode(self, body: bytes, request: Request) -> Decoded:
        """Read the body of a good reply."""
        return decode_reply(body)

    def stream_decoder(self, request: Request) -> StreamDecoder:
        """Give a decoder for one streamed reply."""
        return ChunkDecoder(request.n)


def _encode_message(message: Message) -> JSONObject:
    content = message.content
    encoded: JSONObject = {
        "role": message.role,
        "content": content
        if isinstance(content, str)
        else [_encode_part(part) for part in content],
    }
    if message.tool_calls:
        encoded["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
        encoded["content"] = encoded["content"] or None
    if message.tool_call_id is not None:
        encoded["tool_call_id"] = message.tool_call_id
    return encoded


def _encode_part(part: Part) -> dict[str, Any]:  # Any: JSON
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "image":
        url = part.url or f"data:{part.media_type};base64,{part.data}"
        image = (
            {"url": url} if part.detail is None else {"url": url, "detail": part.detail}
        )
        return {"type": "image_url", "image_url": image}
    file = {"file_data": f"data:{part.media_type};base64,{part.data}"}
    if part.filename is not None:
        file["filename"] = part.filename
    return {"type": "file", "file": file}
