"""The models file: which models the service serves, under which names, from where.

    default: careful
    models:
      - {name: smollm2, provider: local}
      - {name: careful, provider: openai, model: gpt-4o-mini, apiKeyEnv: OPENAI_KEY}
      - {name: other, provider: litellm, model: anthropic/claude-haiku-4-5, apiKeyEnv: OTHER_KEY}

The order counts: where a model cannot answer, the ones behind it are asked, then the ones before it.
With `default: auto` whoever asks for `default` is routed, without a change on the caller's side.

Keys never stand in it: `apiKeyEnv` names an environment variable, which in a cluster comes from a
Secret. Without a file there is one local model, `smollm2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from seedbed.crds.base import Model, Name
from seedbed.crds.budget import Budget
from seedbed.crds.errors import InvalidError
from seedbed.crds.invalid import invalid
from seedbed.crds.money import AMOUNT_PATTERN
from seedbed.runtime.llm.batch.offline.settings import Offline
from seedbed.runtime.llm.batch.prompt_form import PromptForm
from seedbed.runtime.llm.batch.settings import Batching
from seedbed.runtime.llm.budget.settings import LedgerSettings
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.llm.prices import (
    BATCH_FACTOR,
    IMAGE_TOKENS,
    Known,
    Price,
    image_tokens,
    known,
)
from seedbed.runtime.llm.prompts.settings import Prompts

Capability = Literal["streaming", "structured", "tools", "embeddings", "vision", "audio"]
LOCAL_CONTEXT = 4096
LOCAL_ANSWER = 1024
UNKNOWN_CONTEXT = 32_768
UNKNOWN_ANSWER = 4096

AUTO = "auto"
"""The name that leaves the choice of the model to the service, where no model has it."""
DEFAULT = "default"
"""The name that always means the file's default model."""


FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class ModelPrice(Model):
    """Dollars for a million tokens, as text so that nothing is rounded."""

    prompt: str = Field(pattern=AMOUNT_PATTERN, description="Of what is asked.")
    completion: str = Field(pattern=AMOUNT_PATTERN, description="Of what is answered.")
    cached_prompt: str | None = Field(
        default=None,
        pattern=AMOUNT_PATTERN,
        description="Of what is asked and the provider had kept from a request before.",
    )
    audio_prompt: str | None = Field(
        default=None, pattern=AMOUNT_PATTERN, description="Of what is asked as sound."
    )


