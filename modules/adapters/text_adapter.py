"""TextAdapter: what chat, JSON and XML have in common, so that it stands once.

An adapter says how the task is described and how an answer is taken apart; how the
conversation is put together, how a text becomes typed outputs, and how the model is
told what is wrong with its answer is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple
from weakref import WeakKeyDictionary

from dspex.modules.adapters.prompt import (
    demo_messages,
    history_messages,
    input_content,
    with_messages,
)
from dspex.modules.adapters.protocol import Demo, Outputs, Reading
from dspex.modules.adapters.values import UnreadableValueError, read_value
from dspex.modules.errors import AdapterParseError
from dspex.modules.fields import Field
from dspex.modules.signature import Inputs, Signature
from dspex.providers.lm import Capabilities
from dspex.providers.messages import Choice, Message, Request

EMPTY: Final = "the answer is empty"
"""What is wrong with a blank answer."""

NOTHING_FOUND: Final = "nothing-found"
"""The note of an answer that has no output, where all of them may be left out."""


class Frame(NamedTuple):
    """The parts of a prompt that only the signature decides."""

    task: Message
    reminder: str


class TextAdapter(ABC):
    """A task, demos as turns, inputs under their markers, and outputs as text."""

    name: ClassVar[str]
    again: ClassVar[str]
    """What the model is told to do after an answer that cannot be read."""

    def __init__(self) -> None:
        self._frames: WeakKeyDictionary[Signature, Frame] = WeakKeyDictionary()

    @abstractmethod
    def describe_task(self, signature: Signature) -> str:
        """Give the system message: what to do, and in which form to answer."""

    @abstractmethod
    def remind(self, signature: Signature) -> str:
        """Give the last words of the user's message."""

    @abstractmethod
    def write(self, signature: Signature, outputs: Demo) -> str:
        """Give outputs as the model shall write them."""

    @abstractmethod
    def place(self, field: Field) -> str:
        """Name the place where the output is looked for, for error messages."""

    def format(
        self,
        signature: Signature,
        *,
        demos: Sequence[Demo],
        inputs: Inputs,
        capabilities: Capabilities,
    ) -> Request:
        """Give the conversation: the task, the demos as turns, the inputs."""
        frame = self._frames.get(signature)
        if frame is None:
            frame = self._frames[signature] = Frame(
                Message.system(self.describe_task(signature)), self.remind(signature)
            )
        asked = Message.user(input_content(signature, inputs, frame.reminder))
        return Request(
            (
                frame.task,
                *demo_messages(signature, demos, self.write),
                *history_messages(signature, inputs, self.write),
                asked,
            )
        )

    def repair(self, request: Request, choice: Choice, problem: str) -> Request:
        """Give the conversation with the bad answer and what is wrong with it."""
        complaint = f"That answer is not accepted: {problem}\n{self.again}"
        said = [Message.assistant(choice.text)] if choice.text.strip() else []
        return with_messages(
            request, [*request.messages, *said, Message.user(complaint)]
        )

    def read_outputs(
        self,
        signature: Signature,
        text: str,
        found: Mapping[str, object],
        notes: list[str],
    ) -> Reading:
        """Read what was found for the outputs, and fill in what may be left out.

        Raises:
            AdapterParseError: an output is missing or wrong.
        """
        fields = signature.output_fields
        read: Outputs = {}
        for name, value in found.items():
            field = fields.get(name)
            if field is None:
                continue
            try:
                read[name] = self.read_field(field, value, notes)
            except UnreadableValueError as error:
                raise self.error(signature, text, str(error), field=field) from None
        outputs: Outputs = {}
        for name, field in fields.items():
            if name in read:
                outputs[name] = read[name]
            elif field.is_optional:
                outputs[name] = field.get_default()
            else:
                problem = (
                    f"there is no {self.place(field)} in the answer"
                    if text.strip()
                    else EMPTY
                )
                raise self.error(signature, text, problem, field=field)
        if not read:
            notes.append(NOTHING_FOUND)
        return Reading(outputs, tuple(notes))

    def read_field(self, field: Field, value: object, notes: list[str]) -> object:
        """Read one output; what had to be forgiven is added to `notes`.

        Raises:
            UnreadableValueError: it is no value of the type, or breaks a constraint.
        """
        return read_value(field, value, notes)

    def error(
        self,
        signature: Signature,
        text: str,
        problem: str,
        *,
        field: Field | None = None,
    ) -> AdapterParseError:
        """Give the error that says what is wrong with an answer, and where."""
        return AdapterParseError(
            self.name,
            signature.signature,
            problem=problem,
            text=text,
            field=None if field is None else field.name,
            expected=None if field is None else field.type_name,
        )
