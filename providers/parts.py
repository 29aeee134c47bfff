"""What a message is made of, where text is not enough: text, images and files."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from dspex.providers.errors import InvalidRequestError
from dspex.providers.plain_json import FromJSON, JSONObject


@dataclass(frozen=True, slots=True)
class TextPart(FromJSON):
    """Text in a message of several parts."""

    text: str
    type: Literal["text"] = field(default="text", kw_only=True)

    def to_json(self) -> JSONObject:
        """Give the part as plain JSON."""
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class ImagePart(FromJSON):
    """An image, by `url` or as base64 `data` with its `media_type`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    type: Literal["image"] = field(default="image", kw_only=True)

    def __post_init__(self) -> None:
        if (self.url is None) == (self.data is None):
            raise InvalidRequestError("image", self, "needs either url or data")
        if self.data is not None and self.media_type is None:
            raise InvalidRequestError("image", self, "needs media_type with its data")

    def to_json(self) -> JSONObject:
        """Give the part as plain JSON."""
        return {
            "type": "image",
            "url": self.url,
            "data": self.data,
            "media_type": self.media_type,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class FilePart(FromJSON):
    """A file as base64 `data`, with its `media_type` and `filename`."""

    data: str
    media_type: str
    filename: str | None = None
    type: Literal["file"] = field(default="file", kw_only=True)

    def to_json(self) -> JSONObject:
        """Give the part as plain JSON."""
        return {
            "type": "file",
            "data": self.data,
            "media_type": self.media_type,
            "filename": self.filename,
        }


Part: TypeAlias = TextPart | ImagePart | FilePart
Content: TypeAlias = str | tuple[Annotated[Part, Field(discriminator="type")], ...]
