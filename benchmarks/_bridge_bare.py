"""A process that hosts one dspy.Predict over a bare socket: the floor of a bridge."""

import gc
import os
import socket
import sys
from typing import Any

import msgspec

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import dspy
import dspy.lm15 as lm15

from dspex.runtime.bridge.child_adapters import remember_type_adapters
from dspex.runtime.bridge.child_engine import request_to_json

sock = socket.socket(fileno=int(sys.argv[1]))
encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()


def put(message: Any) -> None:
    body = encoder.encode(message)
    sock.sendall(len(body).to_bytes(4, "big") + body)


def get() -> Any:
    data = sock.recv(1 << 18)
    if not data:
        os._exit(0)
    return decoder.decode(data[4:])


class Home:
    """Asks the other end, and waits in the read."""

    def complete(self, request: Any) -> Any:
        put(request_to_json(request, lm15))
        return lm15.Response(
            id=None,
            model="fake",
            message=lm15.Message.assistant(get()["text"]),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=10, output_tokens=5),
        )


def main() -> None:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(disable_history=True)
    remember_type_adapters()
    gc.freeze()
    predict = dspy.Predict("question -> answer")
    with dspy.context(
        lm=dspy.LM("fake/fake", engine=Home(), cache=False, num_retries=0)
    ):
        while True:
            put(predict(**get()["inputs"]).toDict())


if __name__ == "__main__":
    main()
