"""Forms of what the service answers; of what comes from providers, the part that all of them give."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class AttemptTold(TypedDict):
    """A model that was asked, and what became of it."""

    model: str
    outcome: str


class Account(TypedDict):
    """How an answer came about; beside these stand notes such as `cache`, all of them texts."""

    model: str
    cost_dollars: str
    cost_estimated: bool
    attempts: list[AttemptTold]


class Usage(TypedDict):
    """Tokens, with details where a provider tells them."""

    prompt_tokens: int
    completion_tokens: NotRequired[int]
    total_tokens: NotRequired[int]


class Answer(TypedDict):
    """What all answers of models have in common."""

    id: NotRequired[str]
    object: NotRequired[str]
    created: NotRequired[int]
    model: NotRequired[str]
    usage: NotRequired[Usage | None]
    seedbed: Account


class ChatChoice(TypedDict):
    """One of a chat's answers, in OpenAI's form."""

    index: NotRequired[int]
    message: dict[str, Any]
    finish_reason: NotRequired[str | None]


class ChatAnswer(Answer):
    """A chat completion."""

    choices: list[ChatChoice]


class TextChoice(TypedDict):
    """A text for one of the prompts."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: None


class TextAnswer(Answer):
    """An answer of the older form."""

    choices: list[TextChoice]


class Vector(TypedDict):
    """Of one text; as numbers, or as their bytes in base64."""

    object: NotRequired[str]
    index: int
    embedding: list[float] | str


class VectorAnswer(Answer):
    """Vectors of texts."""

    data: list[Vector]


class ModelTold(TypedDict):
    """A model that callers may ask for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsTold(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[ModelTold]


class PatternTold(TypedDict):
    """What prompts have in common."""

    pattern: str
    prompts: int
    constant_share: float
    text: str


class PatternsTold(TypedDict):
    """The most frequent first."""

    patterns: list[PatternTold]
