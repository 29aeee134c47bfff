"""One dspy.Predict in a process of its own, without a bridge around it.

`FD`: over a bare socket, the floor of a bridge. `alone CALLS PAUSE`: by itself, as dspy
comes; it prints the seconds of each call.
"""

import gc
import json
import os
import socket
import sys
import time
from typing import Any

import msgspec

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import dspy
import dspy.lm15 as lm15

from dspex.runtime.bridge.child_engine import request_to_json
from dspex.runtime.bridge.child_shortcuts import take_shortcuts

TEXT = "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]\n"
encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()


class Fake:
    """Answers at once."""

    def complete(self, request: Any) -> Any:
        return answer(TEXT)


class Home:
    """Asks the other end, and waits in the read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def put(self, message: Any) -> None:
        body = encoder.encode(message)
        self._sock.sendall(len(body).to_bytes(4, "big") + body)

    def get(self) -> Any:
        data = self._sock.recv(1 << 18)
        if not data:
            os._exit(0)
        return decoder.decode(data[4:])

    def complete(self, request: Any) -> Any:
        self.put(request_to_json(request, lm15))
        return answer(self.get()["text"])


def answer(text: str) -> Any:
    return lm15.Response(
        id=None,
        model="fake",
        message=lm15.Message.assistant(text),
        finish_reason="stop",
        usage=lm15.Usage(input_tokens=10, output_tokens=5),
    )


def main() -> None:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(disable_history=True)
    predict = dspy.Predict("question -> answer")
    gc.freeze()
    if sys.argv[1] == "alone":
        calls, pause = int(sys.argv[2]), float(sys.argv[3])
        with dspy.context(lm=model(Fake())):
            print(json.dumps([seconds(predict, pause) for _ in range(calls)]))
        return
    take_shortcuts()
    home = Home(socket.socket(fileno=int(sys.argv[1])))
    with dspy.context(lm=model(home)):
        while True:
            home.put(predict(**home.get()["inputs"]).toDict())


def model(engine: Any) -> Any:
    return dspy.LM("fake/fake", engine=engine, cache=False, num_retries=0)


def seconds(predict: Any, pause: float) -> float:
    if pause:
        time.sleep(pause)
    began = time.perf_counter()
    predict(question="What is the capital of France?")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
