"""Inputs that are not text: images, and the conversation so far."""

import base64
import mimetypes
from pathlib import Path
from typing import Any, Self

import pydantic

from dspex.providers.parts import ImagePart


class Image(pydantic.BaseModel):
    """An image for a model that can see: by URL, or as base64 data.

    A plain string stands for a URL wherever an image is expected.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", defer_build=True)

    url: str | None = None
    data: str | None = None
    media_type: str | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read an image file; its type is told by its name.

        Raises:
            OSError: it cannot be read.
            ValueError: its name does not tell an image type.
        """
        media_type = mimetypes.guess_type(str(path))[0]
        if media_type is None or not media_type.startswith("image/"):
            raise ValueError(f"{str(path)!r} does not end like an image file")
        return cls.from_bytes(Path(path).read_bytes(), media_type=media_type)

    @classmethod
    def from_bytes(cls, data: bytes, *, media_type: str) -> Self:
        """Take the bytes of an image."""
        return cls(data=base64.b64encode(data).decode(), media_type=media_type)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:  # Any: before validation
        return {"url": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("an image needs either url or data")
        if self.data is not None and self.media_type is None:
            raise ValueError("an image with data needs its media_type")
        return self

    def to_part(self) -> ImagePart:
        """Give it as a part of a message."""
        return ImagePart(url=self.url, data=self.data, media_type=self.media_type)


class History(pydantic.BaseModel):
    """The conversation so far: for each turn the fields of the signature.

    An input of this type becomes turns before the question, and no text of its own.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", defer_build=True)

    # Any: a turn's values have the types of the signature's fields.
    messages: list[dict[str, Any]]
