"""Faults of model calls: around any LM, or as a plan of the fake provider."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, cast

import trio
from pydantic import SecretStr

from dspex.providers import (
    LM,
    Capabilities,
    Choice,
    ConnectionFailedError,
    Delta,
    Message,
    ProviderTimeoutError,
    Request,
    Response,
    ResponseStream,
    StatusError,
    TextDelta,
)
from dspex.providers.replies import error_of_status
from dspex.providers.streams import StreamingLM
from dspex.testing.fake_actions import (
    Action,
    Answer,
    Drip,
    Exchange,
    Fail,
    Hang,
    ProviderRequest,
    Raw,
    Reset,
    Truncate,
)
from dspex.testing.fake_provider import Plan
from dspex.testing.fault_plan import Fault, FaultPlan, Injected
from dspex.testing.fault_schedule import FaultTally, Schedule

GARBAGE: Final = '<<<garbage injected by a fault plan>>> {"'
_SAYS_WHEN: Final = (429, 503)
_FOREVER: Final = float("inf")


class FaultyLM:
    """Any model, with the `on="model"` faults of a plan; made inside of trio.

    - `fail`: the typed error of `status`; 429 and 503 ask to wait `seconds`
    - `slow`, `drip`: the answer comes `seconds` later
    - `hang`: no answer until the call's timeout
    - `reset`: the call is made, and the connection breaks before its answer is here
    - `truncate`: half of the text, with the finish reason "length"
    - `garbage`: a text that nobody asked for

    A call that is hit is not retried here: put the model inside what retries. A stream
    that is hit comes in pieces of the whole answer. `injected` tells what was done.
    """

    def __init__(self, lm: LM, plan: FaultPlan) -> None:
        self._lm = lm
        self._schedule = Schedule(plan)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._lm.name

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do."""
        return self._lm.capabilities

    @property
    def injected(self) -> list[Injected]:
        """What was done, in order."""
        return self._schedule.injected

    @property
    def tallies(self) -> list[FaultTally]:
        """What became of each fault of a model."""
        found = self._schedule.tallies.values()
        return [it for it in found if it.fault.on == "model"]

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request, unless a fault hits it; see `LM.complete`."""
        fault = self._schedule.meet_target(self.name, "complete", counts=_is_of_model)
        if fault is None:
            return await self._lm.complete(request, timeout=timeout)
        return await self._harmed(fault, request, timeout)

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Stream one answer; see `complete`."""
        fault = self._schedule.meet_target(self.name, "stream", counts=_is_of_model)
        if fault is None:
            inner = cast("StreamingLM", self._lm)
            async with inner.stream(request, timeout=timeout) as stream:
                yield stream
            return
        response = await self._harmed(fault, request, timeout)

        async def end() -> Sequence[Delta]:
            await trio.lowlevel.checkpoint()
            pieces.complete(response)
            return ()

        deltas: list[Delta] = [
            TextDelta(choice.text[at : at + 4], number)
            for number, choice in enumerate(response.choices)
            for at in range(0, len(choice.text), 4)
        ]
        pieces = ResponseStream(deltas, end)
        yield pieces

    async def _harmed(
        self,
        fault: Fault,
        request: Request | str | Sequence[Message],
        timeout: float | None,
    ) -> Response:
        provider, _, model = self.name.partition(":")
        match fault.kind:
            case "fail":
                await trio.lowlevel.checkpoint()
                raise _status_error(fault, provider, model)
            case "slow" | "drip" | "hang":
                wait = fault.seconds if fault.kind != "hang" else _FOREVER
                if timeout is not None and wait >= timeout:
                    await trio.sleep(timeout)
                    raise ProviderTimeoutError(
                        f"no answer within {timeout:g} s (injected)",
                        provider=provider,
                        model=model,
                    )
                await trio.sleep(wait)
                left = None if timeout is None else timeout - wait
                return await self._lm.complete(request, timeout=left)
            case _:
                response = await self._lm.complete(request, timeout=timeout)
                if fault.kind == "reset":
                    raise ConnectionFailedError(
                        "the connection broke before the answer ended (injected)",
                        provider=provider,
                        model=model,
                    )
                return _spoiled(response, fault)


def _is_of_model(fault: Fault) -> bool:
    return fault.on == "model"


def _status_error(fault: Fault, provider: str, model: str) -> StatusError:
    return error_of_status(
        fault.status,
        "injected by a fault plan",
        None,
        _headers(fault),
        provider=provider,
        model=model,
        key=SecretStr(""),
    )


def _headers(fault: Fault) -> dict[str, str]:
    says_when = fault.status in _SAYS_WHEN
    return {"retry-after": f"{fault.seconds:g}"} if says_when else {}


def _spoiled(response: Response, fault: Fault) -> Response:
    def spoil(choice: Choice) -> Choice:
        if fault.kind == "garbage":
            return replace(choice, text=GARBAGE)
        half = choice.text[: len(choice.text) // 2]
        return replace(choice, text=half, finish_reason="length")

    return replace(response, choices=tuple(spoil(it) for it in response.choices))


def faulty_provider(plan: FaultPlan, answers: Plan = ()) -> Plan:
    """Give what a fake provider does: `answers`, with a plan's `on="model"` faults.

    The `target` of a fault is matched with the name of the model that is asked for.
    `drip` spreads the answer over `seconds`; `truncate` closes the connection within
    the answer, `garbage` is a body that is no JSON, `reset` a TCP reset. Call it
    inside of trio.
    """
    schedule = Schedule(plan)
    planned = iter(() if callable(answers) else answers)

    def choose(request: ProviderRequest) -> Action:
        return answers(request) if callable(answers) else next(planned, Answer())

    def act(request: ProviderRequest) -> Action:
        action = choose(request)
        model = str(request.json.get("model", ""))
        fault = schedule.meet_target(model, "complete", counts=_is_of_model)
        return action if fault is None else _harmful(fault, action, request)

    return act


def _harmful(fault: Fault, action: Action, request: ProviderRequest) -> Action:
    answer = action if isinstance(action, Answer) else Answer()
    match fault.kind:
        case "fail":
            message = "injected by a fault plan"
            return Fail(fault.status, message, headers=_headers(fault))
        case "hang":
            return Hang()
        case "reset":
            return Reset()
        case "garbage":
            return Raw(GARBAGE.encode())
        case "truncate":
            return Truncate(answer=answer)
        case "drip":
            size = 16
            pieces = max(1, len(b"".join(answer.pieces(request))) // size)
            return Drip(size, fault.seconds / pieces, answer)
        case _:
            return _Late(action, fault.seconds)


@dataclass(frozen=True, slots=True)
class _Late:
    action: Action
    seconds: float

    async def run(self, request: ProviderRequest, exchange: Exchange) -> bool:
        await exchange.sleep(self.seconds)
        return await self.action.run(request, exchange)
