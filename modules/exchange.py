"""An exchange with a model: a request, its answer read, and repaired if need be."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.protocol import Adapter, Reading
from dspex.modules.adapters.text_adapter import NOTHING_FOUND
from dspex.modules.call import Answer, Call
from dspex.modules.errors import AdapterParseError, Attempt
from dspex.modules.prediction import NO_USAGE, Prediction, add_usage
from dspex.modules.replayed import Replayed
from dspex.modules.run_lm import RunEffects, RunLM, is_kept
from dspex.modules.signature import Signature
from dspex.modules.streaming import FieldHearer, choose_splitter
from dspex.providers.lm import LM
from dspex.providers.messages import Choice, Request, Response, Usage
from dspex.runtime.engine import StepText
from dspex.runtime.log import get_logger

log = get_logger()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Asks one model by one adapter for the outputs of one signature."""

    call: Call
    lm: LM
    adapter: Adapter
    signature: Signature

    async def ask(self, request: Request, *, repairs: int) -> Answer:
        """Ask, read the answer, and show the model what is wrong with it.

        Raises:
            AdapterParseError: no answer could be read, `repairs` included.
            ProviderError: the model could not be called.
        """
        attempts: list[Attempt] = []
        usage = NO_USAGE
        while True:
            response = await self.complete(request)
            usage = add_usage(usage, response.usage)
            read = self._read(response, again=bool(attempts))
            if isinstance(read, _Unreadable):
                attempts.append(read.attempt(response))
                if len(attempts) > repairs:
                    raise read.error.after(attempts)
                log.info(
                    "answer_unreadable",
                    signature=self.signature.signature,
                    field=read.error.field,
                    problem=read.error.problem,
                    attempt=len(attempts),
                )
                request = self.adapter.repair(
                    request, read.choice, read.error.complaint
                )
                continue
            seconds = response.seconds
            for attempt in attempts:
                seconds += attempt.seconds
            notes = read[0].notes
            if len(read) > 1:
                notes = tuple(note for found in read for note in found.notes)
            prediction = Prediction.of(
                [found.outputs for found in read],
                usage=usage,
                seconds=seconds,
                trace_id=self.call.trace_id,
                model=response.model,
                attempts=attempts,
                notes=notes,
            )
            return Answer(prediction, response.choices[0])

    async def complete(self, request: Request) -> Response:
        """Call the model and count what it took; once, where the run keeps a journal.

        More choices than the model gives at once are asked for side by side.

        Raises:
            ProviderError: it could not be called.
        """
        if request.n > max(1, self.lm.capabilities.max_n):
            response = await self._complete_all(split_choices(self.lm, request))
        elif self.call.effects is None:
            response = await self.lm.complete(request)
        else:
            response = await self._complete_one(request)
        self.call.add_usage(response.usage)
        return response

    async def complete_once(self, request: Request) -> Response:
        """Call the model, unless this run has had the answer in an earlier pass.

        Raises:
            ProviderError: it could not be called.
        """
        memory = self.call.memory
        effect = (memory.key((self.lm.name, request)), 0)
        found = memory.finished.get(effect)
        if isinstance(found, Response):
            self.call.add_usage(found.usage, remembered=True)
            return found
        response = await self.complete(request)
        memory.finished[effect] = response
        return response

    async def _complete_one(
        self, request: Request, *, is_part: bool = False
    ) -> Response:
        effects = self.call.effects
        if (
            isinstance(effects, RunEffects)
            and effects.texts is not None
            and not is_part
        ):
            hearer = self._hearer(request, effects.texts)
            if hearer is not None:
                return await effects.complete_heard(self.lm, request, hearer)
        if effects is None or is_kept(self.lm) or isinstance(self.lm, Replayed):
            return await self.lm.complete(request)
        if isinstance(effects, RunEffects):
            return await effects.complete(self.lm, request)
        fingerprint = f"{self.lm.name} {request.fingerprint()}"
        return await effects.perform(fingerprint, lambda: self.lm.complete(request))

    def _hearer(self, request: Request, texts: StepText) -> FieldHearer | None:
        """Give what hears the answer's fields; None: they are not told apart."""
        if request.n > 1 or isinstance(self.lm, Replayed):
            return None
        if is_kept(self.lm) and not isinstance(self.lm, RunLM):
            return None  # it asks the step's model in its own way
        splitter = choose_splitter(self.adapter, self.signature)
        return None if splitter is None else FieldHearer(splitter, texts)

    async def _complete_all(self, requests: Sequence[Request]) -> Response:
        responses: list[Response | None] = [None] * len(requests)

        async def ask(index: int) -> None:
            responses[index] = await self._complete_one(requests[index], is_part=True)

        started = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                for index in range(len(requests)):
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

    def _read(
        self, response: Response, *, again: bool
    ) -> "list[Reading] | _Unreadable":
        readings: list[Reading] = []
        for choice in response.choices:
            try:
                readings.append(self._read_choice(choice, again=again))
            except AdapterParseError as error:
                return _Unreadable(choice, _explain(error, choice))
        return readings

    def _read_choice(self, choice: Choice, *, again: bool) -> Reading:
        """Read one choice; asked to mend its answer, a model may have changed its form.

        Raises:
            AdapterParseError: an output is missing or wrong, in either form.
        """
        try:
            reading = self.adapter.parse(self.signature, choice)
        except AdapterParseError:
            # So may an object say, as in dspy: that all outputs are left out.
            if again:
                with suppress(AdapterParseError):
                    return JSONAdapter().parse(self.signature, choice)
            raise
        if not again or NOTHING_FOUND not in reading.notes:
            return reading
        try:
            return JSONAdapter().parse(self.signature, choice)
        except AdapterParseError as error:
            if error.field is not None:
                # It is there, and wrong: it has not been left out.
                raise
            return reading


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """The answer that could not be read, and why."""

    choice: Choice
    error: AdapterParseError

    def attempt(self, response: Response) -> Attempt:
        return Attempt(
            self.choice.text, str(self.error), response.usage, response.seconds
        )


def split_choices(lm: LM, request: Request) -> list[Request]:
    """Split a request for several choices into those that the model takes.

    They differ by their seed where the model has one: equal requests may be answered
    from one cache entry.
    """
    most = max(1, lm.capabilities.max_n)
    if request.n <= most:
        return [request]
    sizes = [most] * (request.n // most)
    if request.n % most:
        sizes.append(request.n % most)
    first = request.seed or 0
    return [
        replace(
            request,
            n=size,
            seed=first + index if index and lm.capabilities.seed else request.seed,
        )
        for index, size in enumerate(sizes)
    ]


def _explain(error: AdapterParseError, choice: Choice) -> AdapterParseError:
    """Say so where the answer is unreadable because it was cut short or refused."""
    if choice.refusal is not None:
        return error.because(f"the model refused: {choice.refusal}")
    if choice.finish_reason == "length":
        cut = f"{error.problem}; the answer was cut off, raise max_tokens"
        return error.because(cut)
    return error
