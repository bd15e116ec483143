"""What the service asks of whatever answers: one request form, one answer form, one Protocol.

Requests and answers are OpenAI's chat completions and embeddings. Errors are Seedbed's own; a
provider turns what it gets into one of

    InvalidError            the request is wrong (400)
    QueueFullError          too many wait here (429)
    UnavailableError        no answer now (503)
    ├── RateLimitedError    the provider says: too many (429)
    └── MalformedError      what came is no answer (502)
    RefusedError            the provider said no for good, such as a wrong key (502)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from seedbed.crds.errors import TerminalError, UnavailableError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json


class RefusedError(TerminalError):
    """A provider refused for good.

    Attributes:
        model: the name under which the service serves it.
    """

    code = "provider_refused"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r}: {reason}")
        self.model = model


class RateLimitedError(UnavailableError):
    """A provider takes no more for now.

    Attributes:
        model: the name under which the service serves it.
    """

    code = "rate_limited"

    def __init__(self, model: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(f"model {model!r}: {reason}", retry_after)
        self.model = model


class MalformedError(UnavailableError):
    """A provider's answer is none, or breaks off.

    Attributes:
        model: the name under which the service serves it.
    """

    code = "provider_malformed"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r}: {reason}")
        self.model = model


class Provider(Protocol):
    """Something that answers. `name` is what callers ask for."""

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

    async def embed(self, request: EmbeddingRequest) -> Json:
        """The vectors, in OpenAI's form."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...
