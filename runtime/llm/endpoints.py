"""What callers may ask: each endpoint's path, how its request is read, and the form of its answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.answers import TextChoice
from seedbed.runtime.llm.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Json,
    parse,
)

Request = ChatRequest | EmbeddingRequest
Form = Callable[[Json], Json]
"""Turns a chat completion, or a chunk of one, into what the page answers."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of them.

    Attributes:
        read_all: the requests in a body, several where it holds several prompts. Raises InvalidError,
            naming the field.
    """

    path: str
    read_all: Callable[[bytes], tuple[Request, ...]]
    form: Form

    def read(self, body: bytes) -> Request:
        """The only request in a body.

        Raises:
            InvalidError: naming the field.
        """
        first, *more = self.read_all(body)
        if more:
            raise InvalidError("prompt", "must be one text here, not several")
        return first


def _parse_chat(body: bytes) -> tuple[Request, ...]:
    return (parse(ChatRequest, body),)


def _parse_completion(body: bytes) -> tuple[Request, ...]:
    return parse(CompletionRequest, body).as_chats()


def _parse_embedding(body: bytes) -> tuple[Request, ...]:
    return (parse(EmbeddingRequest, body),)


def _as_it_is(body: Json) -> Json:
    return body


def _as_text(body: Json) -> Json:
    """A chat completion, or a chunk of one, in the older form."""
    choices: list[TextChoice] = [
        {
            "index": choice.get("index", at),
            "text": (choice.get("message") or choice.get("delta") or {}).get("content") or "",
            "finish_reason": choice.get("finish_reason"),
            "logprobs": None,
        }
        for at, choice in enumerate(body.get("choices") or ())
    ]
    return {**body, "object": "text_completion", "choices": choices}


CHAT = Endpoint("/v1/chat/completions", _parse_chat, _as_it_is)
COMPLETIONS = Endpoint("/v1/completions", _parse_completion, _as_text)
EMBEDDINGS = Endpoint("/v1/embeddings", _parse_embedding, _as_it_is)
ENDPOINTS: Mapping[str, Endpoint] = {each.path: each for each in (CHAT, COMPLETIONS, EMBEDDINGS)}
