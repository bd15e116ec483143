"""What callers ask of models: OpenAI's chat completions, older completions and embeddings. Pure.

A field that nobody here honours is refused with its name rather than passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from seedbed.crds.errors import InvalidError
from seedbed.crds.invalid import invalid
from seedbed.runtime.llm.media import PARTS, Media, Part, media_of, taken_apart

Json = dict[str, Any]
_TEMPLATE_BYTES = 32
"""What a chat template puts around one message, at most; tokens have at least one byte each."""
_NOT_ASKED = {"model", "stream", "stream_options", "n", "user", "max_completion_tokens"}
_UNCOMMON = ("logprobs", "top_logprobs", "logit_bias")
_LONGEST_PLACE = 200
_BYTES_OF_A_TOKEN = 4
_Inputs = str | list[str] | list[int] | list[list[int]]
_MOST_TOKENS = 2**31
MOST_PROMPTS = 128
"""Of one request; each of them is a call of its own."""


def _sendable(value: Any) -> Any:
    """What can be written as JSON again: a number may have 64 bits at most, and nesting has an end."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return value


def _form_of_answer(value: Json) -> Json:
    if value.get("type") == "json_schema":
        held = value.get("json_schema")
        if not isinstance(held, dict):
            raise ValueError("json_schema must be an object")
        if not isinstance(held.get("schema", {}), dict):
            raise ValueError("json_schema.schema must be an object")
    return value


def _inputs(value: Any) -> Any:
    """One or several texts, or the token ids of one or several, as several."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and not isinstance(value[0], str | list):
        value = [value]
    if not isinstance(value, list | tuple) or len({type(each) for each in value}) > 1:
        raise ValueError("must be a text, the token ids of one, or a list of either")
    if not all(isinstance(each, str) or _is_tokens(each) for each in value):
        raise ValueError("token ids are whole numbers from 0, one at least")
    return value


def _prompts(value: Any) -> Any:
    """One or several prompts as several."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a text or a list of texts; token ids are not taken")
    return value


def _is_tokens(value: Any) -> bool:
    return bool(value) and all(type(each) is int and 0 <= each < _MOST_TOKENS for each in value)


def _else(default: object) -> BeforeValidator:
    """Some clients send null for what they do not set."""
    return BeforeValidator(lambda value: default if value is None else value)


