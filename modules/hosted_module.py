"""Hosted: a module of the real dspy, or of a user's dspy code, as a module of ours."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, cast

import trio

from dspex.modules.adapters.protocol import Demo
from dspex.modules.call import Call, begin_call, current_call, end_call
from dspex.modules.errors import HostedOutputError, LMNotConfiguredError
from dspex.modules.hosted import ADDED_OUTPUTS
from dspex.modules.hosted_outputs import check_outputs
from dspex.modules.hosted_texts import HostedTexts
from dspex.modules.hosted_values import fields_for_dspy, hosted_tool
from dspex.modules.module import Module
from dspex.modules.prediction import Prediction
from dspex.modules.replayed import can_stream
from dspex.modules.signature import Signature
from dspex.modules.streaming import FieldDelta
from dspex.modules.tools.tool import Tool
from dspex.providers.lm import LM
from dspex.providers.messages import Request, Response
from dspex.providers.streams import StreamingLM, TextDelta
from dspex.runtime import ActorRef
from dspex.runtime.bridge import DspyCall, DspyPool

_PIECES: Final = 256

Piece: TypeAlias = FieldDelta | Prediction
JSONObject: TypeAlias = dict[str, Any]  # Any: JSON


class Hosted(Module):
    """Runs `dspy.NAME` or `package.module:attribute` on a pool, model calls at home.

    `signature` is dspy's string form. Its model calls and the calls of `tools` are made
    here, as those of a native module. `settings` are of the model calls (temperature,
    max_tokens, ...), `config` are the module's own arguments.
    """

    def __init__(
        self,
        module: str,
        signature: str,
        *,
        pool: ActorRef[DspyPool],
        lm: LM | None = None,
        adapter: str | None = None,
        demos: Sequence[Demo] = (),
        tools: Sequence[Tool] = (),
        config: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.module = module
        self.signature = Signature(signature)
        self.lm = lm
        self._pool = pool
        self._text = signature
        self._adapter = adapter
        self._demos = [fields_for_dspy(demo) for demo in demos]
        self._tools = {tool.name: tool for tool in tools}
        self._config = dict(config or {})
        self._settings = dict(settings or {})
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.module!r}, {self._text!r})"

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Run the hosted module.

        Raises:
            InputError: the inputs do not fit the signature.
            LMNotConfiguredError: there is no model.
            CalleeExitedError: its process died, or the pool.
            RemoteError: it raised; a failed model call is its `__cause__`.
            HostedOutputError: it left out an output, or gave one of the wrong type.
            BridgeError: it could not be run, or not in time.
        """
        return await self._run(inputs, None)

    @asynccontextmanager
    async def stream(
        self,
        *,
        lm: LM | None = None,
        **inputs: Any,  # Any: as declared
    ) -> AsyncIterator[AsyncIterator[Piece]]:
        """Run it and give its text outputs while they are written, the prediction last.

        `async with hosted.stream(question=...) as pieces`, then iterate; leaving the
        block ends the run. A model that cannot stream gives its text all at once.

        Raises what `forward` raises, where the pieces are read.
        """
        send, receive = trio.open_memory_channel[Piece | Exception](_PIECES)

        async def work() -> None:
            call, token = begin_call(lm=lm)
            with send:
                try:
                    started = trio.current_time()
                    found = await self._run(inputs, send)
                    seconds = trio.current_time() - started
                    await send.send(found.replace(usage=call.usage, seconds=seconds))
                # Whoever reads the pieces is the caller: it is raised there.
                except Exception as error:  # noqa: BLE001
                    await send.send(error)
                finally:
                    end_call(token)

        problem: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            with receive:
                try:
                    yield _Pieces(receive)
                # The block's own: not to be raised as the group of a nursery.
                except Exception as error:  # noqa: BLE001
                    problem = error
            nursery.cancel_scope.cancel()
        if problem is not None:
            raise problem

    async def _run(
        self,
        inputs: Mapping[str, Any],  # Any: as declared
        heard: "trio.MemorySendChannel[Piece | Exception] | None",
    ) -> Prediction:
        call = current_call()
        lm = self.lm or (None if call is None else call.lm)
        if lm is None:
            raise LMNotConfiguredError(repr(self))
        checked = self.signature.check_inputs(inputs)
        asked = self._to_call(lm, checked, is_streamed=heard is not None)
        told = _Told(asked.stream)
        texts = HostedTexts(told, is_json=asked.adapter == "json")

        async def hear(event: JSONObject) -> None:
            await texts.hear(event)
            for delta in told.take():
                if heard is not None:
                    await heard.send(delta)

        home = (_StreamedHome if can_stream(lm) else _Home)(lm, call)
        result = await self._pool.call(
            DspyPool.run,
            asked,
            home,
            self._call_tool,
            hear,
            timeout=self._timeout + 1,
        )
        for name in self.signature.output_fields:
            if name not in result.outputs:
                gave = ", ".join(result.outputs) or "nothing"
                problem = f"is missing; it gave: {gave}"
                raise HostedOutputError(self.module, name, problem)
        return Prediction(**check_outputs(self.module, self._text, result.outputs))

    def _to_call(
        self,
        lm: LM,
        inputs: Mapping[str, Any],  # Any: as declared
        *,
        is_streamed: bool,
    ) -> DspyCall:
        texts = [
            *ADDED_OUTPUTS.get(self.module, {}),
            *(
                name
                for name, field in self.signature.output_fields.items()
                if field.annotation is str
            ),
        ]
        return DspyCall(
            module=self.module,
            signature=self._text,
            inputs=fields_for_dspy(inputs),
            demos=self._demos,
            tools=[hosted_tool(tool) for tool in self._tools.values()],
            config=self._config,
            lm=self._settings,
            adapter=self._adapter or ("json" if lm.capabilities.json_schema else None),
            json_schema=lm.capabilities.json_schema,
            native_tools=lm.capabilities.tools,
            stream=texts if is_streamed else (),
            timeout=self._timeout,
        )

    async def _call_tool(self, name: str, arguments: JSONObject) -> object:
        return await self._tools[name].run(arguments)


