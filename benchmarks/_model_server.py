"""A chat completions server that is fast enough not to be what is measured.

`python -m benchmarks._model_server SECONDS`: prints its port, then answers every
request after so many seconds, until its stdin closes. With `"stream": true` it sends
20 chunks, the first after the delay; each tells the clock (`time.monotonic`) at which
it was sent.
"""

import asyncio
import json
import sys
import time

ANSWER = json.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]\n",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 12,
            "total_tokens": 132,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }
).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
STREAM_CHUNKS = 20


class ModelServer(asyncio.Protocol):
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.index(b"content-length:") + 15
            length = int(head[at:].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            answer = self._stream if b'"stream":true' in body else self._answer
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, answer)
            else:
                answer()

    def _answer(self) -> None:
        self._transport.write(REPLY)

    def _stream(self) -> None:
        self._transport.write(STREAM_HEAD)
        for _ in range(STREAM_CHUNKS):
            text = f"{time.monotonic()} "
            event = {"choices": [{"index": 0, "delta": {"content": text}}]}
            data = b"data: " + json.dumps(event).encode() + b"\n\n"
            self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def main() -> None:
    loop = asyncio.get_running_loop()
    delay = float(sys.argv[1])
    server = await loop.create_server(
        lambda: ModelServer(delay), "127.0.0.1", 0, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