Stream = Annotated[bool, _else(default=False)]
Answers = Annotated[int, Field(ge=1, le=128), _else(default=1)]
Sent = Annotated[Json, AfterValidator(_sendable)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Tokens = Annotated[int, Field(ge=1, le=16_000_000)]
"""Of an answer, at most; no model gives as many, and 128 of them are still a number of 31 bits."""


class ChatMessage(BaseModel):
    """One message of the conversation.

    Clients send answers back as they got them, so what a provider put beside the text stays there.
    Where pictures or sound stand among its parts, `content` is the text of the others.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    parts: tuple[Part, ...] | None = Field(default=None, alias=PARTS, exclude=True)
    name: str | None = None
    tool_calls: tuple[Sent, ...] | None = None
    tool_call_id: str | None = None
    # Sound and the older form of tools are not served; clients send them as null.
    audio: None = None
    function_call: None = None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """As callers write it: parts stand in `content`."""
        schema = handler.resolve_ref_schema(handler(core))
        parts = schema["properties"].pop(PARTS)
        content = schema["properties"]["content"]["anyOf"]
        content += [form for form in parts["anyOf"] if form not in content]
        return schema

    @model_validator(mode="before")
    @classmethod
    def _taken_apart(cls, given: Any) -> Any:
        return taken_apart(given)

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and not self.tool_calls and not (self.model_extra or {}):
            raise ValueError("a message has content or tool_calls")
        if self.model_extra:
            _sendable(self.model_extra)
        return self

    def said(self) -> str | list[Json] | None:
        """Its content as it was sent."""
        if self.parts is None:
            return self.content
        return [part.model_dump(mode="json", exclude_unset=True) for part in self.parts]

    def size(self) -> int:
        """Bytes that a model reads as text."""
        size = len((self.content or "").encode())
        for more in (self.tool_calls, self.model_extra):
            size += len(orjson.dumps(more)) if more else 0
        return size


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: Annotated[bool, _else(default=False)] = False


class ChatRequest(BaseModel):
    """A chat completion request: the part of OpenAI's form that providers here honour.

    A field that is not here goes to models whose entry names it, and is refused otherwise: dropped,
    somebody would rely on it; passed on, nobody would know what it costs.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Seed | None = None
    stop: str | tuple[str, ...] | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    response_format: Annotated[Sent, AfterValidator(_form_of_answer)] | None = None
    tools: tuple[Sent, ...] | None = Field(default=None, min_length=1)
    tool_choice: str | Sent | None = None
    parallel_tool_calls: bool | None = None
    stream: Stream = False
    stream_options: StreamOptions | None = None
    n: Answers = 1
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _can_be_sent(self) -> ChatRequest:
        if self.model_extra:
            _sendable(self.model_extra)
        return self

    @property
    def further(self) -> frozenset[str]:
        """Fields that the protocol does not have."""
        return frozenset(self.model_extra or ())

    def parameters(self) -> Json:
        """What a provider is asked, without model, streaming and what was not set."""
        found = self.model_dump(mode="json", exclude=_NOT_ASKED, exclude_none=True)
        for message, dumped in zip(self.messages, found["messages"], strict=True):
            if message.parts is not None:
                dumped["content"] = message.said()
        if limit := self.limit:
            found["max_tokens"] = limit
        if self.n > 1:
            found["n"] = self.n
        return found

    @property
    def uncommon(self) -> frozenset[str]:
        """Fields it sets that change the answer and that not every kind of provider knows."""
        several = {"n"} if self.n > 1 else set()
        return frozenset(several | {name for name in _UNCOMMON if getattr(self, name) is not None})

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have; None where the request does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def answer_schema(self) -> Json | None:
        """The JSON schema that the answer is to fit."""
        form = self.response_format or {}
        found = (form.get("json_schema") or {}).get("schema")
        return found if form.get("type") == "json_schema" and isinstance(found, dict) else None

    def media(self) -> Media:
        """Pictures and sound in it."""
        return media_of(self.messages)

    def prompt_bytes(self) -> int:
        """Bytes of all text that a model reads, with what a chat template adds."""
        size = 0
        for message in self.messages:
            size += _TEMPLATE_BYTES + message.size()
        for extra in (self.tools, self.response_format):
            size += len(orjson.dumps(extra)) if extra else 0
        return size


class CompletionRequest(BaseModel):
    """A request of the older form: prompts, and a text for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    prompt: Annotated[
        tuple[str, ...], BeforeValidator(_prompts, json_schema_input_type=str | list[str])
    ] = Field(min_length=1, max_length=MOST_PROMPTS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: Tokens | None = None
    seed: Seed | None = None
    stop: str | tuple[str, ...] | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    stream: Stream = False
    stream_options: StreamOptions | None = None
    n: Answers = 1
    user: str | None = None
    # What clients send to say that they do not want it.
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None

    def as_chats(self) -> tuple[ChatRequest, ...]:
        """Each prompt as a chat of one message, which every model here understands."""
        fields = self.model_dump(exclude={"prompt", "best_of", "echo"}, exclude_none=True)
        return tuple(
            ChatRequest(messages=(ChatMessage(role="user", content=prompt),), **fields)
            for prompt in self.prompt
        )


class EmbeddingRequest(BaseModel):
    """Asks for the vectors of texts, also of those that the caller has cut into token ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    input: Annotated[
        tuple[str, ...] | tuple[tuple[int, ...], ...],
        BeforeValidator(_inputs, json_schema_input_type=_Inputs),
    ] = Field(min_length=1, max_length=2048)
    dimensions: int | None = Field(default=None, ge=1, le=1_000_000)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The inputs that are texts: all or none."""
        return tuple(each for each in self.input if isinstance(each, str))

    @property
    def tokens(self) -> int | None:
        """How many token ids there are; None where the inputs are texts."""
        return None if self.texts else sum(len(each) for each in self.input)

    def prompt_bytes(self) -> int:
        """Bytes of all texts; those that token ids stand for, about."""
        usual = _BYTES_OF_A_TOKEN * (self.tokens or 0)
        return usual + sum(len(text.encode()) + 1 for text in self.texts)


class Outcome(BaseModel):
    """Whether an answer was good; task and hardness are told with the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]*$")
    model: str
    hardness: int = Field(ge=0, le=4)
    good: float = Field(ge=0, le=1)
    marks: str | None = Field(default=None, max_length=256)


_Form = TypeVar("_Form", bound=BaseModel)


def parse(form: type[_Form], body: bytes) -> _Form:
    """A request from JSON.

    Raises:
        InvalidError: naming the first field that is not as expected.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        found = invalid(error)
        field = found.field.replace(PARTS, "content")
        raise InvalidError(field[:_LONGEST_PLACE], found.expected) from error