class _Told:
    """Keeps what a run has told of its text until it is given on."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = fields
        self._sources = itertools.count()
        self._told: list[FieldDelta] = []

    def open(self) -> int:
        """Give the number of a new source."""
        return next(self._sources)

    def add(self, source: int, field: str, text: str) -> None:
        """Hear more text of a field."""
        self._told.append(FieldDelta(field, text))

    def take(self) -> list[FieldDelta]:
        """Give what was told since the last time."""
        told, self._told = self._told, []
        return told


class _Home:
    """Makes the model calls of one run."""

    def __init__(self, lm: LM, call: Call | None) -> None:
        self._lm = lm
        self._call = call

    async def __call__(self, request: JSONObject) -> JSONObject:
        """Ask the model."""
        return self._count(await self._lm.complete(Request.from_json(request)))

    def _count(self, response: Response) -> JSONObject:
        if self._call is not None:
            self._call.add_usage(response.usage)
        return response.to_json()


class _StreamedHome(_Home):
    """The same, and gives the text while it comes."""

    async def stream(self, request: JSONObject, tell: Any) -> JSONObject:
        """Ask the model; `tell` hears the pieces of its text."""
        lm = cast(StreamingLM, self._lm)
        async with lm.stream(Request.from_json(request)) as deltas:
            async for delta in deltas:
                if isinstance(delta, TextDelta):
                    tell(delta.text)
            return self._count(deltas.response)


class _Pieces:
    """What has come so far, and the error that ended it."""

    def __init__(self, receive: "trio.MemoryReceiveChannel[Piece | Exception]") -> None:
        self._receive = receive

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> Piece:
        piece = await self._receive.__anext__()
        if isinstance(piece, Exception):
            raise piece
        return piece
