"""Predict: one model call, from typed inputs to typed outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
import trio

from dspex.modules.adapters.choice import choose_adapter
from dspex.modules.adapters.protocol import Adapter, Demo, Reading
from dspex.modules.call import Call, current_call, enter_call
from dspex.modules.errors import (
    AdapterParseError,
    Attempt,
    ConfigError,
    InputError,
    LMNotConfiguredError,
)
from dspex.modules.fields import FieldType
from dspex.modules.module import Module
from dspex.modules.prediction import Prediction
from dspex.modules.signature import Inputs, Signature, SignatureLike, to_signature
from dspex.providers.errors import InvalidRequestError
from dspex.providers.lm import LM
from dspex.providers.messages import Choice, Message, Request, Response, Usage

log = structlog.get_logger(__name__)

SETTINGS: Final = (
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "seed",
    "n",
    "extra",
)

# Several answers at temperature 0 are one answer several times.
_LOWEST_DIVERSE: Final = 0.15
_DIVERSE: Final = 0.7


class Predict(Module):
    """Ask a model for the outputs of a signature, and give them typed.

    `adapter` is an adapter or its name ("chat", "json"); None takes the JSON adapter
    for models that follow a schema, else chat. `demos` are examples, mappings of field
    names to values. `repairs` is how often an answer that cannot be read is shown to
    the model with what is wrong with it. Settings (`temperature`, `top_p`,
    `max_tokens`, `stop`, `seed`, `n`, `extra`) go to the model; None leaves them to it.

    With `strict_inputs=False` inputs that are missing, unknown or of the wrong type are
    only logged, as in dspy.

    Raises:
        SignatureError: the signature is none.
        ConfigError: an unknown adapter or setting.
    """

    def __init__(
        self,
        signature: SignatureLike,
        *,
        lm: LM | None = None,
        adapter: Adapter | str | None = None,
        demos: Sequence[Demo] = (),
        repairs: int = 1,
        strict_inputs: bool = True,
        custom_types: Mapping[str, FieldType] | None = None,
        **settings: object,
    ) -> None:
        self.signature: Signature = to_signature(signature, custom_types=custom_types)
        self.lm = lm
        self.adapter = adapter
        self.demos: tuple[Demo, ...] = tuple(demos)
        self.repairs = repairs
        self.strict_inputs = strict_inputs
        self.settings = check_settings(settings)
        if repairs < 0:
            raise ConfigError("repairs", repairs, "must not be negative")
        if isinstance(adapter, str):
            choose_adapter(adapter, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signature!r})"

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Ask the model and read its answer.

        Raises:
            InputError: the inputs do not fit the signature.
            LMNotConfiguredError: there is no model.
            AdapterParseError: no answer could be read, repairs included.
            ProviderError: the model could not be called.
        """
        call = current_call()
        if call is None:
            with enter_call() as call:
                return await self._predict(call, inputs)
        return await self._predict(call, inputs)

    async def _predict(self, call: Call, inputs: Inputs) -> Prediction:
        checked = self._check_inputs(inputs)
        lm = self.lm or call.lm
        if lm is None:
            raise LMNotConfiguredError(repr(self))
        if call.wrap_lm is not None:
            lm = call.wrap_lm(lm)
        adapter = choose_adapter(self.adapter, lm.capabilities)
        request = replace(
            adapter.format(
                self.signature,
                demos=self.demos,
                inputs=checked,
                capabilities=lm.capabilities,
            ),
            **request_settings(self.settings),
        )
        attempts: list[Attempt] = []
        while True:
            response = await complete(lm, request)
            call.add_usage(response.usage)
            reading = _read(adapter, self.signature, response)
            if not isinstance(reading, _Unreadable):
                break
            attempts.append(reading.attempt(response))
            call.attempts.append(attempts[-1])
            if len(attempts) > self.repairs:
                raise reading.error.after(attempts)
            log.info(
                "answer_unreadable",
                signature=self.signature.signature,
                field=reading.error.field,
                problem=reading.error.problem,
                attempt=len(attempts),
            )
            request = adapter.repair(request, reading.choice, reading.error)
        return Prediction.of(
            [found.outputs for found in reading],
            usage=response.usage,
            model=response.model,
            attempts=attempts,
            notes=[note for found in reading for note in found.notes],
        )

    def _check_inputs(self, inputs: Inputs) -> Inputs:
        try:
            return self.signature.check_inputs(inputs)
        except InputError as error:
            if self.strict_inputs:
                raise
            log.warning("inputs_unfit", problem=str(error))
            defaults = {
                name: field.get_default()
                for name, field in self.signature.input_fields.items()
                if not field.is_required
            }
            return defaults | dict(inputs)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """The answer that could not be read, and why."""

    choice: Choice
    error: AdapterParseError

    def attempt(self, response: Response) -> Attempt:
        return Attempt(
            self.choice.text, str(self.error), response.usage, response.seconds
        )


def _read(
    adapter: Adapter, signature: Signature, response: Response
) -> list[Reading] | _Unreadable:
    readings: list[Reading] = []
    for choice in response.choices:
        try:
            readings.append(adapter.parse(signature, choice))
        except AdapterParseError as error:
            return _Unreadable(choice, _explain(error, choice))
    return readings


def _explain(error: AdapterParseError, choice: Choice) -> AdapterParseError:
    """Say so where the answer is unreadable because it was cut short or refused."""
    if choice.refusal is not None:
        cause = f"the model refused: {choice.refusal}"
    elif choice.finish_reason == "length":
        cause = f"{error.problem}; the answer was cut off, raise max_tokens"
    else:
        return error
    return error.because(cause)


async def complete(lm: LM, request: Request) -> Response:
    """Call the model; more choices than it gives at once are asked for side by side."""
    most = max(1, lm.capabilities.max_n)
    if request.n <= most:
        return await lm.complete(request)
    sizes = [most] * (request.n // most)
    if request.n % most:
        sizes.append(request.n % most)
    responses: list[Response | None] = [None] * len(sizes)

    async def ask(index: int) -> None:
        part = replace(request, n=sizes[index])
        if index and lm.capabilities.seed:
            # Equal requests may be answered from one cache entry.
            part = replace(part, seed=(request.seed or 0) + index)
        responses[index] = await lm.complete(part)

    started = trio.current_time()
    try:
        async with trio.open_nursery() as nursery:
            for index in range(len(sizes)):
                nursery.start_soon(ask, index)
    except BaseExceptionGroup as group:
        # One failed call fails them all; the first failure is the one to tell.
        raise group.exceptions[0] from None
    done = [response for response in responses if response is not None]
    return Response(
        tuple(choice for response in done for choice in response.choices),
        sum((response.usage for response in done), start=Usage()),
        done[0].model,
        done[0].id,
        trio.current_time() - started,
    )


def check_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Give the settings that are set.

    Raises:
        ConfigError: one is unknown or has a value no model takes.
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ConfigError(
                name, value, f"is unknown; there are {', '.join(SETTINGS)}"
            )
    found = {name: value for name, value in settings.items() if value is not None}
    try:
        Request((Message.user(""),), **request_settings(found))
    except InvalidRequestError as error:
        raise ConfigError(error.field, error.value, error.problem) from None
    return found


# Any: the names were checked; Request checks the values.
def request_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Give the settings as fields of a request."""
    found: dict[str, Any] = dict(settings)  # Any: as above
    stop = found.get("stop")
    if stop is not None:
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    several = found.get("n", 1) > 1
    if several and found.get("temperature", 0) <= _LOWEST_DIVERSE:
        found["temperature"] = _DIVERSE
    return found
