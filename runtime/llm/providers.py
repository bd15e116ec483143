"""What the service asks of whatever answers: one request form, one answer form, one Protocol.

Requests and answers are OpenAI's chat completions. Errors are Seedbed's own; a provider turns what
it gets into one of

    InvalidError        the request is wrong (400)
    QueueFullError      too many wait (429)
    UnavailableError    no answer now (503)
    RefusedError        the provider said no for good, such as a wrong key (502)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seedbed.crds.errors import InvalidError, TerminalError

Json = dict[str, Any]


class RefusedError(TerminalError):
    """A provider refused for good.

    Attributes:
        model: the name under which the service serves it.
    """

    code = "provider_refused"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r}: {reason}")
        self.model = model


class ChatMessage(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A chat completion request: the part of OpenAI's form that every provider here honours.

    A field that is not here is refused rather than dropped, so that nobody relies on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    response_format: Json | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None

    def parameters(self) -> Json:
        """What a provider is asked, without model, streaming and what was not set."""
        left_out = {"model", "stream", "stream_options", "n", "user", "max_completion_tokens"}
        found = self.model_dump(mode="json", exclude=left_out, exclude_none=True)
        if limit := self.max_completion_tokens or self.max_tokens:
            found["max_tokens"] = limit
        return found


def parse_request(body: bytes) -> ChatRequest:
    """A request from JSON.

    Raises:
        InvalidError: naming the first field that is not as expected.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidError(where, first["msg"]) from error


class Provider(Protocol):
    """Something that answers chat completions. `name` is what callers ask for."""

    @property
    def name(self) -> str:
        """The name under which it is served."""
        ...

    @property
    def waiting(self) -> int:
        """Requests taken and not yet answered."""
        ...

    async def start(self) -> None:
        """Make it ready to answer; called once, before the first request."""
        ...

    async def complete(self, request: ChatRequest) -> Json:
        """The whole answer, in OpenAI's form."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """The answer in chunks; the last one carries the usage. Closing it ends the work."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...
