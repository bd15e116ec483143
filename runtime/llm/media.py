"""Pictures and sound in a chat's messages: their form, what they need of a model, how much they are. Pure.

A message's content may be a list of parts, in OpenAI's form:

    {"type": "text", "text": "What is this?"}
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,...", "detail": "low"}}
    {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}

They go to the provider as they came. Nobody here looks into them: how many tokens they are at most
follows from their number and their size (see `Media`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

Sense = Literal["vision", "audio"]
"""What a model has to be able to do for a part."""
SLOWEST = {"wav": 8_000, "mp3": 1_000}
"""Bytes a second that no sound has fewer of: 8 kHz with 8 bits in one channel, and 8 kbit/s."""
USUAL_IMAGE, USUAL_SECOND = 1_000, 10
"""Tokens of a picture and of a second of sound with most models: to judge whether a prompt fits."""


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class TextPart(_Form):
    """Text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Form):
    """Where a picture is, or itself as a `data:` URL."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Form):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Sound(_Form):
    """Sound in base64."""

    data: str = Field(min_length=1)
    format: Literal["wav", "mp3"]


class SoundPart(_Form):
    """Sound."""

    type: Literal["input_audio"]
    input_audio: Sound


Part = Annotated[TextPart | ImagePart | SoundPart, Field(discriminator="type")]
_SENSES: Mapping[str, Sense] = {"image_url": "vision", "input_audio": "audio"}


@dataclass(frozen=True, slots=True)
class Media:
    """All pictures and sound of a request.

    Attributes:
        images: their number.
        seconds: of sound, at most.
        elsewhere: whether a picture is only named by its address, and so may change.
        at: the first part that needs a sense, such as `messages.0.content.1.image_url`.
    """

    images: int = 0
    seconds: float = 0.0
    elsewhere: bool = False
    at: Mapping[Sense, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.at)

    def usual_tokens(self) -> int:
        """What it is with most models."""
        return self.images * USUAL_IMAGE + int(self.seconds * USUAL_SECOND)


NOTHING = Media()


class _HasParts(Protocol):
    @property
    def parts(self) -> tuple[TextPart | ImagePart | SoundPart, ...] | None: ...


def media_of(messages: Iterable[_HasParts]) -> Media:
    """Pictures and sound of all messages."""
    images, seconds, elsewhere = 0, 0.0, False
    at: dict[Sense, str] = {}
    for number, message in enumerate(messages):
        for place, part in enumerate(message.parts or ()):
            if isinstance(part, TextPart):
                continue
            at.setdefault(_SENSES[part.type], f"messages.{number}.content.{place}.{part.type}")
            if isinstance(part, ImagePart):
                images += 1
                elsewhere = elsewhere or not part.image_url.url.startswith("data:")
            else:
                sound = part.input_audio
                seconds += len(sound.data) * 3 / 4 / SLOWEST[sound.format]
    return Media(images, seconds, elsewhere, at) if at else NOTHING


def taken_apart(given: Any) -> Any:
    """A message as it was sent, with what its parts say as text beside the parts.

    Parts that are all text are one text: that is what every model understands.
    """
    content = given.get("content") if isinstance(given, dict) else None
    if isinstance(given, dict) and PARTS in given:
        raise ValueError(f"{PARTS} is no field")
    if not isinstance(content, list):
        return given
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if all(isinstance(text, str) for text in texts):
        return {**given, "content": "".join(map(str, texts))}
    said = "\n".join(text for text in texts if isinstance(text, str))
    return {**given, "content": said, PARTS: content}


PARTS = "content.parts"
"""Under this name parts are read; no message has a field of that name of its own."""
