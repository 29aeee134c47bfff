"""Anthropic's messages API, and every server that speaks it.

https://platform.claude.com/docs/en/api/messages
"""

import base64
import json
from typing import Final, Literal, TypeAlias

import httpx
import msgspec
from pydantic import SecretStr

from dspex.providers.anthropic_replies import MessageDecoder, decode_message
from dspex.providers.errors import InvalidRequestError, UnsupportedError
from dspex.providers.http_model import DEFAULT_TIMEOUT, HTTPModel
from dspex.providers.keys import read_key
from dspex.providers.limiter import Limiter
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Message, Request
from dspex.providers.parts import FilePart, Part
from dspex.providers.plain_json import JSONObject
from dspex.providers.retries import RetryPolicy
from dspex.providers.streams import Decoded, StreamDecoder

DEFAULT_BASE_URL: Final = "https://api.anthropic.com/v1"
DEFAULT_MAX_TOKENS: Final = 4096
API_VERSION: Final = "2023-06-01"
DEFAULT_CAPABILITIES: Final = Capabilities(
    images=True, files=True, streaming=True, seed=False, max_n=1
)

StructuredOutput: TypeAlias = Literal["format", "tool"]

_DOCUMENTS: Final = ("application/pdf", "text/plain")
_TOOL_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}


class Anthropic(HTTPModel):
    """A model behind Anthropic's messages API.

    `api_key` is read from ANTHROPIC_API_KEY, once, here, when it is not given; pass ""
    for a server that wants none. The API demands a limit for every answer:
    `max_tokens` is used where the request has none. `structured_output` is how an
    output schema is asked for: by the API's own `format`, or, for models without it,
    by a `tool` the model must call. For the rest see `OpenAI`.

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
        max_tokens: int = DEFAULT_MAX_TOKENS,
        structured_output: StructuredOutput = "format",
        limiter: Limiter | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(
            Messages(max_tokens, structured_output),
            model,
            base_url=base_url,
            key=read_key(api_key, variable="ANTHROPIC_API_KEY", provider="anthropic"),
            timeout=timeout,
            retries=RetryPolicy() if retries is None else retries,
            capabilities=capabilities,
            limiter=limiter,
            transport=transport,
            client=client,
        )


class Messages:
    """The dialect of `POST /messages`."""

    def __init__(self, max_tokens: int, structured_output: StructuredOutput) -> None:
        self.provider: Final = "anthropic"
        self.path: Final = "/messages"
        self._max_tokens = max_tokens
        self._structured_output = structured_output

    def headers(self, key: SecretStr) -> dict[str, str]:
        """Give the key, if there is one, and the API's version."""
        secret = key.get_secret_value()
        version = {"anthropic-version": API_VERSION}
        return version | ({"x-api-key": secret} if secret else {})

    def encode(self, model: str, request: Request, *, stream: bool) -> bytes:
        """Write the body.

        Raises:
            InvalidRequestError: it has nothing but system messages, a turn without
                content, or a tool call whose arguments are not JSON.
            UnsupportedError: the API has no way to say it.
        """
        _check(model, request)
        body: JSONObject = {
            "model": model,
            "max_tokens": request.max_tokens or self._max_tokens,
            "messages": _encode_turns(request),
        }
        system = [m.text for m in request.messages if m.role == "system"]
        if system:
            body["system"] = "\n\n".join(system)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.top_p is not None:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        tools = [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.parameters,
            }
            for tool in request.tools
        ]
        choice = request.tool_choice
        if (schema := request.output_schema) is not None:
            if self._structured_output == "format":
                body["output_config"] = {
                    "format": {"type": "json_schema", "schema": schema.schema}
                }
            else:
                what = "Give the answer by calling this tool."
                tools.append(
                    {
                        "name": schema.name,
                        "description": what,
                        "input_schema": schema.schema,
                    }
                )
                choice = schema.name
        if tools:
            body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = (
                {"type": _TOOL_CHOICES[choice]}
                if choice in _TOOL_CHOICES
                else {"type": "tool", "name": choice}
            )
        if stream:
            body["stream"] = True
        body.update(request.extra)
        return msgspec.json.encode(body)

    def decode(self, body: bytes, request: Request) -> Decoded:
        """Read the body of a good reply."""
        return decode_message(body, answer_tool=self._answer_tool(request))

    def stream_decoder(self, request: Request) -> StreamDecoder:
        """Give a decoder for one streamed reply."""
        return MessageDecoder(answer_tool=self._answer_tool(request))

    def _answer_tool(self, request: Request) -> str | None:
        """Name the tool whose arguments are the answer, if that is how it comes."""
        if request.output_schema is None or self._structured_output == "format":
            return None
        return request.output_schema.name


def _check(model: str, request: Request) -> None:
    """Pass what the API can say.

    Raises:
        UnsupportedError: it has no way to say this.
    """
    problem = ""
    if request.temperature is not None and request.temperature > 1:
        problem = f"temperature {request.temperature:g}, and the API takes at most 1"
    for message in request.messages:
        for part in () if isinstance(message.content, str) else message.content:
            if message.role == "system" and part.type != "text":
                problem = f"an {part.type} in a system message"
            elif part.type == "file" and part.media_type not in _DOCUMENTS:
                problem = f"a file of {part.media_type}; it reads {_DOCUMENTS}"
    if problem:
        raise UnsupportedError(
            f"the request has {problem}", provider="anthropic", model=model
        )


def _decoded_text(file: FilePart) -> str:
    try:
        return base64.b64decode(file.data, validate=True).decode()
    except ValueError as error:
        raise InvalidRequestError(
            "file", file, f"is not base64 of UTF-8 text: {error}"
        ) from None


def _encode_turns(request: Request) -> list[JSONObject]:
    """Write the messages; neighbours of one role become one turn."""
    turns: list[JSONObject] = []
    for message in request.messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _encode_blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
        if not turns[-1]["content"]:
            raise InvalidRequestError("messages", message, "has no content")
    if not turns:
        raise InvalidRequestError(
            "messages", request.messages, "has nothing but system messages"
        )
    return turns


def _encode_blocks(message: Message) -> list[JSONObject]:
    content = message.content
    if isinstance(content, str):
        # The API refuses an empty text block.
        blocks: list[JSONObject] = (
            [{"type": "text", "text": content}] if content else []
        )
    else:
        blocks = [_encode_part(part) for part in content]
    if message.role == "tool":
        return [
            {
                "type": "tool_result",
                "tool_use_id": message.tool_call_id,
                "content": blocks,
            }
        ]
    for call in message.tool_calls:
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError as error:
            raise InvalidRequestError(
                f"arguments of tool call {call.id!r}", call.arguments, f"{error}"
            ) from None
        blocks.append(
            {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}
        )
    return blocks


def _encode_part(part: Part) -> JSONObject:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "image" and part.url is not None:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    if part.type == "image":
        return {"type": "image", "source": source}
    if part.media_type == "text/plain":
        source |= {"type": "text", "data": _decoded_text(part)}
    block: JSONObject = {"type": "document", "source": source}
    return block if part.filename is None else block | {"title": part.filename}