class ModelQuota(Model):
    """A provider's rate limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


class ModelBreaker(Model):
    """When a model that fails is left alone, and for how long."""

    share: float = Field(default=0.5, gt=0, le=1, description="Of calls that failed.")
    window_seconds: float = Field(default=10.0, gt=0, le=3600)
    minimum_calls: int = Field(default=5, ge=1, le=10_000)
    rest_seconds: float = Field(default=30.0, gt=0, le=3600)


class ModelEntry(Model):
    """One model."""

    name: str = Field(min_length=1, max_length=128, description="What callers ask for.")
    provider: Literal["local", "minilm", "openai", "litellm"] = Field(
        default="local",
        description=(
            "In this process: a chat model (`local`) or embeddings (`minilm`); over HTTP by OpenAI's "
            "protocol; or any provider LiteLLM knows."
        ),
    )
    model: str = Field(
        default="smollm2",
        min_length=1,
        description=(
            "local: `smollm2` or the path of a GGUF file. openai: the provider's name for it. "
            "litellm: `provider/model`."
        ),
    )
    api_base: str | None = Field(default=None, description="Address, where not the provider's own.")
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the key."
    )
    threads: int = Field(
        default=1, ge=1, le=256, description="local, minilm: threads that compute."
    )
    parallel: int = Field(
        default=1, ge=1, le=64, description="local: requests that are computed at the same time."
    )
    context_length: int | None = Field(
        default=None,
        ge=256,
        le=10_000_000,
        description="Tokens of prompt and answer; local: 4096 where not given.",
    )
    queue_limit: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="local, minilm: requests that may wait; more are refused.",
    )
    longest_answer: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Tokens, where a request sets no limit."
    )
    capabilities: tuple[Capability, ...] | None = Field(
        default=None, description="What it can do, where the price table does not know."
    )
    price: ModelPrice | None = Field(
        default=None, description="Where not the table's; a local model costs nothing."
    )
    bytes_per_token: int = Field(
        default=1,
        ge=1,
        le=16,
        description="For the worst case of a prompt's price: no token has fewer bytes than this.",
    )
    image_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Likewise: no picture is more tokens; 5000 where neither given nor known.",
    )
    audio_tokens_per_second: int = Field(
        default=32, ge=1, le=10_000, description="Likewise: no second of sound is more tokens."
    )
    quota: ModelQuota = ModelQuota()
    breaker: ModelBreaker = ModelBreaker()
    retries: int = Field(
        default=2, ge=0, le=5, description="Times that a failed call is sent to it again."
    )
    timeout_seconds: float = Field(
        default=600.0, gt=0, le=3600, description="Longest wait for one answer."
    )
    quality: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of its answers that are good, before anything has been learnt.",
    )
    batch: Literal["off", "prompts"] = Field(
        default="off",
        description=(
            "openai: `prompts` where it takes lists of prompts (`/completions`), as vLLM does; chats "
            "that go together are sent so."
        ),
    )
    batch_api: bool = Field(
        default=False,
        description=(
            "openai: it has OpenAI's batch API (`/files`, `/batches`), and lines of batches may go "
            "there: for a share of the price, within 24 hours."
        ),
    )
    batch_factor: Decimal | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the price that such lines cost, where not the table's; else 0.5.",
    )
    prompt_form: PromptForm = Field(
        default="plain",
        description=(
            "Template that chats are put into where prompts are sent; `plain` is for single texts."
        ),
    )
    prompt_cache: Literal["automatic", "key", "marks"] = Field(
        default="automatic",
        description=(
            "How the provider finds prompts that begin alike: by itself; openai: helped by a key "
            "(`prompt_cache_key`); litellm: by marks behind the instructions, as Anthropic wants them."
        ),
    )
    failover: bool = Field(
        default=True, description="Whether others answer where it cannot, and it for others."
    )
    passes: tuple[FieldName, ...] = Field(
        default=(),
        max_length=64,
        description=(
            "openai: further fields of a chat's request that it takes, such as `top_k`. What they "
            "cost more is for who lists them: no budget reckons with it."
        ),
    )
    namespaces: tuple[Name, ...] | None = Field(
        default=None,
        max_length=1000,
        description="Whose callers it is there for; everybody's where not given.",
    )

    @model_validator(mode="after")
    def _can_batch(self) -> ModelEntry:
        if self.batch == "prompts" and self.provider != "openai":
            raise ValueError("batch: prompts needs provider: openai")
        if self.passes and self.provider != "openai":
            raise ValueError("passes needs provider: openai")
        if self.batch_api and self.provider != "openai":
            raise ValueError("batchApi needs provider: openai")
        fits = {"automatic": self.provider, "key": "openai", "marks": "litellm"}
        if fits[self.prompt_cache] != self.provider:
            raise ValueError(f"promptCache: {self.prompt_cache} is not for {self.provider}")
        return self

    def serves(self, namespace: str) -> bool:
        """Whether it is there for a namespace's callers."""
        return self.namespaces is None or namespace in self.namespaces

    def facts(self) -> ModelFacts:
        """What holds of it, from this entry and else from the table."""
        able: frozenset[Capability]
        table = Known()
        if self.provider in ("local", "minilm"):
            price: Price | None = Price()
            context, longest = self.context_length or LOCAL_CONTEXT, LOCAL_ANSWER
            chats: frozenset[Capability] = frozenset({"streaming", "structured"})
            able = chats if self.provider == "local" else frozenset({"embeddings"})
        else:
            table = known(self.model)
            price = table.price
            context = self.context_length or table.context or UNKNOWN_CONTEXT
            longest = table.longest_answer or UNKNOWN_ANSWER
            able = frozenset({"streaming", "structured", "tools", *table.senses})
            if table.tools is False:
                able -= {"tools"}
            if table.structured is False:
                able -= {"structured"}
        if self.price is not None:
            given = self.price
            price = Price.per_million(
                given.prompt, given.completion, given.cached_prompt, audio=given.audio_prompt
            )
        return ModelFacts(
            price,
            context,
            min(self.longest_answer or longest, context),
            able if self.capabilities is None else frozenset(self.capabilities),
            self.provider != "local",
            self.provider != "minilm",
            self._batch_price(price, table.batch),
            self.image_tokens or image_tokens(self.model),
            frozenset(self.passes),
        )

    def _batch_price(self, price: Price | None, told: Price | None) -> Price | None:
        """What a line of a batch costs, where the price is this and the table tells so."""
        if self.price is None and self.batch_factor is None and told is not None:
            return told
        factor = BATCH_FACTOR if self.batch_factor is None else self.batch_factor
        return None if price is None else price.times(factor)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What holds of a model.

    Attributes:
        price: None where nobody knows it; such a model takes no call that a budget pays.
        context: tokens of prompt and answer together.
        longest_answer: tokens of an answer to a request that sets no limit.
        chats: whether it answers chats at all.
        batch_price: of a line of the provider's batch.
        image_tokens: that a picture is at most.
        passes: fields beside those of the protocol that it takes.
        whole_form: whether it knows `n`, `logprobs` and what else few requests have.
    """

    price: Price | None
    context: int
    longest_answer: int
    able: frozenset[Capability]
    whole_form: bool = True
    chats: bool = True
    batch_price: Price | None = None
    image_tokens: int = IMAGE_TOKENS
    passes: frozenset[str] = frozenset()


class WhenShort(Model):
    """What `auto` asks of answers once a budget that pays has all but run out."""

    floor: float = Field(default=0.0, ge=0, le=1, description="In place of `floor`.")
    loss: float = Field(default=0.0, ge=0, le=1, description="In place of `loss`.")


class Routing(Model):
    """How `auto` chooses among the models."""

    floor: float = Field(
        default=0.8, ge=0, le=1, description="Quality that answers are to have, as a share of good."
    )
    loss: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Quality that may be missed against the best model, whatever the floor.",
    )
    when_short: WhenShort | None = Field(
        default=None,
        description=(
            "From a budget's `alertAt` on, floor and loss move to these, and are there at `haltAt`."
        ),
    )
    explore: float = Field(
        default=0.02, ge=0, le=0.5, description="Share of requests that may try out a model."
    )
    cascade: bool = Field(
        default=False, description="Ask the cheap model, judge its answer, escalate where unsure."
    )
    confidence: float = Field(default=0.8, ge=0, le=1, description="Below it a cascade escalates.")


class Models(Model):
    """All models, and which of them answers to `default`."""

    models: tuple[ModelEntry, ...] = Field(min_length=1)
    default: str
    routing: Routing = Routing()
    batching: Batching = Batching()
    offline: Offline = Offline()
    prompts: Prompts = Prompts()
    cache: CacheSettings = CacheSettings()
    ledger: LedgerSettings = LedgerSettings()
    budgets: dict[str, Budget] = Field(
        default_factory=dict, description="By namespace; `*` is for each that is not named."
    )

    @property
    def first(self) -> str:
        """The model that stands for `default`; with `auto` there, the first of the file."""
        named = any(entry.name == self.default for entry in self.models)
        return self.default if named else self.models[0].name

    @model_validator(mode="after")
    def _names_fit(self) -> Models:
        names = [entry.name for entry in self.models]
        if len(set(names)) != len(names):
            raise ValueError("each name may stand once")
        if self.default not in (*names, AUTO):
            raise ValueError(f"default {self.default!r} is none of {', '.join(names)}")
        if DEFAULT in names and self.default != DEFAULT:
            raise ValueError(f"a model named {DEFAULT!r} has to be the default")
        return self


def built_in() -> Models:
    """What is served without a models file."""
    return Models(models=(ModelEntry(name="smollm2"),), default="smollm2")


def load(path: Path | None) -> Models:
    """The models file, or what is built in where there is none.

    Raises:
        InvalidError: naming the file and its first wrong field.
    """
    if path is None:
        return built_in()
    try:
        return Models.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        found = invalid(error, whole="")
        raise InvalidError(f"{path}: {found.field}".rstrip(": "), found.expected) from error
    except (OSError, yaml.YAMLError) as error:
        raise InvalidError(str(path), f"cannot be read as YAML: {error}") from error
