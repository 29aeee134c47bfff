"""What an adapter keeps of a signature may go with an equal signature at any time."""

from dspex.modules.adapters.json import JSONAdapter
from dspex.modules.adapters.schema import output_schema
from dspex.modules.signature import Signature
from dspex.providers import Capabilities, OutputSchema

alive: list[Signature] = []


class Forgetting(Signature):
    """Compared, it drops the equal signature that the schema was made for."""

    def __eq__(self, other: object) -> bool:
        is_equal = super().__eq__(other)
        alive.pop()
        return is_equal

    __hash__ = Signature.__hash__


def schema_of(adapter: JSONAdapter, signature: Signature) -> OutputSchema | None:
    request = adapter.format(
        signature,
        demos=(),
        inputs={"question": "Which?"},
        capabilities=Capabilities(),
    )
    return request.output_schema


def test_a_schema_is_made_again_when_its_signature_goes_during_the_look() -> None:
    adapter = JSONAdapter()
    # It is compared for the frame of the request first, and then for the schema.
    alive.extend([Signature("question -> answer")] * 2)
    first = schema_of(adapter, alive[0])
    assert schema_of(adapter, Forgetting("question -> answer")) == first
    assert not alive


def test_a_schema_is_made_once_for_a_signature_and_a_bound() -> None:
    signature = Signature("question -> answer")
    made = output_schema(signature)
    assert made is output_schema(signature)
    bounded = output_schema(signature, max_string_length=10)
    assert bounded is output_schema(signature, max_string_length=10)
    assert bounded != made
